package mailer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/emersion/go-sasl"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// tokenList gives out its tokens one after the other; a rejected one is gone.
type tokenList struct {
	err error
	// stubborn has no other token than the one that was refused.
	stubborn bool

	mu       sync.Mutex
	tokens   []string
	rejected []string
}

func (l *tokenList) AccessToken(context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.tokens) == 0 {
		return "", l.err
	}
	return l.tokens[0], nil
}

func (l *tokenList) Reject(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rejected = append(l.rejected, token)
	if l.stubborn {
		return false
	}
	l.tokens = slices.DeleteFunc(l.tokens, func(s string) bool { return s == token })
	return true
}

// TestSameTokenIsNotTriedAgain: servers count failed sign-ins.
func TestSameTokenIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Answers: map[string][]string{"AUTH": {"535 5.7.8 no", "235 2.7.0 yes"}}, Auth: "XOAUTH2"}
	err := plainTenant(s).SignIn(t.Context(), Token{User: account, Source: &tokenList{tokens: []string{"tok"}, stubborn: true}})
	if e := asError(err); err == nil || e.Kind != KindUnauthorized {
		t.Errorf("got %v", err)
	}
	if n := s.Sessions(); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

type temporaryError struct{}

func (temporaryError) Error() string   { return "provider is down" }
func (temporaryError) Temporary() bool { return true }

var errDead = errors.New("grant is dead")

const account = "user@example.com"

func TestInitialResponses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		client sasl.Client
		want   string
	}{
		{
			"xoauth2", &xoauth2Client{user: "test@contoso.onmicrosoft.com", token: "EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA"},
			"dXNlcj10ZXN0QGNvbnRvc28ub25taWNyb3NvZnQuY29tAWF1dGg9QmVhcmVyIEV3QkFBbDNCQUFVRkZwVUFvN0ozVmUwYmpMQldaV0NjbFJDM0VvQUEBAQ==",
		},
		{
			"oauthbearer", &oauthBearerClient{user: "a,b=c@example.com", host: "smtp.example.com", port: 587, token: "test-token"},
			"bixhPWE9MkNiPTNEY0BleGFtcGxlLmNvbSwBaG9zdD1zbXRwLmV4YW1wbGUuY29tAXBvcnQ9NTg3AWF1dGg9QmVhcmVyIHRlc3QtdG9rZW4BAQ==",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, ir, err := tt.client.Start()
			if err != nil {
				t.Fatal(err)
			}
			if got := base64.StdEncoding.EncodeToString(ir); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestMechanism(t *testing.T) {
	t.Parallel()
	password := Password{User: account, Password: "secret-password"}
	token := func(mechanism string) Token {
		return Token{User: account, Source: &tokenList{tokens: []string{"tok"}}, Mechanism: mechanism}
	}
	tests := []struct {
		name  string
		auth  Authenticator
		offer string
		want  string // empty: refused by us
	}{
		{"plain before login", password, "LOGIN PLAIN XOAUTH2", "PLAIN"},
		{"login", password, "LOGIN XOAUTH2", "LOGIN"},
		{"no password wanted", password, "XOAUTH2 OAUTHBEARER", ""},
		{"xoauth2 first", token(""), "OAUTHBEARER XOAUTH2 PLAIN", "XOAUTH2"},
		{"oauthbearer", token(""), "PLAIN OAUTHBEARER", "OAUTHBEARER"},
		{"oauthbearer named", token("oauthbearer"), "XOAUTH2 OAUTHBEARER", "OAUTHBEARER"},
		{"xoauth2 named", token("XOAUTH2"), "OAUTHBEARER", ""},
		{"a token is no password", token(""), "PLAIN LOGIN", ""},
		{"no such mechanism", token("PLAIN"), "PLAIN XOAUTH2", ""},
		{"lower case", token(""), "xoauth2", "XOAUTH2"},
		{"nothing offered", token(""), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Auth: tt.offer, Answers: map[string][]string{
				mailertest.Challenge: {"334 UGFzc3dvcmQ6", "235 ok"}, // LOGIN asks twice
			}}
			if tt.want == "LOGIN" {
				s.Answers["AUTH"] = []string{"334 VXNlcm5hbWU6"}
			}
			tenant := tlsTenant(t, s)
			err := tenant.SignIn(t.Context(), tt.auth)
			if tt.want == "" {
				e := wantError(t, err, StageAuth, KindConfig)
				if s.Said("AUTH") > 0 {
					t.Errorf("said %q", s.Lines())
				}
				for _, m := range strings.Fields(tt.offer) {
					if tt.name != "no such mechanism" && !strings.Contains(e.Error(), m) {
						t.Errorf("%v does not name %s", e, m)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Said("AUTH "+tt.want) != 1 {
				t.Errorf("said %q", s.Lines())
			}
			if tt.want == "LOGIN" {
				lines := s.Lines()[3:]
				if !slices.Equal(lines, []string{"AUTH LOGIN", "dXNlckBleGFtcGxlLmNvbQ==", "c2VjcmV0LXBhc3N3b3Jk", "QUIT"}) {
					t.Errorf("said %q", lines)
				}
			}
		})
	}
}

// TestTwoSteps takes tokens around the length at which the command line is
// full.
func TestTwoSteps(t *testing.T) {
	t.Parallel()
	for n := 300; n < 400; n++ {
		token := strings.Repeat("t", n)
		s := &mailertest.Script{Auth: xoauth2, Answers: map[string][]string{"AUTH": {"334 ", "235 ok"}}}
		tenant := plainTenant(s)
		payload := base64.StdEncoding.EncodeToString([]byte("user=" + account + "\x01auth=Bearer " + token + "\x01\x01"))
		oneLine := "AUTH XOAUTH2 " + payload
		fits := len(oneLine)+2 <= 512
		if fits {
			s.Answers["AUTH"] = []string{"235 ok"}
		}
		if err := tenant.SignIn(t.Context(), Token{User: account, Source: &tokenList{tokens: []string{token}}}); err != nil {
			t.Fatal(n, err)
		}
		want := []string{"EHLO localhost", "AUTH XOAUTH2", payload, "QUIT"}
		if fits {
			want = []string{"EHLO localhost", oneLine, "QUIT"}
		}
		if got := s.Lines(); !slices.Equal(got, want) {
			t.Fatalf("token of %d: said %q, want %q", n, got, want)
		}
	}
}

// TestFullLine takes PLAIN to just below and just above 512 octets.
func TestFullLine(t *testing.T) {
	t.Parallel()
	for n, oneLine := range map[int]bool{354: true, 355: false} { // 509 and 513 octets
		s := &mailertest.Script{Auth: "PLAIN", Answers: map[string][]string{"AUTH": {"334 "}}}
		if oneLine {
			s.Answers["AUTH"] = nil
		}
		if err := plainTenant(s).SignIn(t.Context(), Password{User: account, Password: strings.Repeat("p", n)}); err != nil {
			t.Fatal(n, err)
		}
		if got := s.Lines()[1]; (got != "AUTH PLAIN") != oneLine {
			t.Errorf("password of %d: said %q", n, got)
		}
	}
}

// TestTokenRefused has the server refuse in all the ways that were seen.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	const jsonChallenge = "334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmdvb2dsZS5jb20vIn0K"
	const refused = "535-5.7.8 Username and\n535 5.7.8 Password not accepted"
	long := strings.Repeat("L", 1500)
	tests := []struct {
		name      string
		mechanism string
		tokens    []string
		auth      []string // answers to AUTH
		challenge []string // answers to the answers to challenges
		kind      Kind     // KindNone: signed in
		rejected  []string
		status    string
		sessions  int
		reply     string
		said      string
	}{
		{name: "at once, then taken", tokens: []string{"one", "two"}, auth: []string{"535 5.7.3 Authentication unsuccessful", ""}, rejected: []string{"one"}, sessions: 2},
		{
			name: "by challenge, then taken", tokens: []string{"one", "two"}, auth: []string{jsonChallenge, ""}, challenge: []string{refused},
			rejected: []string{"one"}, sessions: 2,
		},
		{
			name: "at once, twice", tokens: []string{"one", "two", "three"}, auth: []string{"535 5.7.3 Authentication unsuccessful"},
			kind: KindUnauthorized, rejected: []string{"one"}, sessions: 2, reply: "535 5.7.3 Authentication unsuccessful",
		},
		{
			name: "by challenge, twice", tokens: []string{"one", "two"}, auth: []string{jsonChallenge}, challenge: []string{refused},
			kind: KindUnauthorized, rejected: []string{"one"}, status: "401", sessions: 2, reply: "535 5.7.8 Username and Password not accepted", said: "",
		},
		{
			name: "by challenge, OAUTHBEARER", mechanism: "OAUTHBEARER", tokens: []string{"one", "two"},
			auth: []string{"334 " + base64.StdEncoding.EncodeToString([]byte(`{"status":"invalid_token"}`))}, challenge: []string{"535 5.7.8 no"},
			kind: KindUnauthorized, rejected: []string{"one"}, status: "invalid_token", sessions: 2, reply: "535 5.7.8 no", said: "AQ==",
		},
		{
			name: "in two steps by challenge", tokens: []string{long, long + "2"}, auth: []string{"334 "}, challenge: []string{jsonChallenge, refused, jsonChallenge, refused},
			kind: KindUnauthorized, rejected: []string{long}, status: "401", sessions: 2, reply: "535 5.7.8 Username and Password not accepted",
		},
		{
			name: "status a number", tokens: []string{"one", "two"}, auth: []string{"334 " + base64.StdEncoding.EncodeToString([]byte(`{"status":400}`))}, challenge: []string{"535 no"},
			kind: KindUnauthorized, rejected: []string{"one"}, status: "400", sessions: 2, reply: "535 no",
		},
		{
			name: "token about to expire", tokens: []string{"one", "two"}, auth: []string{"501 5.5.127 Invalid XOAUTH2 auth data - Token will expire soon", ""},
			rejected: []string{"one"}, sessions: 2,
		},
		{
			name: "switched off for the mailbox", tokens: []string{"one", "two"}, auth: []string{"535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox."},
			kind: KindUnauthorized, sessions: 1, reply: "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
		},
		{
			name: "switched off, by words", tokens: []string{"one", "two"}, auth: []string{"535 Basic authentication is disabled"},
			kind: KindUnauthorized, sessions: 1, reply: "535 Basic authentication is disabled",
		},
		{name: "retired", tokens: []string{"one", "two"}, auth: []string{"550 5.7.30 no"}, kind: KindUnauthorized, sessions: 1, reply: "550 5.7.30 no"},
		{name: "later", tokens: []string{"one", "two"}, auth: []string{"454 4.7.0 Temporary authentication failure"}, kind: KindTemporary, sessions: 1, reply: "454 4.7.0 Temporary authentication failure"},
		{name: "no such mechanism", tokens: []string{"one", "two"}, auth: []string{"504 5.7.4 no"}, kind: KindConfig, sessions: 1, reply: "504 5.7.4 no"},
		{name: "endless questions", tokens: []string{"one", "two"}, auth: []string{"334 "}, challenge: []string{"334 "}, kind: KindTemporary, sessions: 1},
		{name: "no base64", tokens: []string{"one", "two"}, auth: []string{"334 *"}, challenge: []string{"501 cancelled"}, kind: KindTemporary, sessions: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Auth: "XOAUTH2 OAUTHBEARER", Answers: map[string][]string{"AUTH": tt.auth, mailertest.Challenge: tt.challenge}}
			source := &tokenList{tokens: tt.tokens}
			err := plainTenant(s).SignIn(t.Context(), Token{User: account, Source: source, Mechanism: tt.mechanism})
			if !slices.Equal(source.rejected, tt.rejected) {
				t.Errorf("rejected %q, want %q", source.rejected, tt.rejected)
			}
			if s.Sessions() != tt.sessions {
				t.Errorf("%d sessions, want %d", s.Sessions(), tt.sessions)
			}
			if tt.kind == KindNone {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e := wantError(t, err, StageAuth, tt.kind)
			if e.AuthStatus != tt.status || e.Reply.String() != tt.reply {
				t.Errorf("status %q, reply %q", e.AuthStatus, e.Reply)
			}
			if tt.status != "" && !slices.Contains(s.Lines(), tt.said) {
				t.Errorf("said %q, not %q", s.Lines(), tt.said)
			}
		})
	}
}

func TestTokenSourceFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		kind Kind
	}{
		{"temporary", fmt.Errorf("refreshing: %w", temporaryError{}), KindTemporary},
		{"dead", fmt.Errorf("refreshing: %w", errDead), KindUnauthorized},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Auth: xoauth2}
			err := plainTenant(s).SignIn(t.Context(), Token{User: account, Source: &tokenList{err: tt.err}})
			e := wantError(t, err, StageToken, tt.kind)
			if !errors.Is(err, tt.err) || e.Server != "127.0.0.1:25" {
				t.Errorf("error %v, server %q", err, e.Server)
			}
			if s.Said("AUTH") > 0 {
				t.Error("AUTH without a token")
			}
		})
	}
	t.Run("after a refusal", func(t *testing.T) {
		t.Parallel()
		s := &mailertest.Script{Auth: xoauth2, Answers: map[string][]string{"AUTH": {"535 no"}}}
		source := &tokenList{tokens: []string{"one"}, err: errDead}
		wantError(t, plainTenant(s).SignIn(t.Context(), Token{User: account, Source: source}), StageToken, KindUnauthorized)
	})
	t.Run("caller gone", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		s := &mailertest.Script{Auth: xoauth2}
		err := plainTenant(s).SignIn(ctx, Token{User: account, Source: goneSource{cancel}})
		wantError(t, err, StageToken, KindTemporary)
	})
}

type goneSource struct{ cancel func() }

func (g goneSource) AccessToken(ctx context.Context) (string, error) {
	g.cancel()
	return "", ctx.Err()
}
func (goneSource) Reject(string) bool { return true }

func TestCredentialsWithControlCharacters(t *testing.T) {
	t.Parallel()
	source := func(token string) TokenSource { return &tokenList{tokens: []string{token}} }
	tests := []struct {
		name  string
		auth  Authenticator
		stage Stage
	}{
		{"user", Token{User: "a\x01auth=Bearer x", Source: source("tok")}, StageAuth},
		{"no user", Token{Source: source("tok")}, StageAuth},
		{"token", Token{User: account, Source: source("a\x01b")}, StageToken},
		{"token with space", Token{User: account, Source: source("a b")}, StageToken},
		{"token with line", Token{User: account, Source: source("a\r\nb")}, StageToken},
		{"empty token", Token{User: account, Source: source("")}, StageToken},
		{"password user", Password{User: "a\x00b", Password: "p"}, StageAuth},
		{"password", Password{User: "a", Password: "p\x00"}, StageAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Auth: "PLAIN XOAUTH2"}
			wantError(t, plainTenant(s).SignIn(t.Context(), tt.auth), tt.stage, KindConfig)
			if s.Said("AUTH") > 0 {
				t.Errorf("said %q", s.Lines())
			}
		})
	}
}

// TestNoSecretsInErrors has servers echo what they were sent, at every length
// and in every shape.
func TestNoSecretsInErrors(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"canary-secret", "canary." + strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 50)} {
		status := base64.StdEncoding.EncodeToString([]byte(`{"status":"` + secret + `"}`))
		for _, fresh := range []func() Authenticator{
			func() Authenticator {
				return Token{User: account, Source: &tokenList{tokens: []string{secret, secret + "2"}}}
			},
			func() Authenticator {
				return Token{User: account, Source: &tokenList{tokens: []string{secret, secret + "2"}}, Mechanism: "OAUTHBEARER"}
			},
			func() Authenticator { return Password{User: account, Password: secret} },
		} {
			client, err := fresh().Client(t.Context(), ServerInfo{Host: "127.0.0.1", Port: 25, Mechanisms: []string{sasl.Plain, xoauth2, sasl.OAuthBearer}})
			if err != nil {
				t.Fatal(err)
			}
			_, payload, _ := client.Start()
			ir := base64.StdEncoding.EncodeToString(payload)
			for _, answer := range []string{
				"535 5.7.8 bad token " + secret,
				"535 5.7.8 bad <" + secret + ">",
				"535-5.7.8 " + secret[:len(secret)/2] + "\n535 5.7.8 " + secret[len(secret)/2:],
				"535 5.7.8 " + ir,
				"454 4.7.0 " + ir,
				"504 5.7.4 AUTH " + secret,
				"334 " + status,
				secret,
				mailertest.Close,
			} {
				s := &mailertest.Script{
					Auth:    "PLAIN XOAUTH2 OAUTHBEARER",
					Answers: map[string][]string{"AUTH": {answer}, mailertest.Challenge: {"535 5.7.8 " + ir, "535 5.7.8 " + secret}},
				}
				synctest.Test(t, func(t *testing.T) {
					err := plainTenant(s).SignIn(t.Context(), fresh())
					if err == nil {
						t.Fatal("signed in")
					}
					if s.Said("AUTH") == 0 {
						t.Error("the server was not asked")
					}
					for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
						if strings.Contains(text, secret[:12]) || strings.Contains(text, ir[:40]) || strings.Contains(text, "ijklmnopqrst") {
							t.Errorf("%q gives: %s", answer, text)
						}
					}
				})
			}
		}
		if text := fmt.Sprintf("%v %+v %#v", Password{User: "u", Password: secret}, Password{User: "u", Password: secret}, &Tenant{Auth: Password{User: "u", Password: secret}}); strings.Contains(text, secret) {
			t.Error(text)
		}
	}
}

func TestRedactKeepsWords(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", "a", "=", "XOAUTH2 token of some length"} {
		const text = "Authentication unsuccessful [AM0PR01CA0001.eurprd01.prod.exchangelabs.com 2026-01-01]"
		if got := redact(text, secret); got != text {
			t.Errorf("%q: %q", secret, got)
		}
	}
	if got := redact("your password hunter22 is bad", "hunter22"); got != "your password … is bad" {
		t.Error(got)
	}
}
