package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"golang.org/x/oauth2"
)

// A fakePlugin has the plugin's endpoints and just enough behind them: it signs in and sends, once at a time.
type fakePlugin struct {
	oauth *oauth2.Config
	smtp  string // the mail server's address

	mu       sync.Mutex
	verifier string
	token    *oauth2.Token
}

func (f *fakePlugin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /admin/accounts/{provider}/{user}/authorize", f.authorize)
	mux.HandleFunc("GET /admin/accounts", f.accounts)
	mux.HandleFunc("GET /oauth/callback/quickstart/start", f.start)
	mux.HandleFunc("POST /oauth/callback/quickstart/start", f.begin)
	mux.HandleFunc("GET /oauth/callback/quickstart", f.callback)
	mux.HandleFunc("POST /emails", f.emails)
	return mux
}

func (f *fakePlugin) authorize(w http.ResponseWriter, r *http.Request) {
	name, word, _ := r.BasicAuth()
	if name != operator || word != password || r.PathValue("user") != mailbox {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"url":        "http://" + r.Host + "/oauth/callback/quickstart/start?ticket=t1",
		"expires_at": "2030-01-01T00:00:00Z",
	})
}

func (f *fakePlugin) accounts(w http.ResponseWriter, _ *http.Request) {
	state := "unauthorized"
	if f.held() != nil {
		state = "authorized"
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"accounts": []account{
		{"other", mailbox, "authorized"}, {provider, mailbox, state},
	}})
}

func (f *fakePlugin) start(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<form></form><form method=post><input type=hidden name=ticket value="%s"><button>Continue</button></form>`,
		r.URL.Query().Get("ticket"))
}

func (f *fakePlugin) begin(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("ticket") != "t1" || r.Header.Get("Sec-Fetch-Site") != "same-origin" || r.Header.Get("Origin") == "" {
		http.Error(w, "not from the start page", http.StatusForbidden)
		return
	}
	verifier := oauth2.GenerateVerifier()
	f.mu.Lock()
	f.verifier = verifier
	f.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: "flow", Value: "c1", Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, f.oauth.AuthCodeURL("s1", oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

func (f *fakePlugin) callback(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	c, err := r.Cookie("flow")
	if err != nil || c.Value != "c1" || r.FormValue("state") != "s1" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token, err = f.oauth.Exchange(r.Context(), r.FormValue("code"), oauth2.VerifierOption(f.verifier))
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, "<title>x</title><h1>The provider did not answer</h1><p>It said server_error.")
		return
	}
	fmt.Fprint(w, "<h1>Connected</h1>")
}

func (f *fakePlugin) emails(w http.ResponseWriter, r *http.Request) {
	var m post
	err := json.NewDecoder(r.Body).Decode(&m)
	if err != nil || r.Header.Get("Authorization") != "Bearer "+apiKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	id := "<" + rand.Text() + "@example.com>"
	answer := receipt{ID: "1", MessageID: id, Status: "queued"}
	if err := f.submit(m, id); err == nil {
		answer.Status = "sent"
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *fakePlugin) submit(m post, id string) error {
	c, err := smtp.Dial(f.smtp)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Auth(xoauth2Client{mailbox, f.held().AccessToken})
	if err != nil {
		return err
	}
	content := fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nMessage-ID: %s\nContent-Type: text/plain; charset=utf-8\n\n%s",
		m.From, m.To, m.Subject, id, m.Text)
	return c.SendMail(mailbox, []string{m.To}, strings.NewReader(strings.ReplaceAll(content, "\n", "\r\n")))
}

func (f *fakePlugin) held() *oauth2.Token {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.token
}

// testTrip is a whole quickstart on free ports, with a fake in the plugin's place.
func testTrip(t *testing.T, brokenIDP bool) (*trip, *fakePlugin, *bytes.Buffer) {
	t.Helper()
	listeners, err := listenLoopback(0, "test")
	if err != nil {
		t.Fatal(err)
	}
	base := urlOf(listeners)
	p, c := testIDP(t, func(c *idpConfig) {
		c.redirectURI = base + "/oauth/callback/quickstart"
		c.broken = brokenIDP
	})
	b, addr := testInbox(t, p.owner)
	fake := &fakePlugin{oauth: c, smtp: addr}
	stop := serveHTTP(fake.handler(), listeners)
	t.Cleanup(func() { _ = stop(context.Background()) })
	out := new(bytes.Buffer)
	return &trip{
		plugin: &plugin{base: base, operator: operator, password: password, key: apiKey, client: &http.Client{}},
		inbox:  b, issuer: p.issuer, provider: provider, mailbox: mailbox, recipient: recipient, out: out,
	}, fake, out
}

func TestTrip(t *testing.T) {
	t.Parallel()
	trip, _, out := testTrip(t, false)
	err := trip.run(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Count(out.String(), "\nok "); got != 9 {
		t.Errorf("%d lines after the first, want 9:\n%s", got, out)
	}
}

func TestTripSaysWhereItEnds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		broken bool // the authorization server's token endpoint
		change func(*trip, *fakePlugin)
		step   int
		want   []string
	}{
		{
			name:   "no plugin",
			change: func(trip *trip, _ *fakePlugin) { trip.plugin.base = "http://localhost:1" },
			step:   1, want: []string{"sign-in link", "refused"},
		},
		{
			name:   "wrong operator password",
			change: func(trip *trip, _ *fakePlugin) { trip.plugin.password = "wrong" },
			step:   1, want: []string{"/authorize", "401"},
		},
		{
			name: "client unknown to the authorization server",
			change: func(_ *trip, f *fakePlugin) {
				f.oauth.ClientID = "unknown"
			},
			step: 4, want: []string{"authorization server", "400"},
		},
		{
			name:   "authorization server elsewhere",
			change: func(_ *trip, f *fakePlugin) { f.oauth.Endpoint.AuthURL = "http://idp.example/authorize" },
			step:   3, want: []string{"expected a redirect to the authorization server", "http://idp.example/authorize"},
		},
		{
			name:   "mailbox that cannot sign in",
			change: func(trip *trip, f *fakePlugin) { trip.mailbox = "nobody@example.com" },
			step:   1, want: []string{"401"},
		},
		{
			name: "token endpoint broken", broken: true,
			change: func(*trip, *fakePlugin) {},
			step:   6, want: []string{"return to the plugin", "502", "It said server_error."},
		},
		{
			name:   "no mail server",
			change: func(_ *trip, f *fakePlugin) { f.smtp = "localhost:1" },
			step:   8, want: []string{"post a mail", "queued", "mail server"},
		},
		{
			name:   "wrong API key",
			change: func(trip *trip, _ *fakePlugin) { trip.plugin.key = "wrong" },
			step:   8, want: []string{"post a mail", "401"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			trip, fake, out := testTrip(t, tt.broken)
			tt.change(trip, fake)
			err := trip.run(t.Context())
			var ended *stepError
			if !errors.As(err, &ended) || ended.step != tt.step {
				t.Fatalf("err = %v, want step %d\n%s", err, tt.step, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			for _, secret := range []string{"ticket=", "code=", "state=", "code_challenge", apiKey, password + "\""} {
				if strings.Contains(err.Error()+out.String(), secret) {
					t.Errorf("%q leaks %q", err, secret)
				}
			}
			if !strings.Contains(out.String(), "FAIL  ") {
				t.Errorf("no FAIL line:\n%s", out)
			}
		})
	}
}

// A URL may carry a code or a ticket, and the HTTP client puts it into its errors.
func TestPlainError(t *testing.T) {
	t.Parallel()
	_, err := http.Get("http://localhost:1/callback?code=secret")
	if err == nil || !strings.Contains(err.Error(), "secret") {
		t.Fatalf("err = %v, want one with the URL", err)
	}
	if got := plainError(err).Error(); strings.Contains(got, "secret") || !strings.Contains(got, "refused") {
		t.Errorf("got %q", got)
	}
	late := &url.Error{Op: "Get", URL: "http://localhost:1/?code=secret", Err: context.DeadlineExceeded}
	if got := plainError(late).Error(); got != "no answer in time" {
		t.Errorf("got %q", got)
	}
}

func TestCompareMail(t *testing.T) {
	t.Parallel()
	want := post{From: "Q <" + mailbox + ">", To: recipient, Subject: "s", Text: "a\n.\nb\n"}
	answer := receipt{MessageID: "<1@x>"}
	good := mail{
		Subject: "s", From: "Q <" + mailbox + ">", Text: "a\r\n.\r\nb\r\n", SignedInAs: mailbox,
		RcptTo: []string{recipient}, MessageID: "<1@x>",
	}
	tests := []struct {
		name   string
		change func(*mail)
		want   string // in the error; "" wants none
	}{
		{"as posted", func(*mail) {}, ""},
		{"subject", func(m *mail) { m.Subject = "t" }, "subject"},
		{"text cut", func(m *mail) { m.Text = "a\r\n" }, "text"},
		{"sender", func(m *mail) { m.From = "x@example.com" }, "From"},
		{"recipient", func(m *mail) { m.RcptTo = nil }, "recipients"},
		{"Message-ID", func(m *mail) { m.MessageID = "<2@x>" }, "Message-ID"},
		{"account", func(m *mail) { m.SignedInAs = stranger }, "signed in"},
		{"unreadable", func(m *mail) { m.Trouble = "EOF" }, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := good
			tt.change(&m)
			err := compareMail(&m, want, answer, mailbox)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}
