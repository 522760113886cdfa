package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// bench is the handlers over doubles, without a network: it works in bubbles.
type bench struct {
	t       *testing.T
	idp     *tokenstest.Server
	storage *tokenstest.Storage
	app     *App
	handler *Handler
	log     bytes.Buffer
	posted  int
}

// benches counts the benches made.
var benches atomic.Int64

// newBench makes a bench with the providers idp and other, and a tenant that
// signs in at idp. Change, if it is not nil, may change them before they are in
// use.
func newBench(t *testing.T, change func(*snapshot)) *bench {
	t.Helper()
	b := &bench{t: t, idp: tokenstest.NewServer(), storage: tokenstest.NewStorage()}
	b.idp.ClientSecret = clientSecret
	// The process holds one token for each account and registration.
	b.idp.ClientID = fmt.Sprintf("%s-%d", b.idp.ClientID, benches.Add(1))
	registered := Provider{
		Issuer: b.idp.Issuer, AuthorizationEndpoint: b.idp.Issuer + tokenstest.PathAuthorize, TokenEndpoint: b.idp.Issuer + tokenstest.PathToken,
		ClientID: b.idp.ClientID, ClientAuth: "post",
		Scopes: []string{"smtp.send", "offline_access", "openid", "email"}, Servers: []string{"smtp.example.net"},
	}
	s, err := build(settings{
		redirectBase: "https://mail.example.com/oauth/callback",
		providers:    map[string]providerSettings{"idp": {Provider: registered}, "other": {Provider: registered}},
		tenants: map[string]tenantSettings{"default": {Tenant: Tenant{
			Server: "smtp.example.net", Auth: Auth{Method: "oauth", Provider: "idp"}, User: mailbox,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.providers {
		p.settings.Credentials = tokens.NewClientSecret(clientSecret)
	}
	if change != nil {
		change(s)
	}
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{1}, tokens.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	keys := func() (*tokens.KeyRing, error) { return ring, nil }
	b.app = &App{logger: slog.New(slog.NewTextHandler(&b.log, nil)), keys: keys, store: tokens.NewStore(b.storage, keys)}
	b.app.flow = &tokens.Flow{Store: b.app.store, Keys: keys}
	if err := b.app.attach(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.app.holdings.release)
	for _, p := range s.providers {
		p.client = tokens.NewClient(p.settings, b.idp)
	}
	b.app.registry.current.Store(s)
	b.handler = &Handler{User: "{http.auth.user.id}", app: b.app, logger: b.app.logger}
	return b
}

// allowDeviceCodes is a change for newBench.
func allowDeviceCodes(s *snapshot) {
	p := s.providers["idp"]
	p.settings.DeviceCode = true
	p.settings.DeviceAuthorizationEndpoint = p.settings.Issuer + tokenstest.PathDevice
}

// serve makes a request to an endpoint. Change, if it is not nil, may change it.
func (b *bench) serve(endpoint func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error, method, target, body string, change func(*http.Request)) answer {
	b.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "mail.example.com"
	if change != nil {
		change(r)
	}
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.ExtraLogFieldsCtxKey, new(caddyhttp.ExtraLogFields)))
	repl := caddyhttp.NewTestReplacer(r)
	repl.Set("http.auth.user.id", "ops")
	w := httptest.NewRecorder()
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := endpoint(w, caddyhttp.PrepareRequest(r, repl, w, nil), next); err != nil {
		b.t.Fatal(err)
	}
	return answer{w.Code, w.Header(), w.Body.String()}
}

// admin makes a call of the administration.
func (b *bench) admin(method, path, body string) answer {
	b.t.Helper()
	return b.serve(b.handler.serveAdmin, method, path, body, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
}

// call makes a call that must answer with the status, and reads the answer.
func (b *bench) call(path, body string, status int, v any) {
	b.t.Helper()
	got := b.admin("POST", path, body)
	if got.status != status {
		b.t.Fatalf("POST %s %s: status %d, want %d: %s", path, body, got.status, status, got.body)
	}
	if err := json.Unmarshal([]byte(got.body), v); err != nil {
		b.t.Fatal(err)
	}
}

// posts returns how many requests came to the token endpoint since the last call.
func (b *bench) posts() int {
	n := 0
	for _, r := range b.idp.Requests() {
		if r.Path == tokenstest.PathToken {
			n++
		}
	}
	since := n - b.posted
	b.posted = n
	return since
}

// stored is the account's token; nil for none.
func (b *bench) stored() *tokens.Token {
	t, err := b.app.store.Load(b.t.Context(), tokens.Account{Provider: "idp", User: mailbox})
	if err != nil {
		return nil
	}
	return t
}

const benchAccount = "/accounts/idp/" + mailbox

func TestDeviceSignIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, allowDeviceCodes)
		var begun invitation
		b.call(benchAccount+"/authorize", `{"flow":"device"}`, 201, &begun)
		if begun.Flow != "device" || begun.UserCode == "" || begun.VerificationURI == "" || begun.VerificationURIComplete == "" ||
			begun.Message == "" || begun.Interval != 5 || begun.Session == "" || begun.URL != "" || !begun.ExpiresAt.Equal(time.Now().Add(tokenstest.DeviceLife)) {
			t.Errorf("begun: %+v", begun)
		}
		var v completion
		ask := func(session string, status int) {
			t.Helper()
			v = completion{}
			b.call(benchAccount+"/complete", `{"session":"`+session+`"}`, status, &v)
		}
		time.Sleep(2500 * time.Millisecond)
		ask(begun.Session, 202)
		if v.Status != "pending" || v.Interval != 3 || b.posts() != 0 {
			t.Errorf("too early: %+v", v)
		}
		time.Sleep(2500 * time.Millisecond)
		b.idp.Next(tokenstest.Fail(400, "slow_down", ""))
		ask(v.Session, 202)
		if v.Interval != 10 {
			t.Errorf("after slow_down: %+v", v)
		}
		time.Sleep(10 * time.Second)
		b.idp.Next(tokenstest.Status(503, ""))
		ask(v.Session, 202)
		if v.Interval != 20 || !strings.Contains(v.Trouble, "503") {
			t.Errorf("in trouble: %+v", v)
		}
		if err := b.idp.Allow(begun.UserCode, mailbox); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		_, source, err := admin{b.app}.find("idp", mailbox)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := source.AccessToken(t.Context()); err == nil {
			t.Error("there is a token before the sign-in")
		}
		ask(v.Session, 200)
		if v.Status != "completed" || v.Account == nil || v.Account.State != "authorized" || v.Account.AuthorizedBy != "ops" || v.Session != "" {
			t.Errorf("completed: %+v", v)
		}
		// The running source has it at once: nothing is fetched, and the failure
		// just now does not answer.
		b.posts()
		if token, err := source.AccessToken(t.Context()); err != nil || !b.idp.Valid(token) || b.posts() != 0 {
			t.Errorf("AccessToken: %v", err)
		}
	})
}

// TestSignInProblems: what is wrong, for programs and for people.
func TestSignInProblems(t *testing.T) {
	t.Parallel()
	_, elsewhere := tokenstest.NewServer().Issue(mailbox, "smtp.send")
	paste := func(b *bench, person string, change func(session, address string) (string, string)) answer {
		var begun invitation
		b.call(benchAccount+"/authorize", `{"flow":"paste"}`, 201, &begun)
		response, err := b.idp.Consent(begun.URL, person)
		if err != nil {
			b.t.Fatal(err)
		}
		session, address := begun.Session, begun.RedirectURI+"?"+response.Encode()
		if change != nil {
			session, address = change(session, address)
		}
		body, err := json.Marshal(map[string]string{"session": session, "url": address})
		if err != nil {
			b.t.Fatal(err)
		}
		return b.admin("POST", benchAccount+"/complete", string(body))
	}
	for name, test := range map[string]struct {
		change func(*snapshot)
		do     func(*bench) answer
		status int
		reason string
		who    string
		text   string
	}{
		"a flow that is not known":  {do: post("/authorize", `{"flow":"carrier pigeon"}`), status: 422, text: "`flow`: must be browser, device or paste"},
		"a field that is not known": {do: post("/authorize", `{"flow":"paste","return_to":"https://evil.example"}`), status: 422, text: "`return_to`"},
		"a field in another case":   {do: post("/authorize", `{"Flow":"paste"}`), status: 400, text: "must be written `flow`"},
		"a field twice":             {do: post("/authorize", `{"flow":"paste","flow":"device"}`), status: 400, text: "comes twice"},
		"no object":                 {do: post("/authorize", `"paste"`), status: 400, text: "must be an object"},
		"a number":                  {do: post("/authorize", `{"flow":1}`), status: 400, text: "must be a string"},
		"too large":                 {do: post("/complete", `{"session":"`+strings.Repeat("x", maxAdminBody)+`"}`), status: 413, text: "too large"},
		"refresh with settings":     {do: post("/refresh", `{"force":true}`), status: 422, text: "`force`"},
		"disconnect with settings":  {do: post("/disconnect", `{"upstream":true}`), status: 422, text: "`upstream`"},
		"no session":                {do: post("/complete", `{}`), status: 422, text: "`session` is missing"},
		"no refresh token":          {do: post("/import", ``), status: 422, text: "`refresh_token` is missing"},
		"device codes are off":      {do: post("/authorize", `{"flow":"device"}`), status: 422, reason: "unavailable", who: "operator", text: "set device_code"},
		"a broken session":          {do: post("/complete", `{"session":"rubbish"}`), status: 422, reason: "session", who: "operator", text: "no session of a device code"},
		"an address elsewhere": {do: func(b *bench) answer {
			return paste(b, mailbox, func(s, _ string) (string, string) { return s, "https://evil.example/?code=x" })
		}, status: 422, reason: "other_address", who: "mailbox owner", text: "must begin with https://mail.example.com/oauth/callback/idp"},
		"a paste without its address": {do: func(b *bench) answer {
			return paste(b, mailbox, func(s, _ string) (string, string) { return s, "" })
		}, status: 422, reason: "session", who: "operator", text: "no session of a device code"},
		"a foreign state": {do: func(b *bench) answer {
			return paste(b, mailbox, func(s, a string) (string, string) { return s, strings.Replace(a, "state=", "state=x", 1) })
		}, status: 422, reason: "state", who: "operator", text: "state"},
		"too late": {do: func(b *bench) answer {
			return paste(b, mailbox, func(s, a string) (string, string) { time.Sleep(time.Hour); return s, a })
		}, status: 410, reason: "expired", who: "operator", text: "ten minutes"},
		"another person":      {do: func(b *bench) answer { return paste(b, "boss@example.com", nil) }, status: 409, reason: "wrong_account", who: "mailbox owner", text: "boss@example.com"},
		"fewer scopes":        {do: func(b *bench) answer { b.idp.Scope = "openid"; return paste(b, mailbox, nil) }, status: 409, reason: "scope", who: "mailbox owner", text: "smtp.send"},
		"the storage is down": {do: func(b *bench) answer { b.storage.Fail(tokenstest.OpStore, -1, nil); return paste(b, mailbox, nil) }, status: 502, reason: "storage", who: "operator", text: "fault"},
		"denied": {change: allowDeviceCodes, do: func(b *bench) answer {
			var begun invitation
			b.call(benchAccount+"/authorize", `{"flow":"device"}`, 201, &begun)
			if err := b.idp.Deny(begun.UserCode); err != nil {
				b.t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			return b.admin("POST", benchAccount+"/complete", `{"session":"`+begun.Session+`"}`)
		}, status: 409, reason: "denied", who: "mailbox owner", text: "access_denied"},
		"the client is not known": {change: allowDeviceCodes, do: func(b *bench) answer {
			b.idp.ClientID = "another"
			return b.admin("POST", benchAccount+"/authorize", `{"flow":"device"}`)
		}, status: 502, reason: "exchange", who: "operator", text: "invalid_client"},
		"a refresh token of another server": {do: post("/import", `{"refresh_token":"`+elsewhere+`"}`), status: 409, reason: "exchange", who: "operator", text: "invalid_grant"},
		"an answer that is none": {change: allowDeviceCodes, do: func(b *bench) answer {
			b.idp.Next(tokenstest.Set(map[string]any{"user_code": nil}))
			return b.admin("POST", benchAccount+"/authorize", `{"flow":"device"}`)
		}, status: 502, reason: "exchange", who: "operator", text: "lacks"},
		"a paste that is refused for our settings": {do: func(b *bench) answer {
			return paste(b, mailbox, func(s, a string) (string, string) {
				return s, strings.Replace(a, "code=", "error=invalid_resource&x=", 1)
			})
		}, status: 409, reason: "denied", who: "operator", text: "invalid_resource"},
		"a provider that has moved": {do: func(b *bench) answer {
			b.idp.Next(tokenstest.Status(404, ""))
			return post("/import", `{"refresh_token":"`+elsewhere+`"}`)(b)
		}, status: 502, reason: "exchange", who: "operator", text: "404"},
		"disconnecting where nobody signs in": {
			change: func(s *snapshot) { s.providers["idp"].settings.Grant = tokens.GrantServiceAccount },
			do:     post("/disconnect", ``), status: 422, reason: "unavailable", who: "operator", text: "Nobody has signed in",
		},
		"nobody signs in": {change: func(s *snapshot) { s.providers["idp"].settings.Grant = tokens.GrantServiceAccount }, do: post("/authorize", ``), status: 422, reason: "unavailable", who: "operator", text: "Nobody signs in to idp; it works with the client's own credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, test.change)
				got := test.do(b)
				var v struct {
					Status                  int
					Detail, Reason, Who, Do string
				}
				if err := json.Unmarshal([]byte(got.body), &v); err != nil {
					t.Fatalf("%v: %s", err, got.body)
				}
				if got.status != test.status || v.Status != test.status || v.Reason != test.reason || v.Who != test.who || !strings.Contains(v.Detail, test.text) || (v.Do == "") != (test.who == "") {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				if got.header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("type %s", got.header.Get("Content-Type"))
				}
				for _, secret := range []string{"refresh-", "access-", "device-", "code-", clientSecret} {
					if strings.Contains(got.body, secret) || strings.Contains(b.log.String(), secret) {
						t.Errorf("%q shows in %s\n%s", secret, got.body, b.log.String())
					}
				}
				if b.stored() != nil {
					t.Error("a token was saved")
				}
			})
		})
	}
}

func post(call, body string) func(*bench) answer {
	return func(b *bench) answer { return b.admin("POST", benchAccount+call, body) }
}

// TestImportIsForAdministrators: whoever may sign in may not therefore bring
// tokens from elsewhere.
func TestImportIsForAdministrators(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.handler.Roles = map[string]string{"ops": "operator"}
	if got := b.admin("POST", benchAccount+"/import", `{"refresh_token":"x"}`); got.status != 403 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if got := b.admin("POST", benchAccount+"/complete", `{"session":"x"}`); got.status != 422 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if b.posts() != 0 {
		t.Error("the provider was asked")
	}
}

// TestProviderViews: what the administration tells of providers.
func TestProviderViews(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *snapshot) {
		allowDeviceCodes(s)
		p := s.providers["idp"]
		p.settings.AdminConsentEndpoint = "https://login.example.net/v2.0/adminconsent"
		p.settings.Rotation = tokens.RotationStrict
		s.providers["other"].settings.Grant = tokens.GrantClientCredentials
		s.providers["other"].settings.Credentials = []tokens.Credential{{Name: "client_certificate"}, {Name: "federated_token"}}
	})
	if got := b.admin("GET", "/providers", ""); !strings.Contains(got.body, `"credentials":["client_secret"]`) ||
		!strings.Contains(got.body, `"credentials":["client_certificate","federated_token"]`) || strings.Contains(got.body, "has_client_secret") {
		t.Errorf("%s", got.body)
	}
	views, _ := admin{b.app}.providers(t.Context(), listing{})
	idp, other := views[0], views[1]
	if idp.Grant != "authorization_code" || !idp.DeviceCode || idp.Rotation != "strict" {
		t.Errorf("%+v", idp)
	}
	if other.Grant != "client_credentials" || other.DeviceCode || other.Rotation != "unknown" || other.AdminConsentURL != "" {
		t.Errorf("%+v", other)
	}
	u, err := url.Parse(idp.AdminConsentURL)
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"client_id": {b.idp.ClientID}, "redirect_uri": {"https://mail.example.com/oauth/callback/idp"},
		"scope": {"smtp.send offline_access openid email"},
	}
	if u.Host != "login.example.net" || u.Path != "/v2.0/adminconsent" || u.Query().Encode() != want.Encode() {
		t.Errorf("consent at %s", idp.AdminConsentURL)
	}
	// Where that ends, nothing is believed.
	got := b.serve(b.handler.serveCallback, "GET", "/oauth/callback/idp?admin_consent=True&tenant=%3Cscript%3E&state=x", "", nil)
	if got.status != 200 || !strings.Contains(got.body, "nothing was changed") || strings.Contains(got.body, "script") {
		t.Errorf("status %d: %s", got.status, got.body)
	}
}

// TestAppAccount: the one account of an application is found by its name.
func TestAppAccount(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *snapshot) {
		s.providers["idp"].settings.Grant = tokens.GrantClientCredentials
		s.tenants["default"].account.User = tokens.AppUser
	})
	if got := b.admin("GET", "/accounts/idp/app", ""); got.status != 200 || !strings.Contains(got.body, `"user":"app"`) {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if got := b.admin("GET", "/accounts/other/app", ""); got.status != 404 {
		t.Errorf("another provider's: status %d: %s", got.status, got.body)
	}
}

// TestAccountAdvice: a failure tells what it means and whose job it is.
func TestAccountAdvice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		if err := b.app.store.Save(t.Context(), &tokens.Token{
			Account: tokens.Account{Provider: "idp", User: mailbox}, Generation: 1,
			RefreshToken: tokens.NewSecret("refresh-x"), AuthorizedAt: time.Now(), Revoked: true,
			Failure: &tokens.Failure{At: time.Now(), Kind: "needs_person", Code: "invalid_grant", Numbers: []int{50057}, TraceID: "trace-1"},
		}); err != nil {
			t.Fatal(err)
		}
		v, err := admin{b.app}.account(t.Context(), "idp", mailbox)
		if err != nil {
			t.Fatal(err)
		}
		if f := v.Failure; f == nil || f.Advice == nil || f.Advice.Meaning == "" || f.Advice.Who == "" || f.Advice.Do == "" || f.TraceID != "trace-1" {
			t.Errorf("failure %+v", f)
		}
	})
}
