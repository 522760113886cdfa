package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
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

// isPermissive reports whether the good messages of a batch go when others are bad.
func isPermissive(h http.Header) (bool, error) {
	switch v := strings.ToLower(h.Get("X-Batch-Validation")); v {
	case "", "strict":
		return false, nil
	case "permissive":
		return true, nil
	default:
		return false, refuse(http.StatusUnprocessableEntity, nameValidation, "bad_header",
			"The header x-batch-validation must be strict or permissive.")
	}
}

// batch is a request with several messages.
type batch struct {
	h          *Handler
	r          *http.Request
	c          caller
	prefer     preferences
	permissive bool
	items      []*item
	warnings   []string
}

// read reads and checks the messages. The error is about the whole request.
func (b *batch) read(in *incoming) error {
	outbox := b.h.app.mailer.Outbox != nil
	e := newEmailReader(in.body, in.room, outbox)
	defer e.giveBack()
	if err := e.enter('['); err != nil {
		return err
	}
	e.root = len(e.path)
	for {
		more, err := e.item(len(b.items))
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if len(b.items) == maxBatch {
			return invalid("", "too_many", "a batch has %d messages at most", maxBatch)
		}
		i := &item{index: len(b.items)}
		b.items = append(b.items, i)
		if e.peek() == '{' {
			i.request, err = e.email()
		} else if err = e.skip(); err == nil {
			err = badJSON("", "must be an object")
		}
		dead := e.dead || e.err != nil && e.err != io.EOF
		if err == nil {
			i.submission, err = b.h.prepare(b.r, b.c, i.request)
		}
		if err == nil {
			i.submission.Options.Async = outbox
			err = b.h.app.mailer.Check(i.submission)
		}
		if err == nil {
			continue
		}
		i.problem = toProblem(err)
		if !b.permissive || dead {
			return inBatch(i.index, i.problem)
		}
		i.close()
		if err := e.leave(e.root); err != nil {
			return inBatch(i.index, toProblem(err))
		}
		e.path = e.path[:e.root]
	}
	e.root = 0
	if err := e.finish(); err != nil {
		return err
	}
	switch n := len(b.items); {
	case n == 0:
		return invalid("", "too_few", "a batch has one message at least")
	case n > maxDirectBatch && !outbox:
		return invalid("", "too_many", "there are %d messages; without an outbox, which is off on this server, a batch may have %d, for its caller has to wait for them all", n, maxDirectBatch)
	}
	return nil
}

// good is how many messages are to be sent.
func (b *batch) good() int {
	n := 0
	for _, i := range b.items {
		if i.problem == nil && !i.request.dryRun {
			n++
		}
	}
	return n
}

// inBatch tells of a problem which message of a batch it is about.
func inBatch(index int, p *problem) *problem {
	q := *p
	q.message = fmt.Sprintf("The message at index %d: %s", index, p.message)
	q.field = join(strconv.Itoa(index), p.field)
	if p.field == "" {
		q.field = strconv.Itoa(index)
	}
	return &q
}

// makeIdempotent makes a batch with a key count once. Its messages have a key each,
// so that a request which was cut short is brought to its end by a repetition; and
// one fingerprint of all, so that no other batch has part in it.
func (b *batch) makeIdempotent() error {
	key, err := idempotencyKey(b.r.Header)
	if err != nil || key == "" {
		return err
	}
	if b.h.app.mailer.Outbox == nil {
		b.warnings = append(b.warnings, noIdempotency)
		return nil
	}
	var all [][]byte
	for _, i := range b.items {
		one := []byte{}
		if i.problem == nil {
			if one, err = i.request.fingerprint(i.submission.Tenant); err != nil {
				return err
			}
		}
		all = append(all, one)
	}
	for _, i := range b.items {
		print := digest("POST /emails/batch", i.index, all)
		i.submission.Options.Fingerprint = print[:]
		i.submission.Options.IdempotencyKey = "POST /emails/batch " + strconv.Itoa(i.index) + " " + key
	}
	return nil
}

// send has the good messages accepted, or sent where there is no outbox.
func (b *batch) send() {
	var group sync.WaitGroup
	turns := make(chan struct{}, batchWorkers)
	ctx := b.r.Context()
	if b.h.app.mailer.Outbox == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sendTimeout)
		defer cancel()
	}
	for _, i := range b.items {
		if i.problem != nil {
			continue
		}
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			i.send(ctx, b.h, languageOf(b.r))
		})
	}
	group.Wait()
}

// send sends one message.
func (i *item) send(ctx context.Context, h *Handler, l diagnosis.Language) {
	defer i.request.close()
	if i.request.dryRun {
		answer := newDryRun(i.submission, i.request)
		i.answer = &answer
		return
	}
	i.tried = true
	defer func() {
		if p := recover(); p != nil { // as the server does for the goroutine of a request
			h.logger.Error("a message of a batch failed in this server", "id", i.submission.ID, "error", p)
			i.problem = toProblem(fmt.Errorf("panic: %v", p))
		}
	}()
	receipt, err := h.app.mailer.Send(ctx, i.submission)
	i.request.message, i.submission.Content = nil, nil // it is not needed any more
	i.replayed = receipt.Replayed
	if err == nil {
		answer := newSent(receipt, i.request, l)
		i.answer = &answer
		return
	}
	if receipt.Replayed { // it was accepted then, and that is what a batch tells
		i.answer = &sent{ID: receipt.ID, MessageID: receipt.MessageID, Status: "failed"}
		return
	}
	i.problem = toProblem(err)
	if i.problem.status != http.StatusConflict {
		i.problem.id, i.problem.messageID = i.submission.ID, i.submission.MessageID
	}
}

// answer writes what became of the batch.
func (b *batch) answer(w http.ResponseWriter) error {
	v := batchSent{Data: []sent{}, Warnings: b.warnings}
	if b.permissive {
		v.Errors = []batchError{}
	}
	var first *item // that was not accepted by the outbox, or the mail server
	for _, i := range b.items {
		switch {
		case i.answer != nil:
			v.Data = append(v.Data, *i.answer)
		default:
			if b.permissive {
				v.Errors = append(v.Errors, newBatchError(i.index, i.problem))
			}
			if first == nil && i.tried {
				first = i
			}
		}
	}
	if first != nil && (!b.permissive || len(v.Data) == 0) {
		p := inBatch(first.index, first.problem)
		if n := len(v.Data); n > 0 {
			p.message += fmt.Sprintf(" %d of the %d messages were accepted all the same, as `accepted` tells; repeat the request with the same Idempotency-Key to have the others sent, too.", n, len(b.items))
			if b.h.app.mailer.Outbox == nil {
				p.message = strings.Replace(p.message, "repeat the request with the same Idempotency-Key to have the others sent, too", "send only the others again", 1)
			}
			p.accepted = v.Data
		}
		return p
	}
	if !slices.ContainsFunc(b.items, func(i *item) bool { return !i.replayed }) {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	status := http.StatusOK
	if b.prefer.respondAsync && b.h.app.mailer.Outbox != nil {
		w.Header().Set("Preference-Applied", "respond-async")
		status = http.StatusAccepted
	}
	writeJSON(w, "application/json", status, v)
	return nil
}
