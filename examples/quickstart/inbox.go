package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	maxMail  = 36 << 20  // octets of one mail
	maxMails = 100       // mails kept
	maxKept  = 128 << 20 // octets of all mails kept
)

// An inbox is the embedded mail server. It lets in whoever shows an access token of the mailbox that he names, and
// keeps the latest mails in memory. It is safe for concurrent use.
type inbox struct {
	owner func(token string) (email string, err error)
	now   func() time.Time
	srv   *smtp.Server

	mu      sync.Mutex
	mails   []*mail // oldest first
	kept    int
	last    int
	arrived chan struct{} // closed, and replaced, when a mail arrives
}

// newInbox makes an inbox that asks owner whose a token is. Nothing listens until serve.
func newInbox(owner func(token string) (email string, err error)) *inbox {
	b := &inbox{owner: owner, now: time.Now, arrived: make(chan struct{})}
	b.srv = smtp.NewServer(b)
	b.srv.Domain = "localhost"
	b.srv.AllowInsecureAuth = true // loopback only
	b.srv.EnableSMTPUTF8 = true
	b.srv.MaxMessageBytes = maxMail
	b.srv.MaxRecipients = 100
	b.srv.ReadTimeout = 5 * time.Minute // RFC 5321 section 4.5.3.2.7
	b.srv.WriteTimeout = time.Minute
	b.srv.ErrorLog = log.New(io.Discard, "", 0) // go-smtp reports nothing here that the client isn't told too
	return b
}

// serve answers on all listeners until stop.
func (b *inbox) serve(listeners []net.Listener) {
	for _, l := range listeners {
		// What Serve returns is known: stop closed it.
		go func() { _ = b.srv.Serve(l) }()
	}
}

// stop closes the listeners and hangs up on idle clients at once.
func (b *inbox) stop() error {
	err := b.srv.Close()
	if errors.Is(err, smtp.ErrServerClosed) {
		return nil
	}
	return err
}

// NewSession implements [smtp.Backend].
func (b *inbox) NewSession(*smtp.Conn) (smtp.Session, error) {
	return &inboxSession{inbox: b}, nil
}

func (b *inbox) add(m *mail) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	m.ID = strconv.Itoa(b.last)
	b.mails = append(b.mails, m)
	b.kept += len(m.Raw)
	for len(b.mails) > 1 && (len(b.mails) > maxMails || b.kept > maxKept) {
		b.kept -= len(b.mails[0].Raw)
		b.mails = slices.Delete(b.mails, 0, 1)
	}
	close(b.arrived)
	b.arrived = make(chan struct{})
}

// list answers the mails, newest first.
func (b *inbox) list() []*mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := slices.Clone(b.mails)
	slices.Reverse(l)
	return l
}

func (b *inbox) get(id string) (*mail, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.mails, func(m *mail) bool { return m.ID == id })
	if i < 0 {
		return nil, false
	}
	return b.mails[i], true
}

// await waits for a mail that match likes; those that are there already count. The error is that of ctx.
func (b *inbox) await(ctx context.Context, match func(*mail) bool) (*mail, error) {
	for {
		b.mu.Lock()
		i := slices.IndexFunc(b.mails, match)
		if i >= 0 {
			m := b.mails[i]
			b.mu.Unlock()
			return m, nil
		}
		arrived := b.arrived
		b.mu.Unlock()

		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
