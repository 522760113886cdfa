package caddymodule

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// outboxSealer seals what is in an outbox with the keys of the configurations that
// have started. It seals with those of the oldest, which comes back where a newer one
// fails, and opens with those of all.
type outboxSealer struct {
	rings atomic.Pointer[[]*tokens.KeyRing] // the oldest first, never none
}

// use takes the keys of configurations, the oldest first.
func (s *outboxSealer) use(rings ...*tokens.KeyRing) { s.rings.Store(&rings) }

// AppendSeal implements [outbox.Sealer].
func (s *outboxSealer) AppendSeal(dst []byte, name string, plaintext []byte) ([]byte, error) {
	return (*s.rings.Load())[0].AppendSeal(dst, name, plaintext)
}

// AppendOpen implements [outbox.Sealer].
func (s *outboxSealer) AppendOpen(dst []byte, name string, sealed []byte) (plaintext []byte, err error) {
	for _, r := range *s.rings.Load() {
		if plaintext, err = r.AppendOpen(dst, name, sealed); !errors.Is(err, tokens.ErrUnknownKey) {
			break
		}
	}
	return plaintext, err
}

// KeyID names the key that is sealed with. An engine asks for it that keeps account of
// the keys that it needs.
func (s *outboxSealer) KeyID() string { return (*s.rings.Load())[0].IDs()[0].String() }

// check reports whether keys open what is sealed now, as the engine does when it is
// opened.
func (s *outboxSealer) check(keys *tokens.KeyRing) error {
	const name = "oauth_mail: check of the keys"
	sealed, err := s.AppendSeal(nil, name, nil)
	if err == nil {
		_, err = keys.Open(name, sealed)
	}
	if err != nil {
		return fmt.Errorf("the key that it is sealed with is missing: %w; keep that key behind the new one, as a further encryption_key, until no message needs it", err)
	}
	return nil
}

var _ outbox.Sealer = (*outboxSealer)(nil)
