package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// silentEngine is on a database that never answers.
type silentEngine struct{ outboxEngine }

func (silentEngine) OpenOutbox(ctx context.Context, _ outbox.Sealer, _ *slog.Logger) (outbox.Engine, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestOpenPatience: an engine that says nothing is given up, in words.
func TestOpenPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := openEngine(silentEngine{}, nil, slog.New(slog.DiscardHandler))
		if took := time.Since(began); took != openPatience || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "within 2m0s") {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
