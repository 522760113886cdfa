package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http"
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

// makeIdempotent makes a request with a key count once: what it asks for decides
// whether another one with that key is the same. The key belongs to this route and,
// in the outbox, to the caller.
func makeIdempotent(o *mailer.Options, h http.Header, tenant string, body []byte) error {
	key, err := idempotencyKey(h)
	if err != nil || key == "" {
		return err
	}
	fingerprint, err := fingerprintOf(tenant, body)
	if err != nil {
		return err
	}
	o.IdempotencyKey, o.Fingerprint = "POST /emails "+key, fingerprint
	return nil
}

// fingerprintOf is a digest of what a request asks for, however its JSON is
// written.
func fingerprintOf(tenant string, body []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, badJSON("", "is cut or broken")
	}
	sum := sha256.New()
	// Encode sorts the members of objects.
	if err := json.NewEncoder(sum).Encode([]any{"POST /emails", tenant, withoutNulls(v)}); err != nil {
		return nil, err
	}
	return sum.Sum(nil), nil
}

// withoutNulls removes members that are null: they are as good as absent.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if member == nil {
				delete(v, name)
				continue
			}
			v[name] = withoutNulls(member)
		}
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	}
	return v
}
