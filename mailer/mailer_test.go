package mailer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

func allow(t *testing.T, patterns ...string) Senders {
	t.Helper()
	s, err := ParseSenders(patterns...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func only(t *Tenant) func(string) (*Tenant, bool) {
	return func(name string) (*Tenant, bool) { return t, name == t.Name }
}

func submission(content Content) Submission {
	return Submission{ID: "id", MessageID: "<id@example.com>", Tenant: "lab", From: sender, Envelope: letter, Content: content}
}

func TestSend(t *testing.T) {
	t.Parallel()
	evil := Address{Local: "evil", Domain: "example.org"}
	tests := []struct {
		name   string
		change func(*Submission)
		stage  Stage
		kind   Kind
		code   string
	}{
		{name: "sent"},
		{"no id", func(s *Submission) { s.ID = "" }, StageAccept, KindInvalid, "no_id"},
		{"no message id", func(s *Submission) { s.MessageID = "" }, StageAccept, KindInvalid, "no_message_id"},
		{"no recipients", func(s *Submission) { s.Envelope.To = nil }, StageAccept, KindInvalid, "no_recipients"},
		{"no content", func(s *Submission) { s.Content = nil }, StageAccept, KindInvalid, "no_content"},
		{"asynchronous", func(s *Submission) { s.Options.Async = true }, StageAccept, KindInvalid, "outbox_required"},
		{"scheduled", func(s *Submission) { s.Options.At = time.Unix(1, 0) }, StageAccept, KindInvalid, "outbox_required"},
		{"unknown tenant", func(s *Submission) { s.Tenant = "labs" }, StageAccept, KindConfig, ""},
		{"header sender", func(s *Submission) { s.From = evil }, StageAccept, KindSender, "sender_not_allowed"},
		{"envelope sender", func(s *Submission) { s.Envelope.From = evil }, StageAccept, KindSender, "sender_not_allowed"},
		{"no header sender", func(s *Submission) { s.From = Address{} }, StageAccept, KindSender, "sender_not_allowed"},
		{"refused by the server", func(s *Submission) { s.Envelope.To = []Address{other} }, StageRcpt, KindRejected, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := new(mailertest.Script)
			if tt.stage == StageRcpt {
				s.Answers = map[string][]string{"RCPT": {"550 5.1.1 no"}}
			}
			tenant := plainTenant(s)
			tenant.Senders = allow(t, "a@example.com")
			var sent []Receipt
			var failed []*Error
			m := Mailer{Lookup: only(tenant), Hooks: Hooks{
				Sent:   func(_ Submission, r Receipt, _ time.Duration) { sent = append(sent, r) },
				Failed: func(_ Submission, e *Error, _ time.Duration) { failed = append(failed, e) },
			}}
			sub := submission(hello)
			if tt.change != nil {
				tt.change(&sub)
			}
			r, err := m.Send(t.Context(), sub)
			if tt.kind != KindNone {
				e := wantError(t, err, tt.stage, tt.kind)
				if e.Code != tt.code || len(sent) > 0 || len(failed) != 1 || failed[0] != e {
					t.Errorf("code %q, hooks %v, %v", e.Code, sent, failed)
				}
				if tt.stage == StageAccept && s.Sessions() > 0 {
					t.Error("dialed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.ID != "id" || r.MessageID != "<id@example.com>" || r.Tenant != "lab" || len(failed) > 0 {
				t.Errorf("receipt %+v, failed %v", r, failed)
			}
			if diff := cmp.Diff([]Receipt{r}, sent); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSendWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tenant := plainTenant(&mailertest.Script{Answers: map[string][]string{"MAIL": {mailertest.Silent}}})
		tenant.Senders = allow(t, "*")
		sub := submission(hello)
		sub.Options.Wait = 25 * time.Second
		begin := time.Now()
		_, err := (&Mailer{Lookup: only(tenant)}).Send(t.Context(), sub)
		wantError(t, err, StageMail, KindTemporary)
		if took := time.Since(begin); took != sub.Options.Wait || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// TestAgainstRecordingServer sends by all mechanisms to an independent server.
func TestAgainstRecordingServer(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("t", 2000)
	tests := []struct {
		name  string
		offer []string
		auth  Authenticator
		want  []mailertest.Login
	}{
		{"xoauth2", []string{xoauth2, "PLAIN"}, Token{User: account, Source: &tokenList{tokens: []string{"good"}}}, []mailertest.Login{{Mechanism: xoauth2, User: account, OK: true}}},
		{"xoauth2, long token", []string{xoauth2}, Token{User: account, Source: &tokenList{tokens: []string{long}}}, []mailertest.Login{{Mechanism: xoauth2, User: account, OK: true}}},
		{
			"xoauth2, old token first",
			[]string{xoauth2},
			Token{User: account, Source: &tokenList{tokens: []string{"old", "good"}}},
			[]mailertest.Login{{Mechanism: xoauth2, User: account}, {Mechanism: xoauth2, User: account, OK: true}},
		},
		{"oauthbearer", []string{"OAUTHBEARER"}, Token{User: account, Source: &tokenList{tokens: []string{"good"}}}, []mailertest.Login{{Mechanism: "OAUTHBEARER", User: account, OK: true}}},
		{
			"oauthbearer, old token first",
			[]string{"OAUTHBEARER"},
			Token{User: account, Source: &tokenList{tokens: []string{"old", "good"}}},
			[]mailertest.Login{{Mechanism: "OAUTHBEARER", User: account}, {Mechanism: "OAUTHBEARER", User: account, OK: true}},
		},
		{"plain", []string{"PLAIN", "LOGIN"}, Password{User: account, Password: "secret-password"}, []mailertest.Login{{Mechanism: "PLAIN", User: account, OK: true}}},
		{"login", []string{"LOGIN"}, Password{User: account, Password: "secret-password"}, []mailertest.Login{{Mechanism: "LOGIN", User: account, OK: true}}},
	}
	for _, implicit := range []bool{false, true} {
		for _, tt := range tests {
			name, start := tt.name, mailertest.NewServer
			security := StartTLS
			if implicit {
				name, start, security = name+", implicit TLS", mailertest.NewTLSServer, ImplicitTLS
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				srv := start(t)
				srv.Offer(tt.offer...)
				srv.AllowToken(account, "good")
				srv.AllowToken(account, long)
				srv.AllowPassword(account, "secret-password")
				auth := tt.auth
				if a, ok := auth.(Token); ok { // each run uses its tokens up
					a.Source = &tokenList{tokens: slices.Clone(a.Source.(*tokenList).tokens)}
					auth = a
				}
				tenant := &Tenant{
					Name: "lab", Auth: auth, Pool: new(Pool),
					Server: Server{Host: srv.Host, Port: srv.Port, Security: security, RootCAs: srv.CertPool},
				}
				defer tenant.Pool.Close()
				content := wireContent{text: "Subject: dots\r\n\r\n.\r\n..\r\n.end\r\n"}
				for range 2 {
					submit(t, tenant)
				}
				if _, err := tenant.Submit(t.Context(), letter, content, Options{}); err != nil {
					t.Fatal(err)
				}
				want := mailertest.Message{User: account, From: "a@example.com", To: []string{"b@example.net"}, Data: content.text}
				if diff := cmp.Diff(want, srv.Messages()[2]); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(tt.want, srv.Logins()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestRecordingServerRefuses(t *testing.T) {
	t.Parallel()
	srv := mailertest.NewServer(t)
	srv.AllowToken(account, "good")
	tenant := &Tenant{
		Name: "lab", Pool: new(Pool),
		Auth:   Token{User: account, Source: &tokenList{tokens: []string{"good"}}},
		Server: Server{Host: srv.Host, Port: srv.Port, RootCAs: srv.CertPool},
	}
	defer tenant.Pool.Close()
	srv.RejectNextContent(554, [3]int{5, 7, 1}, "spam")
	_, err := tenant.Submit(t.Context(), letter, hello, Options{})
	wantError(t, err, StageFinal, KindRejected)
	srv.RejectRecipient(someone.Mailbox(), 550, [3]int{5, 1, 1}, "no such user")
	_, err = tenant.Submit(t.Context(), letter, hello, Options{})
	wantError(t, err, StageRcpt, KindRejected)
	if err := tenant.SignIn(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := tenant.SignIn(t.Context(), Token{User: account, Source: &tokenList{tokens: []string{"good"}}}); err != nil {
		t.Error(err)
	}
	wantError(t, tenant.SignIn(t.Context(), Token{User: "mallory@example.com", Source: &tokenList{tokens: []string{"good", "good"}, err: errDead}}), StageToken, KindUnauthorized)
	srv.RejectToken("good")
	wantError(t, tenant.SignIn(t.Context(), Password{User: account, Password: "wrong"}), StageAuth, KindUnauthorized)
	if len(srv.Messages()) > 0 {
		t.Error("sent mail")
	}
}

// TestConcurrentSend has many callers share one tenant.
func TestConcurrentSend(t *testing.T) {
	t.Parallel()
	srv := mailertest.NewServer(t)
	srv.AllowToken(account, "good")
	tenant := &Tenant{
		Name: "lab", Pool: &Pool{Max: 3}, Senders: allow(t, "*@example.com"),
		Auth:   Token{User: account, Source: &tokenList{tokens: []string{"good"}}},
		Server: Server{Host: srv.Host, Port: srv.Port, RootCAs: srv.CertPool},
	}
	m := Mailer{Lookup: only(tenant)}
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			if _, err := m.Send(t.Context(), submission(hello)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tenant.Pool.Close()
	if len(srv.Messages()) != 60 || srv.Sessions() > 3 {
		t.Errorf("%d messages in %d sessions", len(srv.Messages()), srv.Sessions())
	}
}
