package mailer

import (
	"context"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

const roundTrip = 20 * time.Millisecond

// farSink takes mail a round trip away, over TLS.
type farSink struct {
	*mailertest.Sink
	roots *x509.CertPool
}

func newFarSink(t *testing.T, pipelining, chunking bool) farSink {
	t.Helper()
	config, roots := mailertest.NewCertificate(t)
	return farSink{&mailertest.Sink{TLS: config, Pipelining: pipelining, Chunking: chunking, Keep: true}, roots}
}

func (s farSink) dial(context.Context, string, string) (net.Conn, error) {
	client, server := mailertest.Pipe(roundTrip / 2)
	go s.Serve(server)
	return client, nil
}

// mailer sends to the sink over at most that many connections.
func (s farSink) mailer(connections int) *Mailer {
	tenant := &Tenant{
		Name:    "lab",
		Server:  Server{Host: "mail.example.com", Port: 587, RootCAs: s.roots, Dial: s.dial},
		Auth:    Password{User: "u", Password: "secret-password"},
		Senders: Senders{any: true},
		Pool:    &Pool{Max: connections},
	}
	return &Mailer{Lookup: func(string) (*Tenant, bool) { return tenant, true }}
}

// readySubmission is a message that needs nothing but sending.
func readySubmission(content Content, to ...Address) Submission {
	return Submission{
		ID: "1", MessageID: "<1@example.com>", Tenant: "lab", From: sender,
		Envelope: Envelope{From: sender, To: to}, Content: content,
	}
}

var third = Address{Local: "d", Domain: "example.net"}

// TestRoundTrips measures by a clock that stands still but for the way.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	three := []Address{someone, other, third}
	tests := []struct {
		name                 string
		pipelining, chunking bool
		to                   []Address
		want                 int
	}{
		{"chunking", true, true, three, 1},
		{"chunking, one recipient", true, true, three[:1], 1},
		{"pipelining", true, false, three, 2},
		{"pipelining, one recipient", true, false, three[:1], 2},
		{"neither", false, false, three, 6},
		{"chunking alone", false, true, three, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newFarSink(t, tt.pipelining, tt.chunking)
			synctest.Test(t, func(t *testing.T) {
				m := s.mailer(1)
				var took time.Duration
				for range 3 { // the first one makes the connection
					begin := time.Now()
					if _, err := m.Send(t.Context(), readySubmission(hello, tt.to...)); err != nil {
						t.Fatal(err)
					}
					took = time.Since(begin)
				}
				wantTrips(t, took, tt.want)
				closePool(t, m)
			})
			got := s.Messages()
			if len(got) != 3 || s.Sessions() != 1 {
				t.Fatalf("%d messages over %d connections", len(got), s.Sessions())
			}
			for _, msg := range got {
				if msg.Data != hello.text || len(msg.To) != len(tt.to) {
					t.Errorf("the sink took %+v", msg)
				}
			}
		})
	}
}

// TestRoundTripsOfTheLibrary is what we measure ourselves against.
func TestRoundTripsOfTheLibrary(t *testing.T) {
	t.Parallel()
	s := newFarSink(t, true, true)
	synctest.Test(t, func(t *testing.T) {
		nc, _ := s.dial(t.Context(), "", "")
		c := contest.SignIn(t, nc, s.roots)
		begin := time.Now()
		if err := contest.Send(c, []byte(hello.text), "b@example.net", "c@example.net", "d@example.net"); err != nil {
			t.Fatal(err)
		}
		wantTrips(t, time.Since(begin), 6)
		_ = c.Quit() // the server may be the first to hang up
	})
	if s.Taken() != 1 {
		t.Errorf("%d messages", s.Taken())
	}
}

// TestRoundTripsOfMany has messages of one mailbox wait for its only
// connection: the envelope of each travels behind the content of the one
// before.
func TestRoundTripsOfMany(t *testing.T) {
	t.Parallel()
	const many = 50
	for _, tt := range []struct {
		name     string
		chunking bool
		want     int
	}{
		{"pipelining", false, many + 1}, // nothing is before the first one
		{"chunking", true, many},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newFarSink(t, true, tt.chunking)
			synctest.Test(t, func(t *testing.T) {
				m := s.mailer(1)
				if _, err := m.Send(t.Context(), readySubmission(hello, someone)); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				var wg sync.WaitGroup
				for range many {
					wg.Go(func() {
						if _, err := m.Send(t.Context(), readySubmission(hello, someone)); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				wantTrips(t, time.Since(begin), tt.want)
				closePool(t, m)
			})
			if s.Taken() != many+1 || s.Sessions() != 1 {
				t.Errorf("%d messages over %d connections", s.Taken(), s.Sessions())
			}
		})
	}
}

func wantTrips(t *testing.T, took time.Duration, want int) {
	t.Helper()
	if took != time.Duration(want)*roundTrip {
		t.Errorf("it took %v round trips, want %d", took.Seconds()/roundTrip.Seconds(), want)
	}
}

func closePool(t *testing.T, m *Mailer) {
	t.Helper()
	tenant, _ := m.Lookup("")
	if err := tenant.Pool.Close(); err != nil {
		t.Error(err)
	}
}
