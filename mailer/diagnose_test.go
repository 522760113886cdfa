package mailer

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestRecipientDiagnosis: the refusal of a recipient means what it means to the
// server that said it.
func TestRecipientDiagnosis(t *testing.T) {
	t.Parallel()
	o := RecipientOutcome{Kind: KindRejected, Reply: Reply{Code: 550, Enhanced: EnhancedCode{5, 1, 10}, Text: "no"}}
	for server, want := range map[string]string{
		"smtp.office365.com:587": "exchange.recipient_not_found", "mail.example.com:587": "general.recipient_unknown",
	} {
		if got := o.Diagnosis(server).ID; got != want {
			t.Errorf("%s: got %s, want %s", server, got, want)
		}
	}
}

// TestClassifyAgreesWithDiagnosis takes every reply that finds a row of the table
// and holds what is done about the message to what people are told, at servers of
// all vendors and for all who sign in.
func TestClassifyAgreesWithDiagnosis(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("diagnosis/testdata/replies.txt")
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"mail.example.com", "smtp.office365.com", "smtp-hve.office365.com", "smtp.gmail.com", "smtp-relay.gmail.com", "smtp.mail.yahoo.com", "smtp.fastmail.com", "smtp.zoho.com"}
	found := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), " | ")
		if len(f) != 6 || line[0] == '#' || strings.HasPrefix(f[4], "cause: ") {
			continue
		}
		raw, err := readReply(bufio.NewReader(strings.NewReader(f[4] + "\r\n")))
		if err != nil {
			t.Fatalf("%s: %v", f[4], err)
		}
		r := raw.reply()
		if r.Code < 400 {
			continue
		}
		for _, stage := range []Stage{Stage(f[3]), StageGreeting, StageAuth, StageMail, StageRcpt, StageFinal} {
			kind, after := classify(stage, r)
			for _, host := range append(hosts, f[1]) {
				for _, g := range []diagnosis.Grant{diagnosis.Grant(f[2]), diagnosis.GrantApp, diagnosis.GrantPassword, ""} {
					e := &Error{Stage: stage, Kind: kind, Server: net.JoinHostPort(host, "587"), Reply: r, Grant: g}
					d := e.Diagnosis()
					found[d.ID] = true
					if !agree(kind, d.Class, r.Code) || (after > 0) != (d.Class == diagnosis.Throttle && r.Code >= 500) {
						t.Errorf("%s at %s: %s is %v after %v, while %s is of class %s", stage, host, r, kind, after, d.ID, d.Class)
					}
				}
			}
		}
	}
	for _, d := range diagnosis.All() {
		if vendor, _, _ := strings.Cut(d.ID, "."); vendor != "general" && !found[d.ID] && !strings.HasSuffix(d.ID, "retired_host") && !strings.HasSuffix(d.ID, "mailbox_not_enabled") {
			t.Errorf("%s was not found", d.ID)
		}
	}
}

// agree reports whether a kind and a class say the same of a refusal. What
// another try may bring is never given up, whoever has to act.
func agree(k Kind, c diagnosis.Class, code int) bool {
	switch k {
	case KindThrottled:
		return c == diagnosis.Throttle
	case KindTemporary:
		return c == diagnosis.Temporary || code/100 == 4 && c != diagnosis.Throttle
	case KindUnauthorized, KindConfig, KindRejected:
		return code/100 == 5 && (c == diagnosis.Permanent || c == diagnosis.Authorization)
	default:
		return false
	}
}

// TestDiagnosisWithoutReply holds the class to the kind where it was no server
// that said no.
func TestDiagnosisWithoutReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stage Stage
		kind  Kind
		code  string
		err   error
		want  string
		class diagnosis.Class
	}{
		{StageLimit, KindThrottled, "", context.DeadlineExceeded, "general.mailbox_busy", diagnosis.Throttle},
		{StageLimit, KindThrottled, codeRate, context.DeadlineExceeded, "general.mailbox_rate", diagnosis.Throttle},
		{StageLimit, KindThrottled, codePaused, context.DeadlineExceeded, "general.mailbox_paused", diagnosis.Throttle},
		{StageLimit, KindThrottled, codeRecipients, errors.New("3 are left"), "general.mailbox_day_used_up", diagnosis.Throttle},
		{StageLimit, KindInvalid, codeRecipients, errors.New("too many"), "general.mailbox_day_too_small", diagnosis.Permanent},
		{StageConnect, KindTemporary, codeProxyNoAnswer, os.ErrDeadlineExceeded, "general.proxy_unreachable", diagnosis.Temporary},
		{StageConnect, KindTemporary, codeProxyNoAnswer, context.Canceled, "general.canceled", diagnosis.Temporary},
		{StageConnect, KindTemporary, codeProxyNoWay, nil, "general.proxy_failed", diagnosis.Temporary},
		{StageConnect, KindTemporary, codeProxyTrouble, nil, "general.proxy_failed", diagnosis.Temporary},
		{StageConnect, KindConfig, codeProxyAuth, nil, "general.proxy_auth", diagnosis.Permanent},
		{StageConnect, KindConfig, codeProxyForbids, nil, "general.proxy_refused", diagnosis.Permanent},
		{StageConnect, KindConfig, codeNoProxy, nil, "general.proxy_wrong_kind", diagnosis.Permanent},
		{StageConnect, KindConfig, codeProxyTLS, x509.UnknownAuthorityError{}, "general.proxy_tls", diagnosis.Permanent},
		{StageConnect, KindConfig, "address_refused", errors.New("refused"), "general.address_refused", diagnosis.Permanent},
	} {
		e := &Error{Stage: tt.stage, Kind: tt.kind, Server: "smtp.office365.com:587", Code: tt.code, Err: tt.err}
		if d := e.Diagnosis(); d.ID != tt.want || d.Class != tt.class {
			t.Errorf("%s, %v, %s: found %s of class %s, want %s of class %s", tt.stage, tt.kind, tt.code, d.ID, d.Class, tt.want, tt.class)
		}
	}
}

// TestOutageIsNotAuthorization: what says nothing against an account must not
// ask for a person.
func TestOutageIsNotAuthorization(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{
		"535 5.7.139 Authentication unsuccessful, federated STS service was unreachable.",
		"454 4.7.0 Temporary authentication failure",
		"451 4.7.0 Temporary server error. Please try again later. PRX2",
		"430 4.2.0 STOREDRV; mailbox logon failure",
		"421 4.7.66 TLS 1.0 and 1.1 are not supported",
	} {
		raw, err := readReply(bufio.NewReader(strings.NewReader(reply + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		if kind, _ := classify(StageAuth, raw.reply()); kind.Outcome() != Retry {
			t.Errorf("%s is %v", reply, kind)
		}
	}
}

// TestDiagnosisOfSession goes the way from a server's words to the diagnosis.
func TestDiagnosisOfSession(t *testing.T) {
	t.Parallel()
	password := Password{User: "user@example.com", Password: "a-password"}
	token := Token{User: "user@example.com", Source: steadyToken("token")}
	app := token
	app.App = true
	const refused = "535 5.7.3 Authentication unsuccessful [FR0P281CA0001.DEUP281.PROD.OUTLOOK.COM]"
	for _, tt := range []struct {
		name   string
		script *mailertest.Script
		host   string
		auth   Authenticator
		want   string
	}{
		{"delegated token", &mailertest.Script{Auth: "XOAUTH2", Answers: map[string][]string{"AUTH": {refused}}}, "smtp.office365.com", token, "exchange.token_refused"},
		{"application's token", &mailertest.Script{Auth: "XOAUTH2", Answers: map[string][]string{"AUTH": {refused}}}, "smtp.office365.com", app, "exchange.app_token_refused"},
		{"password", &mailertest.Script{Auth: "LOGIN PLAIN", Answers: map[string][]string{"AUTH": {refused}}}, "smtp.office365.com", password, "exchange.password_refused"},
		{"status of the challenge", &mailertest.Script{Auth: "XOAUTH2", Answers: map[string][]string{
			"AUTH": {"334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIn0="}, mailertest.Challenge: {"535 5.7.8 no"},
		}}, "mail.example.com", token, "general.token_ended"},
		{"no AUTH", &mailertest.Script{}, "mail.example.com", token, "general.auth_not_offered"},
		{"other AUTH", &mailertest.Script{Auth: "LOGIN"}, "mail.example.com", token, "general.mechanism_not_offered"},
		{"greeting", &mailertest.Script{Answers: map[string][]string{mailertest.Greeting: {mailertest.Close}}}, "mail.example.com", token, "general.greeting_closed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conf, roots := mailertest.NewCertificate(t)
			tt.script.TLS = conf
			tenant := &Tenant{Server: Server{Host: "localhost", Port: 587, RootCAs: roots, Dial: tt.script.Dial}, Auth: tt.auth}
			var e *Error
			if err := tenant.SignIn(t.Context(), nil); !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			e.Server = net.JoinHostPort(tt.host, "587") // for which there is no certificate here
			if d := e.Diagnosis(); d.ID != tt.want {
				t.Errorf("%v: found %s, want %s", e, d.ID, tt.want)
			}
		})
	}
	t.Run("no STARTTLS", func(t *testing.T) {
		t.Parallel()
		tenant := &Tenant{Server: Server{Host: "mail.example.com", Port: 587, Dial: new(mailertest.Script).Dial}}
		var e *Error
		if err := tenant.SignIn(t.Context(), nil); !errors.As(err, &e) || e.Diagnosis().ID != "general.starttls_not_offered" {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no such name", func(t *testing.T) {
		t.Parallel()
		tenant := &Tenant{Server: Server{Host: "smtp-emea.outlook.com", Port: 587, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		}}}
		var e *Error
		if err := tenant.SignIn(t.Context(), nil); !errors.As(err, &e) || e.Diagnosis().ID != "outlook.retired_host" {
			t.Errorf("error %v", err)
		}
	})
}

// steadyToken is a source of one token, which it sticks to.
type steadyToken string

func (s steadyToken) AccessToken(context.Context) (string, error) { return string(s), nil }
func (s steadyToken) Reject(string) bool                          { return false }
