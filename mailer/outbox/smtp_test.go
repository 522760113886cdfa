package outbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// through has an office send by a mailer with tenants on servers of their own.
func through(t *testing.T, p outbox.Policy, tenants map[string]*mailer.Tenant) (*office, *mailer.Mailer) {
	t.Helper()
	senders, err := mailer.ParseSenders("*")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailer.Mailer{Lookup: func(name string) (*mailer.Tenant, bool) { t, ok := tenants[name]; return t, ok }}
	for name, tenant := range tenants {
		tenant.Name, tenant.Senders = name, senders
	}
	o := open(t, nil, func(o *office) {
		o.policy = p
		o.settings.Deliver = m.Deliver
		o.Use(o.settings)
	})
	m.Outbox = o
	return o, m
}

// TestRepliesAlwaysLost: a server of which no reply to a content arrives gets a message
// three times; then a person decides.
func TestRepliesAlwaysLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		script := &mailertest.Script{Answers: map[string][]string{mailertest.Content: {mailertest.Close}}}
		o, m := through(t, outbox.Policy{}, map[string]*mailer.Tenant{
			"lab": {Server: mailer.Server{Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: script.Dial}},
		})
		s := submission("lab")
		if _, err := m.Send(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(47 * time.Hour)
		synctest.Wait()
		if n := len(script.Contents()); n != 3 {
			t.Errorf("sent %d times, want 3", n)
		}
		if got, err := o.Engine().Get(t.Context(), s.ID); err != nil || got.State != outbox.StateHeld {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestReplyLost: the connection ends after the final dot, before the reply, a thousand
// times, a hundred in each part: sent twice by default, once where such messages are
// held.
func TestReplyLost(t *testing.T) {
	t.Parallel()
	const parts, messages = 10, 100
	for part := range 2 * parts {
		hold := part%2 == 1
		t.Run(fmt.Sprint("hold ", hold), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				script := &mailertest.Script{Answers: map[string][]string{
					mailertest.Content: append(slices.Repeat([]string{mailertest.Close}, messages), ""),
				}}
				_, m := through(t, outbox.Policy{HoldUnknown: hold}, map[string]*mailer.Tenant{
					"lab": {Server: mailer.Server{Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: script.Dial}},
				})
				ids := make([]string, messages)
				for i := range ids {
					s := submission("lab")
					ids[i] = s.ID
					s.Content = content{mailer.Bytes("Message-ID: " + s.MessageID + "\r\n\r\nhello\r\n")}
					r, err := m.Send(t.Context(), s)
					if err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Kind != mailer.KindUnknown {
						t.Fatalf("%+v, %v", r, err)
					}
				}
				time.Sleep(48 * time.Hour)
				synctest.Wait()
				got := make(map[string]int)
				for _, c := range script.Contents() {
					id, _, _ := strings.Cut(strings.TrimPrefix(c, "Message-ID: <"), "@")
					got[id]++
				}
				want := 2
				if hold {
					want = 1
				}
				for _, id := range ids {
					if got[id] != want {
						t.Fatalf("%s was sent %d times, want %d", id, got[id], want)
					}
				}
				if len(got) != messages {
					t.Errorf("%d messages came, want %d", len(got), messages)
				}
			})
		})
	}
}

// TestRateKept: a mailbox with a rate sends as fast as that allows, and no faster, while
// another mailbox sends at once.
func TestRateKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := &mailertest.Sink{Pipelining: true}
		pool := new(mailer.Pool)
		lab := &mailer.Tenant{
			Server: mailer.Server{Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: sink.Dial},
			Limits: &mailer.Limiter{Rate: 30, Per: time.Minute}, Pool: pool,
		}
		defer pool.Close()
		free := &mailer.Tenant{Server: lab.Server}
		o, m := through(t, outbox.Policy{}, map[string]*mailer.Tenant{"lab": lab, "free": free})
		const messages = 150
		var ids []string
		for range messages {
			s := submission("lab")
			s.Options.Async = true
			ids = append(ids, s.ID)
			if _, err := m.Send(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := m.Send(t.Context(), submission("free")); err != nil || r.Status != mailer.StatusSent || time.Since(o.begin) != 0 {
			t.Errorf("the other mailbox: %+v, %v after %v", r, err, time.Since(o.begin))
		}
		time.Sleep(10 * time.Minute)
		var at []time.Duration
		for _, id := range ids {
			one := o.get(t, id)
			if one.State != outbox.StateSent || one.Attempts != 1 {
				t.Fatalf("%s after %d attempts: %+v", one.State, one.Attempts, one.Failure)
			}
			at = append(at, one.Finished.Sub(o.begin))
		}
		slices.Sort(at)
		for i := 30; i < len(at); i++ {
			if at[i]-at[i-30] < time.Minute {
				t.Errorf("31 messages from %v to %v", at[i-30], at[i])
			}
		}
		if last := at[len(at)-1]; last > 4*time.Minute*10/9 {
			t.Errorf("the last went at %v, and the rate allows 4 min", last)
		}
	})
}

// TestThrottled: a server that asks for less mail gets none from the mailbox until it
// is due; nothing dies of it.
func TestThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		script := &mailertest.Script{Answers: map[string][]string{
			"MAIL": {"", "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", ""},
		}}
		lab := &mailer.Tenant{
			Server: mailer.Server{Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: script.Dial}, Limits: new(mailer.Limiter),
		}
		o, m := through(t, outbox.Policy{Connections: 1}, map[string]*mailer.Tenant{"lab": lab})
		var ids []string
		for i := range 12 {
			s := submission("lab")
			ids = append(ids, s.ID)
			r, err := m.Send(t.Context(), s)
			want := mailer.StatusQueued
			if i == 0 {
				want = mailer.StatusSent
			}
			if err != nil || r.Status != want {
				t.Fatalf("message %d: %+v, %v", i, r, err)
			}
		}
		if n := script.Said("MAIL"); n != 2 || time.Since(o.begin) != 0 {
			t.Errorf("MAIL was said %d times by %v", n, time.Since(o.begin))
		}
		time.Sleep(4 * time.Second)
		if n := script.Said("MAIL"); n != 2 {
			t.Errorf("MAIL was said %d times while the mailbox rests", n)
		}
		time.Sleep(30 * time.Minute)
		for _, id := range ids {
			if one := o.get(t, id); one.State != outbox.StateSent || one.Attempts > 2 {
				t.Errorf("%s after %d attempts", one.State, one.Attempts)
			}
		}
	})
}

// TestSlowMailbox: a server that says nothing delays no other mailbox.
func TestSlowMailbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := &mailertest.Script{Answers: map[string][]string{mailertest.Greeting: {mailertest.Silent}}}
		fast := new(mailertest.Script)
		on := func(s *mailertest.Script) *mailer.Tenant {
			return &mailer.Tenant{Server: mailer.Server{Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: s.Dial}}
		}
		o, m := through(t, outbox.Policy{}, map[string]*mailer.Tenant{"slow": on(slow), "fast": on(fast)})
		for range 50 {
			s := submission("slow")
			s.Options.Async = true
			if _, err := m.Send(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if r, err := m.Send(t.Context(), submission("fast")); err != nil || r.Status != mailer.StatusSent {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		if took := time.Since(o.begin); took != 0 {
			t.Errorf("the fast mailbox took %v", took)
		}
		r, err := m.Send(t.Context(), submission("slow"))
		if err != nil || r.Status != mailer.StatusQueued || time.Since(o.begin) > 25*time.Second {
			t.Errorf("%+v, %v after %v", r, err, time.Since(o.begin))
		}
	})
}
