package caddymodule

import (
	"net/http"
	"slices"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	// maxBatch is how many messages one request may have.
	maxBatch = 100
	// maxDirectBatch is how many without an outbox: the caller waits for all of them,
	// and mailboxes take few messages a minute.
	maxDirectBatch = 10
	// batchWorkers is how many messages of a batch are accepted at a time. The outbox
	// flushes those together.
	batchWorkers = 16
)

// item is one message of a batch.
type item struct {
	index      int
	request    *emailRequest
	submission mailer.Submission
	// answer is there when it was accepted, problem when it was not. Replayed is set
	// where that was an earlier request.
	answer   *sent
	replayed bool
	tried    bool
	problem  *problem
}

// batchSent is the answer to a batch: what was accepted, in its order.
type batchSent struct {
	Data []sent `json:"data"`
	// Errors are of the others; nil where all messages must be good.
	Errors   []batchError `json:"errors,omitzero"`
	Warnings []string     `json:"warnings,omitempty"`
}

// batchError is why a message of a batch was not accepted.
type batchError struct {
	Index      int        `json:"index"`
	StatusCode int        `json:"status"`
	Name       string     `json:"name"`
	Message    string     `json:"message"`
	DetailCode string     `json:"detail_code,omitempty"`
	Pointer    string     `json:"pointer,omitempty"`
	SMTP       *smtpReply `json:"smtp,omitempty"`
	ID         string     `json:"id,omitempty"`
	MessageID  string     `json:"message_id,omitempty"`
}

func newBatchError(i int, p *problem) batchError {
	e := batchError{
		Index: i, StatusCode: p.status, Name: p.name, Message: p.message, DetailCode: p.code,
		SMTP: p.smtp, ID: p.id, MessageID: p.messageID,
	}
	if p.field != "" {
		e.Pointer = pointer(p.field)
	}
	return e
}

// postBatch sends up to a hundred messages. All of them are read and checked before
// the first is accepted; none is waited for, unless there is no outbox.
func (h *Handler) postBatch(w http.ResponseWriter, r *http.Request, c caller) error {
	if media, _ := mediaType(r.Header); slices.Contains(lineTypes, media) {
		return h.postLines(w, r, c)
	}
	permissive, err := isPermissive(r.Header)
	if err != nil {
		return err
	}
	in, err := h.receive(w, r, batchTypes)
	if err != nil {
		return err
	}
	defer in.close()
	b := &batch{h: h, r: r, c: c, prefer: readPreferences(r.Header), permissive: permissive}
	defer b.close()
	if err := b.read(in); err != nil {
		return in.refused(err)
	}
	if err := b.makeIdempotent(); err != nil {
		return err
	}
	if err := c.spend(w.Header(), b.good()); err != nil {
		return err
	}
	b.send()
	return b.answer(w)
}

// close gives back what was not sent.
func (b *batch) close() {
	for _, i := range b.items {
		i.close()
	}
}

// close gives back what is kept of the message.
func (i *item) close() {
	if i.request != nil {
		i.request.close()
	}
}
