package river

import (
	"context"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/outboxtest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, func(t *testing.T) outboxtest.Harness {
		schema := newSchema()
		var last *wire
		t.Cleanup(func() { dropSchema(t, schema) })
		return outboxtest.Harness{
			Open: func() outbox.Engine {
				e, w := openTest(t, schema, quick())
				last = w
				return e
			},
			Crash: func(outbox.Engine) { last.set(true) },
		}
	})
}

func dropSchema(t testing.TB, schema string) {
	t.Helper()
	if _, err := admin(t).Exec(context.Background(), `DROP SCHEMA IF EXISTS `+schema+` CASCADE`); err != nil {
		t.Error(err)
	}
}
