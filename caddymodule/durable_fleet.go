//go:build fleet

package caddymodule

import (
	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// Durable returns the storage that the app keeps tokens in. It is there for the
// tests of fleets only.
func Durable(s certmagic.Storage) tokens.Storage { return durable(s) }
