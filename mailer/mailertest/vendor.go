package mailertest

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Vendor answers as Exchange Online or Gmail do, and enforces their limits per
// mailbox. It is made by [Exchange] or [Gmail]; then the fields may be changed,
// until it is in use. A limit of zero is none.
type Vendor struct {
	// TLS makes the server offer STARTTLS, without which there is no AUTH.
	TLS *tls.Config
	// Implicit begins sessions with the handshake. Only Gmail knows it.
	Implicit bool
	// Now is the clock.
	Now func() time.Time

	// Accepts decides about access tokens, and passwords. Nil accepts all.
	Accepts func(user, secret string) bool
	// Expires tells when an access token ends. Gmail ends the session then. Nil:
	// never.
	Expires func(token string) time.Time
	// MaySendAs decides about From in the envelope. Nil allows each mailbox its
	// own address. Gmail does not mind.
	MaySendAs func(user, from string) bool
	// Refuses may answer a step of a mailbox with one of the vendor's refusals,
	// or with nothing. The steps are those of [Script]; at AUTH it is asked once
	// the user is known.
	Refuses func(step, user string) string

	PerMinute   int                 // messages: Exchange 30
	Minute      time.Duration       // what counts as a minute
	Slow        func(time.Duration) // where set, messages over PerMinute wait by it instead of being refused
	Connections int                 // signed in at once: Exchange 3
	PerDay      int                 // recipients at Exchange, 10,000; messages at Gmail, 2,000
	Day         time.Duration       // what counts as a day
	Recipients  int                 // of one message: Exchange 500, Gmail 100
	Size        int64               // of one message, in octets

	dialect dialect

	mu        sync.Mutex
	mailboxes map[string]*mailbox
	messages  []Message
	logins    []Login
	sessions  int
	most      int
	limited   int
}

// Exchange is Exchange Online at smtp.office365.com.
func Exchange() *Vendor {
	return &Vendor{
		Now: time.Now, Minute: time.Minute, Day: 24 * time.Hour,
		PerMinute: 30, Connections: 3, PerDay: 10000, Recipients: 500, Size: 157286400,
		dialect: exchange,
	}
}

// Gmail is Gmail for a Workspace mailbox, at smtp.gmail.com.
func Gmail() *Vendor {
	return &Vendor{
		Now: time.Now, Minute: time.Minute, Day: 24 * time.Hour,
		PerDay: 2000, Recipients: 100, Size: 35882577,
		dialect: gmail,
	}
}

// Dial begins a session in memory, as [Script.Dial] does.
func (v *Vendor) Dial(context.Context, string, string) (net.Conn, error) { return dial(v.Serve), nil }

// Listen serves sessions on loopback TCP until the test ends.
func (v *Vendor) Listen(t testing.TB) (host string, port int) {
	t.Helper()
	return Listen(t, v.Serve)
}

// Serve runs a session and closes nc at its end.
func (v *Vendor) Serve(nc net.Conn) {
	v.mu.Lock()
	v.sessions++
	v.mu.Unlock()
	c := &counter{Vendor: v, dialogue: &dialogue{tls: v.TLS, offer: v.dialect.offer, strict: true}}
	c.service = c
	c.serve(nc, v.Implicit)
	c.leave()
}

// Messages returns the messages taken so far.
func (v *Vendor) Messages() []Message {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.messages)
}

// Logins returns the tries to sign in so far.
func (v *Vendor) Logins() []Login {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.logins)
}

// Sessions is the number of sessions begun.
func (v *Vendor) Sessions() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sessions
}

// Limited is how many messages were refused for a limit of the mailbox.
func (v *Vendor) Limited() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.limited
}

// MostSignedIn is the largest number of sessions that were signed in to one
// mailbox at once.
func (v *Vendor) MostSignedIn() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.most
}
