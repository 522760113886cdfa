package tokens

import (
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// The values that the test server accepts, and one that it does not.
const (
	goodSecret  = "good-canary-0123456789"
	otherSecret = "other-canary-0123456789"
	goodJWT     = "eyJ0eXAiOiJKV1QifQ.federated-canary-payload.federated-canary-signature"
	oldSecret   = "old-canary-0123456789"
)

// reads returns a func that gives one value after the other, then the last one.
// An empty one can't be read.
func reads(values ...string) func() (Secret, error) {
	var mu sync.Mutex
	return func() (Secret, error) {
		mu.Lock()
		defer mu.Unlock()
		value := values[0]
		if len(values) > 1 {
			values = values[1:]
		}
		if value == "" {
			return Secret{}, fs.ErrNotExist
		}
		return NewSecret(value), nil
	}
}

func secretOf(values ...string) Credential {
	return Credential{Name: "secret " + values[0][:min(len(values[0]), 3)], Secret: reads(values...)}
}

func assertionOf(values ...string) Credential {
	return Credential{Name: "federated", Assertion: reads(values...)}
}

func keyOf(key *SigningKey) Credential {
	return Credential{Name: "certificate", Key: func() (*SigningKey, error) { return key, nil }}
}

// proving returns a fixture whose server accepts the good values, and a client
// with the given credentials.
func proving(t *testing.T, credentials ...Credential) (*fixture, *Client) {
	f := setUp(t)
	f.server.ClientSecret, f.server.MoreSecrets = goodSecret, []string{otherSecret}
	f.server.Federated = []string{goodJWT}
	f.server.Certificates = append(f.server.Certificates, rsaKey().Certificate)
	p := f.provider()
	p.Credentials = credentials
	return f, NewClient(p, f.server)
}

// ways returns how the client proved itself, request by request.
func (f *fixture) ways() []string {
	var ways []string
	for _, r := range f.server.Requests() {
		way := "none"
		if r.Form.Has("client_secret") {
			way = strings.SplitN(r.Form.Get("client_secret"), "-", 2)[0]
		}
		if r.Form.Has("client_assertion") {
			way = "signed"
			if strings.Contains(r.Form.Get("client_assertion"), "federated") {
				way = "federated"
			}
		}
		if r.Form.Has("client_secret") && r.Form.Has("client_assertion") {
			way = "both"
		}
		ways = append(ways, way)
	}
	return ways
}

// Each value is sent once, the next after a refusal, and the one that worked is
// the first one from then on. The refresh token is as good as before.
func TestCredentialsInOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		credentials   []Credential
		first, second []string // how the two requests were authenticated
		failed        bool
	}{
		"public":                     {nil, []string{"none"}, nil, true},
		"new one first":              {[]Credential{secretOf(goodSecret), secretOf(oldSecret)}, []string{"good"}, []string{"good"}, false},
		"new one last":               {[]Credential{secretOf(oldSecret), secretOf(goodSecret)}, []string{"old", "good"}, []string{"good"}, false},
		"both good":                  {[]Credential{secretOf(otherSecret), secretOf(goodSecret)}, []string{"other"}, []string{"other"}, false},
		"third":                      {[]Credential{secretOf("a-wrong"), secretOf("b-wrong"), secretOf(goodSecret)}, []string{"a", "b", "good"}, []string{"good"}, false},
		"same value twice":           {[]Credential{secretOf(oldSecret), secretOf(oldSecret), secretOf(goodSecret)}, []string{"old", "good"}, []string{"good"}, false},
		"all refused":                {[]Credential{secretOf("a-wrong"), secretOf("b-wrong")}, []string{"a", "b"}, []string{"a", "b"}, true},
		"first can't be read":        {[]Credential{secretOf(""), secretOf(goodSecret)}, []string{"good"}, []string{"good"}, false},
		"last can't be read":         {[]Credential{secretOf(oldSecret), secretOf("")}, []string{"old"}, []string{"old"}, true},
		"none can be read":           {[]Credential{secretOf(""), secretOf("")}, nil, nil, true},
		"readable a moment later":    {[]Credential{secretOf("", goodSecret)}, []string{"good"}, []string{"good"}, false},
		"replaced a moment ago":      {[]Credential{secretOf(oldSecret, goodSecret)}, []string{"old", "good"}, []string{"good"}, false},
		"replaced, the second":       {[]Credential{secretOf("a-wrong"), secretOf(oldSecret, goodSecret)}, []string{"a", "old", "good"}, []string{"good"}, false},
		"replaced by a wrong one":    {[]Credential{secretOf(oldSecret, "b-wrong")}, []string{"old", "b"}, []string{"b"}, true},
		"replaced by another's":      {[]Credential{secretOf(oldSecret, "b-wrong"), secretOf("b-wrong")}, []string{"old", "b"}, []string{"b"}, true},
		"certificate":                {[]Credential{keyOf(rsaKey())}, []string{"signed"}, []string{"signed"}, false},
		"secret, then certificate":   {[]Credential{secretOf(oldSecret), keyOf(rsaKey())}, []string{"old", "signed"}, []string{"signed"}, false},
		"certificate, then secret":   {[]Credential{keyOf(ecKey()), secretOf(goodSecret)}, []string{"signed", "good"}, []string{"good"}, false},
		"certificate refused":        {[]Credential{keyOf(ecKey())}, []string{"signed"}, []string{"signed"}, true},
		"federated":                  {[]Credential{assertionOf(goodJWT)}, []string{"federated"}, []string{"federated"}, false},
		"federated, with line break": {[]Credential{assertionOf(goodJWT + "\n")}, []string{"federated"}, []string{"federated"}, false},
		"federated, renewed":         {[]Credential{assertionOf("a.federated.b", goodJWT)}, []string{"federated", "federated"}, []string{"federated"}, false},
		"federated, blank":           {[]Credential{assertionOf("\n"), secretOf(goodSecret)}, []string{"good"}, []string{"good"}, false},
		"federated, then secret":     {[]Credential{assertionOf("a.federated.b"), secretOf(goodSecret)}, []string{"federated", "good"}, []string{"good"}, false},
		"secret, then federated":     {[]Credential{secretOf(oldSecret), assertionOf(goodJWT)}, []string{"old", "federated"}, []string{"federated"}, false},
		"no good key, then secret":   {[]Credential{keyOf(&SigningKey{Signer: weakKey()}), secretOf(goodSecret)}, []string{"good"}, []string{"good"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, c := proving(t, test.credentials...)
			_, token := f.server.Issue(f.account.User, "smtp.send")
			for i, want := range [][]string{test.first, append(slices.Clone(test.first), test.second...)} {
				if i == 1 && test.credentials == nil {
					break
				}
				g, err := c.refresh(t.Context(), token, nil)
				if (err != nil) != test.failed {
					t.Fatalf("refresh: %v", err)
				}
				if diff := cmp.Diff(want, f.ways()); diff != "" {
					t.Errorf("request %d: %s", i, diff)
				}
				if err != nil {
					if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindConfig {
						t.Errorf("refresh: %#v", err)
					}
					continue
				}
				token = g.refreshToken
			}
			f.presentedOnce()
			for _, r := range f.server.Requests() {
				if r.Form.Get("client_id") != f.server.ClientID {
					t.Error("client_id is missing")
				}
			}
		})
	}
}

// With a header in place of the form, the next credential leaves nothing behind.
func TestCredentialsInTheHeader(t *testing.T) {
	t.Parallel()
	f, _ := proving(t)
	f.server.Basic = true
	p := f.provider()
	p.AuthStyle = AuthBasic
	p.Credentials = []Credential{secretOf(oldSecret), assertionOf("a.federated.b"), secretOf(goodSecret)}
	_, token := f.server.Issue(f.account.User, "smtp.send")
	if _, err := NewClient(p, f.server).refresh(t.Context(), token, nil); err != nil {
		t.Fatal(err)
	}
	var headers []bool
	for _, r := range f.server.Requests() {
		headers = append(headers, r.Header.Get("Authorization") != "")
		if r.Form.Has("client_secret") {
			t.Error("client_secret in the form")
		}
	}
	if diff := cmp.Diff([]bool{true, false, true}, headers); diff != "" {
		t.Error(diff)
	}
}

// After anything but a clear invalid_client, what the form presents may be used
// up: it is not presented again.
func TestOnlyARefusedClientTriesAgain(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]tokenstest.Reply{
		"invalid_client of a broken server": tokenstest.Fail(500, "invalid_client", ""),
		"invalid_client of a busy server":   tokenstest.Fail(429, "invalid_client", ""),
		"401 without a word":                tokenstest.Status(401, ""),
		"401 with HTML":                     tokenstest.Status(401, "<html>invalid_client</html>"),
		"unauthorized_client":               tokenstest.Fail(400, "unauthorized_client", ""),
		"invalid_grant":                     tokenstest.Fail(400, "invalid_grant", ""),
		"invalid_grant, speaking of it":     tokenstest.Fail(401, "invalid_grant", "invalid_client"),
		"invalid_request":                   tokenstest.Fail(400, "invalid_request", ""),
		"lost":                              tokenstest.Lose(),
		"garbage":                           tokenstest.Status(200, "garbage"),
		"elsewhere":                         tokenstest.Status(307, "", "Location", "https://evil.example/"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, c := proving(t, secretOf(otherSecret), secretOf(goodSecret))
			_, token := f.server.Issue(f.account.User, "smtp.send")
			f.server.Next(reply)
			if _, err := c.refresh(t.Context(), token, nil); err == nil {
				t.Error("no error")
			}
			if n := f.posts(); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// A server that says it with status 200, or with 400, says it, too.
func TestRefusalWithAnyStatus(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 401, 403} {
		f, c := proving(t, secretOf(otherSecret), secretOf(goodSecret))
		_, token := f.server.Issue(f.account.User, "smtp.send")
		f.server.Next(tokenstest.Fail(status, "invalid_client", ""))
		if _, err := c.refresh(t.Context(), token, nil); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if diff := cmp.Diff([]string{"other", "good"}, f.ways()); diff != "" {
			t.Errorf("%d: %s", status, diff)
		}
	}
}

// Codes, revocation and any other request are authenticated in the same way.
func TestCredentialsAtEveryEndpoint(t *testing.T) {
	t.Parallel()
	for name, credential := range map[string]Credential{
		"secret": secretOf(goodSecret), "certificate": keyOf(rsaKey()), "federated": assertionOf(goodJWT),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, c := proving(t, secretOf(oldSecret), credential)
			if _, err := f.signIn(f.flow(), c, f.account.User).complete(t.Context()); err != nil {
				t.Fatal(err)
			}
			token := f.stored().RefreshToken.Reveal()
			c.worked.Store(0)
			if had, err := c.revoke(t.Context(), token); !had || err != nil {
				t.Fatalf("revoke: %v, %v", had, err)
			}
			if n := len(f.server.Requests()); n != 4 {
				t.Errorf("%d requests, want 4", n)
			}
			if _, err := c.refresh(t.Context(), token, nil); err == nil || err.(*Error).Code != "invalid_grant" {
				t.Errorf("after the revocation: %v", err)
			}
		})
	}
}

// The last error names every credential and what is wrong with it, and no value.
func TestRefusalOfAll(t *testing.T) {
	t.Parallel()
	f, c := proving(t,
		Credential{Name: "client_secret 1", Secret: reads(oldSecret)},
		Credential{Name: "client_secret 2", Secret: reads(oldSecret + "x")},
		Credential{Name: "client_secret 3", Secret: reads("")},
		Credential{Name: "federated_token", Assertion: reads("eyJ.old-canary." + oldSecret)})
	said := func(number, text string) tokenstest.Reply {
		return tokenstest.Status(401, `{"error":"invalid_client","error_description":"AADSTS`+number+`: `+text+` `+oldSecret+`x","error_codes":[`+number+
			`],"trace_id":"trace-`+number+`","correlation_id":"correlation-`+number+`","timestamp":"2026-11-21 10:00:00Z","claims":"{}"}`)
	}
	f.server.Next(said("7000222", "keys expired"), said("7000215", "Invalid client secret"), said("42", "what"))
	_, err := c.refresh(t.Context(), "refresh-canary", nil)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != KindConfig || e.Code != "invalid_client" || e.Status != 401 || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %#v", err)
	}
	for _, want := range []string{
		"client_secret 1 was refused: the client secret has expired",
		"client_secret 2 was refused: the client secret is wrong",
		"client_secret 3 can't be used: file does not exist",
		"federated_token was refused",
		"trace id trace-42", "correlation id correlation-42",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if n := f.posts(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
	failure := e.failure(time.Now())
	if !strings.Contains(failure.Description, "client_secret 1 was refused") || failure.CorrelationID != "correlation-42" {
		t.Errorf("kept: %+v", failure)
	}
	slog.New(slog.NewJSONHandler(&f.log, nil)).Error("x", "error", e, "all", *e, "client", c, "failure", failure)
	if shown := f.log.String() + err.Error(); strings.Contains(shown, "canary") {
		t.Errorf("a secret shows in %s", shown)
	}
}

func TestCredentialsConcurrently(t *testing.T) {
	t.Parallel()
	f, c := proving(t, secretOf(oldSecret), secretOf(goodSecret), keyOf(rsaKey()))
	var wg sync.WaitGroup
	for range 8 {
		_, token := f.server.Issue(f.account.User, "smtp.send")
		wg.Go(func() {
			if _, err := c.refresh(t.Context(), token, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := f.posts(); n < 9 || n > 16 || f.server.Reused() != 0 {
		t.Errorf("%d requests", n)
	}
}
