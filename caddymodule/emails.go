package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	// defaultEmails and maxEmails are how many messages a list has.
	defaultEmails = 20
	maxEmails     = 100
	// maxSmallBody is the most that a request has which sends no message.
	maxSmallBody = 64 << 10
)

// ownOutbox opens the outbox for a call about messages that were sent before.
func (h *Handler) ownOutbox() (box *outbox.Outbox, release func(), err error) {
	if h.app.engine == nil {
		return nil, nil, refuse(http.StatusNotFound, nameNotFound, "no_outbox",
			"This server keeps no outbox (`outbox off`), and so remembers no messages. Its log tells what became of them.")
	}
	if box, release, err = h.app.useOutbox(); err != nil {
		h.logger.Error("the outbox cannot be opened", "error", err)
		return nil, nil, unreadableOutbox()
	}
	return box, release, nil
}

func unreadableOutbox() error {
	p := refuse(http.StatusServiceUnavailable, nameApplication, outbox.CodeUnavailable,
		"This server cannot read its outbox now; its log says why. Try again later.")
	p.retryAfter = 30 * time.Second
	return p
}

// ownEmail opens the outbox for a call about one message of the caller.
func (h *Handler) ownEmail(r *http.Request, c caller) (box *outbox.Outbox, m *outbox.Message, release func(), err error) {
	if box, release, err = h.ownOutbox(); err != nil {
		return nil, nil, nil, err
	}
	if m, err = c.own(r.Context(), box, c.id); err != nil {
		release()
		return nil, nil, nil, err
	}
	return box, m, release, nil
}

// own finds a message of the caller. Those of others are not there for it.
func (c caller) own(ctx context.Context, box *outbox.Outbox, id string) (*outbox.Message, error) {
	none := refuse(http.StatusNotFound, nameNotFound, "no_such_message",
		"There is no message with this id that was sent with this API key, or not any more.")
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, none
	}
	m, err := box.Engine().Get(ctx, parsed.String())
	switch {
	case errors.Is(err, outbox.ErrNotFound):
		return nil, none
	case err != nil:
		return nil, err
	case !c.sent(m):
		return nil, none
	}
	return m, nil
}

// sent reports whether a message is the caller's, and of the tenant that the request
// names, if it names one.
func (c caller) sent(m *outbox.Message) bool {
	return m.Caller.Kind == callerKey && m.Caller.Name == c.key.name && (!c.within || m.Tenant == c.tenant.name)
}

// filter selects the messages for which sent is true.
func (c caller) filter() outbox.Filter {
	f := outbox.Filter{CallerKind: callerKey, CallerName: c.key.name}
	if c.within {
		f.Tenant = c.tenant.name
	}
	return f
}

// listEmails lists the messages of the caller, the newest first.
func (h *Handler) listEmails(w http.ResponseWriter, r *http.Request, c caller) error {
	f := c.filter()
	limit, err := readPage(r.URL.Query(), &f)
	if err != nil {
		return err
	}
	box, release, err := h.ownOutbox()
	if err != nil {
		return err
	}
	defer release()
	list, more, err := collect(r.Context(), box.Engine(), f, limit)
	if err != nil {
		return err
	}
	v := emailList{Object: "list", HasMore: more, Data: make([]emailItem, len(list))}
	for i, m := range list {
		v.Data[i] = newEmailItem(m)
	}
	writeJSON(w, "application/json", http.StatusOK, v)
	return nil
}

// readPage reads which part of a list is wanted.
func readPage(q url.Values, f *outbox.Filter) (limit int, err error) {
	for _, cursor := range []struct {
		name string
		to   *string
	}{{"after", &f.Before}, {"before", &f.After}} { // to people, after a message are older ones
		if !q.Has(cursor.name) {
			continue
		}
		id, err := uuid.Parse(q.Get(cursor.name))
		if err != nil {
			return 0, invalid(cursor.name, "bad_cursor", "it must be the id of a message")
		}
		*cursor.to = id.String()
	}
	if f.Before != "" && f.After != "" {
		return 0, invalid("before", "bad_cursor", "before and after cannot both be given")
	}
	if !q.Has("limit") {
		return defaultEmails, nil
	}
	if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 || limit > maxEmails {
		return 0, invalid("limit", "bad_limit", "it must be a number from 1 to %d", maxEmails)
	}
	return limit, nil
}

// collect reads as many messages as a list has, the newest first, and whether there
// are more in its direction.
func collect(ctx context.Context, e outbox.Engine, f outbox.Filter, limit int) (list []*outbox.Message, more bool, err error) {
	newer := f.After != ""
	for f.Limit = limit + 1; len(list) <= limit; {
		page, err := e.List(ctx, f)
		if err != nil {
			return nil, false, err
		}
		if newer {
			list, f.After = append(page.Messages, list...), page.Next
		} else {
			list, f.Before = append(list, page.Messages...), page.Next
		}
		if page.Next == "" {
			break
		}
	}
	n := len(list)
	switch {
	case n <= limit:
		return list, false, nil
	case newer:
		return list[n-limit:], true, nil
	}
	return list[:limit], true, nil
}

// getEmail shows one message.
func (h *Handler) getEmail(w http.ResponseWriter, r *http.Request, c caller) error {
	return h.showEmail(w, r, c, func(m *outbox.Message) any { return newEmail(m, languageOf(r)) })
}

// listAttachments shows the attachments of one message: names and sizes.
func (h *Handler) listAttachments(w http.ResponseWriter, r *http.Request, c caller) error {
	return h.showEmail(w, r, c, func(m *outbox.Message) any { return newAttachmentList(m) })
}

func (h *Handler) showEmail(w http.ResponseWriter, r *http.Request, c caller, view func(*outbox.Message) any) error {
	_, m, release, err := h.ownEmail(r, c)
	if err != nil {
		return err
	}
	defer release()
	writeJSON(w, "application/json", http.StatusOK, view(m))
	return nil
}

// emailChanged is the answer to a change of a message.
type emailChanged struct {
	Object string `json:"object"`
	ID     string `json:"id"`
}

// cancelEmail gives up a message that waits.
func (h *Handler) cancelEmail(w http.ResponseWriter, r *http.Request, c caller) error {
	return h.changeEmail(w, r, c, "cancel", func(box *outbox.Outbox, id string) error {
		return box.Cancel(r.Context(), id, callerKey+" "+c.key.name)
	})
}

// moveEmail sets another time for a message that waits.
func (h *Handler) moveEmail(w http.ResponseWriter, r *http.Request, c caller) error {
	if media, _ := mediaType(r.Header); media != typeJSON {
		return refuse(http.StatusUnsupportedMediaType, nameValidation, "media_type",
			"The body must be JSON, with the header Content-Type: application/json.")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return refuse(http.StatusUnsupportedMediaType, nameValidation, "content_encoding", "The body of this call must not be compressed.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSmallBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large", "The request is too large; it may have 64 KiB.")
	}
	if err != nil {
		return unreadable(err)
	}
	at, named, err := parseMove(body)
	if err != nil {
		return err
	}
	return h.changeEmail(w, r, c, "reschedule", func(box *outbox.Outbox, id string) error {
		if named != "" && named != id {
			return invalid("id", "other_message", "it is not that of the path")
		}
		return box.Reschedule(r.Context(), id, at)
	})
}

// changeEmail changes a message that waits to be sent. What may have been sent is left
// to the operator.
func (h *Handler) changeEmail(w http.ResponseWriter, r *http.Request, c caller, what string, do func(box *outbox.Outbox, id string) error) error {
	box, m, release, err := h.ownEmail(r, c)
	if err != nil {
		return err
	}
	defer release()
	if m.State == outbox.StateHeld {
		return wrongState("It may have been sent, and its operator must find out.")
	}
	switch err = do(box, m.ID); {
	case errors.Is(err, outbox.ErrNotFound):
		_, err = c.own(r.Context(), box, c.id)
	case errors.Is(err, outbox.ErrSending):
		return wrongState("It is being sent at this moment.")
	case errors.Is(err, outbox.ErrState):
		now, _ := box.Engine().Get(r.Context(), m.ID)
		if now == nil {
			now = m
		}
		return wrongState("It is " + string(now.State) + ".")
	}
	if err != nil {
		return err
	}
	h.logger.Info("a caller has changed a message in the outbox", "operation", what, "id", m.ID, "request_id", requestID(r), "tenant", m.Tenant, "caller", m.Caller.String())
	if what == "cancel" {
		h.app.count(m.Tenant, resultCanceled, false)
	}
	writeJSON(w, "application/json", http.StatusOK, emailChanged{"email", m.ID})
	return nil
}

// wrongState refuses to change a message that does not wait to be sent.
func wrongState(why string) error {
	return refuse(http.StatusUnprocessableEntity, nameValidation, "wrong_state",
		"Only a message that is scheduled or queued can be changed. "+why)
}
