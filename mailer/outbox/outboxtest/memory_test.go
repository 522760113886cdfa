package outboxtest_test

import (
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/outboxtest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, func(*testing.T) outboxtest.Harness {
		var last *outboxtest.Memory
		return outboxtest.Harness{
			Open: func() outbox.Engine {
				last = outboxtest.NewMemory(last)
				return last
			},
			Crash: func(outbox.Engine) { last.Crash() },
		}
	})
}
