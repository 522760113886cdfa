package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// records are an answer that comes piece by piece, as lines of JSON.
type records func(emit func(any))

const ndjson = "application/x-ndjson"

// writeRecords writes each record as soon as it is there.
func writeRecords(w http.ResponseWriter, rs records) {
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	controller := http.NewResponseController(w)
	rs(func(record any) {
		// Whoever went away ends the request's context, and with it the work.
		_ = encoder.Encode(record)
		_ = controller.Flush()
	})
}

// accepts reports whether a request names the media type among those that it
// wants.
func accepts(r *http.Request, mediaType string) bool {
	for _, field := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(field, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), mediaType) {
				return true
			}
		}
	}
	return false
}

// connectionTest prepares to try a tenant's connection and sign-in, and a sender,
// which is the tenant's own where none is given. No mail is sent.
func (a admin) connectionTest(name, from, by string) (run func(context.Context, func(mailer.Step)) mailer.Verdict, err error) {
	t := a.app.registry.load().tenants[name]
	if t == nil {
		return nil, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no tenant %q", name)}
	}
	sender := t.from
	if from != "" {
		if sender, err = mailer.ParseAddress(from); err != nil {
			return nil, &adminError{kind: adminInvalid, err: fmt.Errorf("from: %w", reason(err))}
		}
		if !t.mail.Senders.Allows(sender) {
			return nil, &adminError{kind: adminInvalid, err: fmt.Errorf("from: %s is not among the senders of tenant %s", sender.Mailbox(), name)}
		}
	}
	return func(ctx context.Context, report func(mailer.Step)) mailer.Verdict {
		v := t.mail.Test(ctx, mailer.Probe{From: sender, Report: report})
		a.app.logTest(v, by)
		return v
	}, nil
}

// serveTest serves a connection test: as one answer, or stage by stage and then
// the verdict where the caller accepts that.
func serveTest(a admin, r *adminRequest) (int, any, error) {
	var from string
	if err := r.settings(fields{"from": decodeText(&from)}); err != nil {
		return 0, nil, err
	}
	run, err := a.connectionTest(r.tenant, from, r.by)
	if err != nil {
		return 0, nil, err
	}
	if !accepts(r.Request, ndjson) {
		return http.StatusOK, run(r.Context(), nil), nil
	}
	return http.StatusOK, records(func(emit func(any)) {
		verdict := run(r.Context(), func(s mailer.Step) { emit(s) })
		verdict.Steps = nil // they were told
		emit(verdict)
	}), nil
}
