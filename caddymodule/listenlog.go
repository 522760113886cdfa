package caddymodule

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// manyGreetings is how many devices at one address of a network are remarkable.
const manyGreetings = 5

// smtpHooks reports what happens in the sessions of an entrance. Sessions may outlive
// the configuration, so they log by the newest one.
func (a *App) smtpHooks(e *smtpEntrance, s *smtpServer) listener.Hooks {
	logger := slog.New(&s.relay)
	return listener.Hooks{
		Ended: func(v listener.Session) {
			smtpSessionsTotal.WithLabelValues(tlsLabel(v.Client), v.End).Inc()
			level := slog.LevelDebug // whoever looks what is here
			if v.Identity != nil && (v.Messages > 0 || v.Mechanism != "") {
				level = slog.LevelInfo
				s.noteClient(v.Client, v.Identity, 0)
			}
			logger.Log(context.Background(), level, "SMTP session ended", append(aboutClient(v.Client, v.Identity),
				"messages", v.Messages, "duration", time.Since(v.Begin), "end", v.End)...)
		},
		TurnedAway: func(c listener.Client, why string) {
			smtpTurnedAwayTotal.WithLabelValues(why).Inc()
			if more, ok := s.quiet.may("turned away "+why, time.Now(), time.Minute); ok {
				logger.Warn("SMTP connection turned away", "address", s.address, "remote_ip", c.Addr.Addr().String(), "reason", why, "unlogged", more)
			}
		},
		WrongPassword: func(c listener.Client, user string, delay time.Duration, banned bool) {
			smtpWrongPasswordsTotal.Inc()
			name := "(unknown)" // it may be a password
			if u := e.users[strings.ToLower(user)]; u != nil {
				name = u.name
			}
			logger.Warn("wrong SMTP password", "address", s.address, "session", c.Session, "user", name, "remote_ip", c.Addr.Addr().String(),
				"greeting", c.Greeting, "delay", delay, "banned", banned)
		},
		Accepted: func(c listener.Client, id *listener.Identity, m listener.Accepted) {
			smtpMessagesTotal.WithLabelValues(resultAccepted).Inc()
			s.noteClient(c, id, 1)
			s.logAccepted(c, id, m)
			if m.Receipt.Status == mailer.StatusQueued {
				a.tellWaiting(s, logger, id.Tenant)
			}
		},
		Refused: func(c listener.Client, r listener.Refused) {
			smtpRefusalsTotal.WithLabelValues(r.Command).Inc()
			about := append(aboutClient(c, r.Identity), "command", r.Command, "code", r.Code, "enhanced", r.Enhanced.String())
			if r.Command == "data" {
				result := resultFailed
				if r.Code < 500 {
					result = resultDeferred
				}
				smtpMessagesTotal.WithLabelValues(result).Inc()
				about = append(about, "id", r.ID)
			}
			if !strings.Contains(r.Text, "@") { // recipients stay out of the log
				about = append(about, "text", r.Text)
			}
			level := slog.LevelInfo
			if r.Identity != nil {
				level = slog.LevelWarn
			}
			logger.Log(context.Background(), level, "refused by SMTP", about...)
		},
	}
}

// noteClient enters a client into the inventory.
func (s *smtpServer) noteClient(c listener.Client, id *listener.Identity, messages int) {
	now := time.Now()
	noteCaller(c, id, messages, now)
	n := s.inventory.note(c, id, s.address, messages, now)
	if n == manyGreetings && id.Kind == "network" && !c.Addr.Addr().IsLoopback() {
		slog.New(&s.relay).Warn("many devices send by SMTP from one address without a password; if that is a router or proxy, anybody behind it can send",
			"address", s.address, "remote_ip", c.Addr.Addr().String(), "network", id.Name)
	}
}

// aboutClient is what the log says of a client. Its greeting tells which device it is.
func aboutClient(c listener.Client, id *listener.Identity) []any {
	about := []any{"session", c.Session, "remote_ip", c.Addr.Addr().String(), "greeting", c.Greeting, "tls", tlsVersion(c), "mechanism", c.Mechanism}
	if id != nil {
		about = append(about, "caller", id.Kind+" "+id.Name, "tenant", id.Tenant)
	}
	return about
}

// tellWaiting tells that messages of a tenant wait for somebody: their senders were
// not told.
func (a *App) tellWaiting(s *smtpServer, logger *slog.Logger, tenant string) {
	now := time.Now()
	if _, ok := s.quiet.may("look at "+tenant, now, time.Second); !ok {
		return
	}
	box, release, err := a.useOutbox()
	if err != nil {
		return // the message is in it; whoever closes it tells
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), metricsWait)
	defer cancel()
	lanes, err := box.Engine().Lanes(ctx)
	l := lanes[tenant]
	if err != nil || l.State != outbox.LaneParked && l.State != outbox.LanePaused {
		return
	}
	if _, ok := s.quiet.may("waiting "+tenant, now, time.Minute); ok {
		logger.Warn("messages that come by SMTP wait in the outbox, since their tenant does", "tenant", tenant, "state", string(l.State),
			"call", a.openingCall(ctx, tenant, l))
	}
}

// quiet lets the same thing be done once in a while. The zero value is ready to use.
type quiet struct {
	mu   sync.Mutex
	last map[string]*quietThing
}

type quietThing struct {
	at      time.Time
	skipped int
}

// may reports whether a thing may be done now, and how often it was not since the last
// time. There must be few things.
func (q *quiet) may(what string, now time.Time, every time.Duration) (skipped int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.last[what]
	if t == nil {
		if q.last == nil {
			q.last = make(map[string]*quietThing)
		}
		t = new(quietThing)
		q.last[what] = t
	}
	if now.Sub(t.at) < every {
		t.skipped++
		return 0, false
	}
	skipped = t.skipped
	t.at, t.skipped = now, 0
	return skipped, true
}
