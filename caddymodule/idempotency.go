package caddymodule

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// idempotencyKey reads the key of a request; empty for none. It may be quoted, as
// the draft of the field has it (draft-ietf-httpapi-idempotency-key-header), or not:
// both name the same key.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := strings.TrimSpace(values[0])
	if n := len(key); n >= 2 && key[0] == '"' && key[n-1] == '"' {
		key = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(key[1 : n-1])
	}
	invisible := strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' })
	if len(values) > 1 || key == "" || len(key) > 256 || invisible {
		return "", refuse(http.StatusBadRequest, nameInvalidIdempotencyKey, "",
			"An Idempotency-Key has 1 to 256 visible ASCII characters, and there is one at most.")
	}
	return key, nil
}

// fingerprint is a digest of what a request asks for, however its JSON is written. It
// is taken before the message gets what this server adds. It copies nothing: a field
// may have as many octets as the body.
func (r *emailRequest) fingerprint(tenant string) ([]byte, error) {
	m := r.message
	sum := sha256.New()
	w := bufio.NewWriter(sum) // no write fails: a hash takes all
	count := func(n int64) { fmt.Fprintf(w, "%d:", n) }
	add := func(texts ...string) {
		for _, s := range texts {
			count(int64(len(s)))
			_, _ = w.WriteString(s)
		}
	}
	add("POST /emails", tenant, r.schedule, m.Subject, m.Text, m.HTML, m.InReplyTo)
	add(m.References...)
	add(string(r.sum), strconv.FormatBool(r.dryRun))
	if e := r.envelope; e != nil {
		add(e.From.Mailbox())
		for _, a := range e.To {
			add(a.Mailbox())
		}
	}
	if c := m.Calendar; c != nil {
		add(c.Method, c.Content)
	}
	for _, list := range [][]mailer.Address{{m.From, m.Sender}, m.ReplyTo, m.To, m.Cc, m.Bcc} {
		count(int64(len(list)))
		for _, a := range list {
			add(a.Name, a.Local, a.Domain)
		}
	}
	headers := slices.SortedFunc(slices.Values(m.Headers), func(x, y mailer.HeaderField) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Value, y.Value))
	})
	count(int64(len(headers)))
	for _, h := range headers {
		add(h.Name, h.Value)
	}
	for _, a := range m.Attachments {
		add(a.Filename, a.ContentType, a.ContentID, strconv.FormatBool(a.Inline))
		count(a.Source.Size())
		if _, err := a.Source.(*mailer.File).Encoded(w); err != nil {
			return nil, err
		}
	}
	_ = w.Flush()
	return sum.Sum(nil), nil
}

// makeIdempotent makes a request with a key count once: what it asks for decides
// whether another one with that key is the same. The key belongs to this route and,
// in the outbox, to the caller.
func makeIdempotent(o *mailer.Options, h http.Header, tenant string, r *emailRequest) error {
	key, err := idempotencyKey(h)
	if err != nil || key == "" {
		return err
	}
	if o.Fingerprint, err = r.fingerprint(tenant); err != nil {
		return err
	}
	o.IdempotencyKey = "POST /emails " + key
	return nil
}
