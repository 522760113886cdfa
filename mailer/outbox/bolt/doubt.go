package bolt

import (
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// doubt notes what may be on the disk although the commit failed.
func (e *Engine) doubt(ops []*op, launched []string) {
	for _, o := range ops {
		if o.accept {
			e.repairs = append(e.repairs, repair{o.id, true})
		}
	}
	for _, id := range launched {
		e.repairs = append(e.repairs, repair{id, false})
	}
}

// repair is a message whose record is in doubt.
type repair struct {
	id       string
	accepted bool // whoever brought it was told that it is not accepted
}

// repair puts right what a failed commit may have left.
func (b *batch) repair() {
	for _, r := range b.e.repairs {
		old, sealed, err := b.get(r.id)
		switch {
		case err != nil || b.e.flights[r.id] != nil:
		case r.accepted:
			b.put(r.id, old, nil, nil)
		case old.state == outbox.StateSending: // it was never handed out
			now := *old
			now.state, now.sweep = outbox.StateQueued, time.Time{}
			if m, _, err := b.e.open(r.id, b.messages.Get([]byte(r.id))); err == nil {
				now.sweep = m.Expires
			}
			b.put(r.id, old, &now, sealed)
			b.touch(b.lane(now.tenant))
		}
	}
	if len(b.e.repairs) > 0 {
		b.after(func() { b.e.repairs = nil })
	}
}
