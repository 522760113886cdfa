package listener

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// TestReplies: what the mail server said about the message comes to the client, what
// it said about us does not.
func TestReplies(t *testing.T) {
	t.Parallel()
	b := mailer.Address{Local: "b", Domain: "example.net"}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"rejected content", &mailer.Error{Stage: mailer.StageFinal, Kind: mailer.KindRejected, Reply: mailer.Reply{Code: 550, Enhanced: mailer.EnhancedCode{5, 7, 1}, Text: "spam, they say"}}, "550 5.7.1 spam, they say"},
		{"temporary", &mailer.Error{Stage: mailer.StageMail, Kind: mailer.KindThrottled, Reply: mailer.Reply{Code: 432, Enhanced: mailer.EnhancedCode{4, 3, 2}, Text: "concurrent connections"}}, "432 4.3.2 concurrent connections"},
		{"good-bye", &mailer.Error{Stage: mailer.StageData, Kind: mailer.KindTemporary, Reply: mailer.Reply{Code: 421, Enhanced: mailer.EnhancedCode{4, 4, 2}, Text: "bye"}}, "451 4.4.2 bye"},
		{"no enhanced code", &mailer.Error{Stage: mailer.StageMail, Kind: mailer.KindRejected, Reply: mailer.Reply{Code: 552, Text: "too big"}}, "552 5.0.0 too big"},
		{"codes that disagree", &mailer.Error{Stage: mailer.StageMail, Kind: mailer.KindRejected, Reply: mailer.Reply{Code: 552, Enhanced: mailer.EnhancedCode{4, 1, 1}, Text: "too big"}}, "552 5.0.0 too big"},
		{"a kind that knows better", &mailer.Error{Stage: mailer.StageMail, Kind: mailer.KindThrottled, Reply: mailer.Reply{Code: 550, Enhanced: mailer.EnhancedCode{5, 7, 3}, Text: "x"}, RetryAfter: 90 * time.Second}, "451 4.3.2 The mailbox has sent so much that it has to wait: try again in 1m30s"},
		{"a recipient", &mailer.Error{
			Stage: mailer.StageRcpt, Kind: mailer.KindRejected, Reply: mailer.Reply{Code: 451, Text: "first"},
			Recipients: []mailer.RecipientOutcome{
				{Address: mailer.Address{Local: "a", Domain: "example.net"}, Kind: mailer.KindTemporary, Reply: mailer.Reply{Code: 451, Text: "first"}},
				{Address: b, Kind: mailer.KindRejected, Reply: mailer.Reply{Code: 550, Enhanced: mailer.EnhancedCode{5, 1, 1}, Text: "unknown"}},
			},
		}, "550 5.1.1 <b@example.net>: unknown"},
		{"our password there", &mailer.Error{Stage: mailer.StageAuth, Kind: mailer.KindUnauthorized, Reply: mailer.Reply{Code: 535, Enhanced: mailer.EnhancedCode{5, 7, 3}, Text: "no"}}, "451 4.3.5 The mailbox behind"},
		{"our sign-in there", &mailer.Error{Stage: mailer.StageAuth, Kind: mailer.KindTemporary, Reply: mailer.Reply{Code: 454, Enhanced: mailer.EnhancedCode{4, 7, 0}, Text: "secret"}}, "451 4.4.0 The mail server cannot be reached"},
		{"no token", &mailer.Error{Stage: mailer.StageToken, Kind: mailer.KindUnauthorized, Err: errors.New("secret")}, "451 4.3.5 The mailbox behind"},
		{"unreachable", &mailer.Error{Stage: mailer.StageConnect, Kind: mailer.KindTemporary, Err: errors.New("secret")}, "451 4.4.0 The mail server cannot be reached"},
		{"not allowed", &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindSender, Err: errors.New("secret")}, "553 5.7.1 This sender"},
		{"doubt", &mailer.Error{Stage: mailer.StageFinal, Kind: mailer.KindUnknown, Err: errors.New("secret")}, "451 4.4.2 The mail server was lost"},
		{"outbox full", &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: "outbox_full"}, "452 4.3.1 "},
		{"outbox gone", &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: "outbox_unavailable"}, "451 4.3.0 The outbox"},
		{"too large for the mail server", &mailer.Error{Stage: mailer.StageMail, Kind: mailer.KindInvalid, Code: "over_upstream_size", Err: errors.New("message is over 1000 octets")}, "554 5.6.0 The message is malformed: message is over 1000 octets"},
		{"rejected without a word", &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindRejected, Err: errors.New("secret")}, "554 5.0.0 "},
		{"something else", errors.New("secret"), "451 4.3.0 Something"},
		{"wild words", &mailer.Error{Stage: mailer.StageFinal, Kind: mailer.KindRejected, Reply: mailer.Reply{Code: 550, Enhanced: mailer.EnhancedCode{5, 7, 1}, Text: "a\r\n250 ok\x00\xff" + strings.Repeat("x", 500)}}, "550 5.7.1 a??250 ok??xxx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{answer: func(context.Context, mailer.Submission) (mailer.Receipt, error) { return mailer.Receipt{}, tt.err }}
			c := dialTalk(t, listen(t, New(trusting(r.config())))).greeted()
			got := c.send(letter+".\r\n", tt.want)
			if len(got) > 510 || strings.Contains(got, "secret") {
				t.Errorf("%d octets: %s", len(got), got)
			}
			c.say("QUIT", "221") // in step
			c.gone()
			if len(r.refused) != 1 || r.refused[0].Command != "data" || r.refused[0].ID != r.sent()[0].ID || !errors.Is(r.refused[0].Err, tt.err) || !strings.HasPrefix(got, tt.want[:3]) ||
				r.refused[0].Code == 0 || r.refused[0].Enhanced[0] != r.refused[0].Code/100 || !strings.HasSuffix(got, " "+r.refused[0].Text) {
				t.Errorf("told of %+v", r.refused)
			}
		})
	}
}

// TestTaken: the client is told by which name the message goes.
func TestTaken(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	config := trusting(r.config())
	config.Outbox = false
	r.answer = func(_ context.Context, s mailer.Submission) (mailer.Receipt, error) {
		if s.Options.Async || !s.Options.AllRecipients {
			t.Errorf("options %+v", s.Options)
		}
		return mailer.Receipt{ID: s.ID, Status: mailer.StatusSent, Reply: mailer.Reply{Code: 250, Text: "OK 123 [Hostname=x]"}}, nil
	}
	c := dialTalk(t, listen(t, New(config))).greeted()
	got := c.send(letter+".\r\n", "250 2.0.0 Ok: sent as ")
	if want := "250 2.0.0 Ok: sent as " + r.sent()[0].ID + " (OK 123 [Hostname=x])"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	config = trusting(r.config())
	r.answer = nil
	c = dialTalk(t, listen(t, New(config))).greeted()
	got = c.send(letter+".\r\n", "250")
	s := r.sent()[1]
	if want := "250 2.0.0 Ok: queued as " + s.ID; got != want || !s.Options.Async || s.Options.AllRecipients {
		t.Errorf("got %q, want %q; options %+v", got, want, s.Options)
	}
}

// TestSubmission: what comes to Send is what was said.
func TestSubmission(t *testing.T) {
	t.Parallel()
	boss := mailer.Address{Local: "boss", Domain: "example.com"}
	for _, tt := range []struct {
		name     string
		identity Identity
		mail     string
		rcpts    []string
		from     string // of the envelope
		header   string
		dsn      mailer.DSN
	}{
		{name: "as it came", mail: "<printer@example.com>", from: "printer@example.com", header: "printer@example.com"},
		{name: "rewritten", identity: Identity{From: boss}, mail: "<printer@example.com>", from: "boss@example.com", header: "boss@example.com"},
		{name: "rewritten from nonsense", identity: Identity{From: boss}, mail: "<root>", from: "boss@example.com", header: "boss@example.com"},
		{name: "by default", identity: Identity{DefaultFrom: boss}, mail: "<>", from: "boss@example.com", header: "printer@example.com"},
		{name: "nonsense by default", identity: Identity{DefaultFrom: boss}, mail: "<root@copier>", from: "boss@example.com", header: "printer@example.com"},
		{name: "null sender", mail: "<>", header: "printer@example.com"},
		{
			name: "reports", mail: "<printer@example.com> RET=HDRS ENVID=QQ314159", from: "printer@example.com", header: "printer@example.com",
			rcpts: []string{"<b@example.net> NOTIFY=NEVER", "<c@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@example.net", "<d@example.net> NOTIFY=NEVER"},
			dsn:   mailer.DSN{Notify: []mailer.DSNEvent{mailer.NotifySuccess, mailer.NotifyDelay}, Return: mailer.ReturnHeaders, EnvelopeID: "QQ314159"},
		},
		{name: "no reports", mail: "<printer@example.com>", from: "printer@example.com", header: "printer@example.com", rcpts: []string{"<b@example.net> NOTIFY=NEVER"}, dsn: mailer.DSN{Notify: []mailer.DSNEvent{mailer.NotifyNever}}},
		{name: "twice the same", mail: "<printer@example.com> SIZE=1000 BODY=8BITMIME SMTPUTF8", from: "printer@example.com", header: "printer@example.com", rcpts: []string{"<b@example.net>", "<b@EXAMPLE.net>"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			config := r.config()
			config.Network = func(Client) *Identity {
				id := tt.identity
				id.Kind, id.Name, id.Tenant = "network", "lan", "office"
				return &id
			}
			c := dialTalk(t, listen(t, New(config))).greeted()
			c.say("MAIL FROM:"+tt.mail, "250")
			for _, to := range append(tt.rcpts, "<b@example.net>") {
				c.say("RCPT TO:"+to, "250")
			}
			c.say("DATA", "354")
			c.write(letter + ".\r\n")
			c.hear("250")
			s := r.sent()[0]
			if s.Envelope.From.Mailbox() != tt.from || s.From.Mailbox() != tt.header || s.MessageID != "<1@example.com>" || s.Tenant != "office" ||
				s.Caller.String() != "network lan" || s.Caller.Addr.String() != "127.0.0.1" || s.Caller.Request == "" || s.ID == "" {
				t.Errorf("%+v", s.Submission)
			}
			if a := r.accepted; len(a) != 1 || a[0].Receipt.ID != s.ID || a[0].Size != int64(len(s.trace+s.text)) || a[0].From != s.From {
				t.Errorf("told of %+v", a)
			}
			if diff := cmp.Diff(tt.dsn, s.Options.DSN); diff != "" {
				t.Error(diff)
			}
			if want := max(1, len(tt.rcpts)-strings.Count(tt.name, "twice")); len(s.Envelope.To) != want {
				t.Errorf("to %v", s.Envelope.To)
			}
		})
	}
	r := &recorder{}
	dialTalk(t, listen(t, New(trusting(r.config())))).greeted().say("MAIL FROM:<root@copier>", "553 5.1.7 ", "MAIL FROM:<a@example.com> REQUIRETLS", "530 5.7.0 ")
}
