package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

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
