package caddymodule

import (
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// sendAsDenials are the senders that mail servers have refused of late. What is wrong is
// right again when a message from there gets through, or nobody has tried for a day.
// They outlive configurations.
type sendAsDenials struct {
	mu    sync.Mutex
	known map[denialKey]denial
}

type denialKey struct{ tenant, from string }

type denial struct {
	since, last time.Time
	diagnosis   string
}

var denials sendAsDenials

const (
	denialLife = 24 * time.Hour
	maxDenials = 1000
)

func keyOfDenial(tenant string, from mailer.Address) denialKey {
	return denialKey{tenant, strings.ToLower(from.Mailbox())}
}

// began notes a refusal, and reports whether it is the first.
func (d *sendAsDenials) began(tenant string, from mailer.Address, id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	k := keyOfDenial(tenant, from)
	v, again := d.known[k]
	if !again {
		if len(d.known) >= maxDenials {
			return false
		}
		v.since = now
	}
	if d.known == nil {
		d.known = make(map[denialKey]denial)
	}
	v.last, v.diagnosis = now, id
	d.known[k] = v
	return !again
}

// noteDenial remembers that a mailbox may not send as an address.
func (a *App) noteDenial(tenant string, from mailer.Address, e *mailer.Error) {
	d := e.Diagnosis()
	if e.Stage == mailer.StageAccept || !strings.Contains(d.ID, "send_as") {
		return
	}
	if denials.began(tenant, from, d.ID) {
		a.watch.poke()
	}
}

// ended notes that a message from a sender got through.
func (d *sendAsDenials) ended(tenant string, from mailer.Address) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) > 0 { // there nearly never are any
		delete(d.known, keyOfDenial(tenant, from))
	}
}

// troubles are the refusals of tenants that there are.
func (d *sendAsDenials) troubles(s *snapshot, l diagnosis.Language) []trouble {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []trouble
	for k, v := range d.known {
		if time.Since(v.last) > denialLife || s.tenants[k.tenant] == nil {
			delete(d.known, k)
			continue
		}
		t := trouble{Kind: troubleSendAs, Failure: true, Tenant: k.tenant, Sender: k.from, Since: given(v.since.UTC()), Diagnosis: v.diagnosis}
		if row, ok := diagnosis.ByID(v.diagnosis); ok {
			advice := row.Advice(l)
			t.What, t.Who, t.Do = advice.Meaning, string(advice.Who), strings.Join(advice.Do, " ")
		}
		list = append(list, t)
	}
	return list
}
