package caddymodule

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// warmSite is an app with a tenant that is kept warm, whose server is a script
// while it is up.
type warmSite struct {
	app    *App
	tenant *tenant
	server mailertest.Script
	begin  time.Time

	mu    sync.Mutex
	down  bool
	dials []time.Duration // since the begin
}

func newWarmSite(t *testing.T) *warmSite {
	t.Helper()
	w := &warmSite{app: &App{logger: slog.New(slog.DiscardHandler)}, begin: time.Now()}
	w.tenant = &tenant{warm: true, mail: &mailer.Tenant{
		Name: "a", Failover: "b",
		Server: mailer.Server{Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: w.dial},
		Pool:   new(mailer.Pool), Limits: new(mailer.Limiter), Breaker: new(mailer.Breaker),
	}}
	w.app.registry.current.Store(&snapshot{
		tenants: map[string]*tenant{"a": w.tenant},
		users:   map[tokens.Account][]*tenant{{}: {w.tenant}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = w.tenant.mail.Pool.Close()
	})
	go func() {
		defer close(ended)
		w.app.keepWarm(ctx)
	}()
	return w
}

func (w *warmSite) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials = append(w.dials, time.Since(w.begin).Truncate(time.Minute))
	if w.down {
		return nil, errors.New("connection refused")
	}
	return w.server.Dial(ctx, network, addr)
}

func (w *warmSite) setDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// wantDials lets a time pass and compares the minutes of the sign-ins since the
// last call.
func (w *warmSite) wantDials(t *testing.T, pass time.Duration, want ...time.Duration) {
	t.Helper()
	time.Sleep(pass)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(want, w.dials); diff != "" {
		t.Errorf("sign-ins (-want +got):\n%s", diff)
	}
	w.dials = nil
}

// fixedContent is a small message.
type fixedContent string

func (c fixedContent) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(c))
	return int64(n), err
}
func (c fixedContent) Size() int64    { return int64(len(c)) }
func (c fixedContent) EightBit() bool { return false }
func (fixedContent) UTF8Header() bool { return false }

// send sends a message, with tenant b to fail over to.
func (w *warmSite) send(t *testing.T, by string) {
	t.Helper()
	from, err := mailer.ParseAddress("a@example.com")
	if err != nil {
		t.Fatal(err)
	}
	senders, err := mailer.ParseSenders("*")
	if err != nil {
		t.Fatal(err)
	}
	w.tenant.mail.Senders = senders
	other := &mailer.Tenant{Name: "b", Server: w.tenant.mail.Server, Senders: senders}
	other.Server.Dial = new(mailertest.Script).Dial
	m := mailer.Mailer{Lookup: func(name string) (*mailer.Tenant, bool) {
		if name == "b" {
			return other, true
		}
		return w.tenant.mail, true
	}}
	r, err := m.Send(t.Context(), mailer.Submission{
		ID: "id", MessageID: "<id@example.com>", Tenant: "a", From: from,
		Envelope: mailer.Envelope{From: from, To: []mailer.Address{from}}, Content: fixedContent("Subject: hello\r\n\r\nhello\r\n"),
	})
	if err != nil || r.Tenant != by {
		t.Errorf("sent by %q, %v; want %s", r.Tenant, err, by)
	}
}

// TestWarmBacksOff: a sign-in that fails again and again is tried less and less.
func TestWarmBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWarmSite(t)
		w.setDown(true)
		w.wantDials(t, 4*time.Hour, 0, 5*time.Minute, 15*time.Minute, 35*time.Minute, 75*time.Minute, 135*time.Minute, 195*time.Minute)
		w.setDown(false)
		w.wantDials(t, 20*time.Minute, 255*time.Minute)
		w.setDown(true)
		w.tenant.mail.Pool.Drain()
		w.wantDials(t, 7*time.Minute, 260*time.Minute, 265*time.Minute) // from the start again
	})
}

// TestWarmLeavesAlone: nobody signs in where the server asked for rest.
func TestWarmLeavesAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWarmSite(t)
		w.wantDials(t, time.Minute, 0)
		r, e := w.tenant.mail.Limits.Reserve(t.Context(), 1)
		if e != nil {
			t.Fatal(e)
		}
		r.Done(mailer.Receipt{}, &mailer.Error{
			Stage: mailer.StageMail, Kind: mailer.KindThrottled, Reply: mailer.Reply{Code: 432}, RetryAfter: time.Hour,
		})
		w.tenant.mail.Pool.Drain()
		w.wantDials(t, 59*time.Minute)
		w.wantDials(t, 2*time.Minute, 61*time.Minute)
	})
}

// TestWarmWhileDown: a tenant that is known to be down is tried by messages, until
// somebody has signed in again.
func TestWarmWhileDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWarmSite(t)
		w.wantDials(t, time.Minute, 0)
		w.setDown(true)
		w.tenant.mail.Pool.Drain()
		w.send(t, "b")
		time.Sleep(10 * time.Second)
		w.send(t, "b")
		w.wantDials(t, 9*time.Second, time.Minute, time.Minute) // the messages'
		w.app.registry.load().drain(tokens.Account{})
		if _, next := w.tenant.mail.Breaker.Down(); time.Now().Before(next) {
			t.Errorf("after a sign-in it is down until %v", next)
		}
		w.setDown(false)
		w.send(t, "a")
	})
}
