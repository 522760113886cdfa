package caddymodule

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// backlogAge is how long a message may wait before that is an event.
const backlogAge = 15 * time.Minute

// backlogs remembers of which tenants messages have waited for long, so that each
// backlog is told once.
type backlogs struct {
	mu  sync.Mutex
	old map[string]bool
}

// backlog is what a tenant's messages have come to.
type backlog struct {
	tenant   string
	messages int
	oldest   time.Time
}

// look returns the backlogs that are new, and those that are gone.
func (b *backlogs) look(stats outbox.Stats, now time.Time) (began, ended []backlog) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, t := range stats.Tenants {
		late := !t.Oldest.IsZero() && now.Sub(t.Oldest) >= backlogAge
		switch {
		case late && !b.old[name]:
			began = append(began, backlog{name, waiting(t) - t.Messages[outbox.StateScheduled], t.Oldest})
		case !late && b.old[name]:
			ended = append(ended, backlog{tenant: name})
		}
		if b.old == nil {
			b.old = make(map[string]bool)
		}
		if b.old[name] = true; !late {
			delete(b.old, name)
		}
	}
	for name := range b.old {
		if _, ok := stats.Tenants[name]; !ok {
			delete(b.old, name)
			ended = append(ended, backlog{tenant: name})
		}
	}
	byTenant := func(x, y backlog) int { return cmp.Compare(x.tenant, y.tenant) }
	slices.SortFunc(began, byTenant)
	slices.SortFunc(ended, byTenant)
	return began, ended
}

// tellBacklogs tells when messages have waited for long, and when they no longer do.
func (a *App) tellBacklogs(ctx context.Context) {
	stats, err := a.outboxStats(ctx)
	if err != nil {
		return // Start or the engine has told
	}
	began, ended := a.box.backlogs.look(stats, time.Now())
	for _, b := range began {
		a.logger.Warn("messages of a tenant have waited for long", "tenant", b.tenant, "messages", b.messages, "oldest", b.oldest)
		a.events.emit("mail_backlog", map[string]any{
			"tenant": b.tenant, "messages": b.messages, "oldest_at": b.oldest.UTC().Format(time.RFC3339),
		})
	}
	for _, b := range ended {
		a.logger.Info("no message of a tenant has waited for long any more", "tenant", b.tenant)
	}
}
