package tokens

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// opened is an assertion as another library reads it.
func opened(t *testing.T, assertion string, algorithm jose.SignatureAlgorithm, public crypto.PublicKey) (header, claims map[string]any) {
	t.Helper()
	token, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{algorithm})
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Claims(public, &claims); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(assertion, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &header); err != nil {
		t.Fatal(err)
	}
	return header, claims
}

func TestClientAssertion(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		key       *SigningKey
		id        string
		algorithm jose.SignatureAlgorithm
	}{
		"RSA":          {rsaKey(), "", jose.PS256},
		"RSA, with id": {rsaKey(), "key 1", jose.PS256},
		"EC":           {ecKey(), "", jose.ES256},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := *test.key
			key.ID = test.id
			f, c := proving(t, keyOf(&key))
			c.now = func() time.Time { return now }
			ids := map[any]bool{}
			for range 20 {
				f.server.Next(tokenstest.Status(400, ""))
				if _, err := c.refresh(t.Context(), "refresh", nil); err == nil {
					t.Fatal("no error")
				}
			}
			for _, r := range f.server.Requests() {
				if r.Form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
					t.Errorf("client_assertion_type %q", r.Form.Get("client_assertion_type"))
				}
				header, claims := opened(t, r.Form.Get("client_assertion"), test.algorithm, key.Signer.Public())
				if public, is := key.Signer.Public().(*rsa.PublicKey); is {
					saltOfHashSize(t, public, r.Form.Get("client_assertion"))
				}
				sum := sha256.Sum256(key.Certificate.Raw)
				wantHeader := map[string]any{
					"alg": string(test.algorithm), "typ": "JWT", "x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:]),
				}
				if test.id != "" {
					wantHeader["kid"] = test.id
				}
				if diff := cmp.Diff(wantHeader, header); diff != "" {
					t.Error(diff)
				}
				id, _ := claims["jti"].(string)
				if len(id) < 20 || ids[id] {
					t.Errorf("jti %q is short, or came before", id)
				}
				ids[id] = true
				delete(claims, "jti")
				if diff := cmp.Diff(map[string]any{
					"iss": "client-1", "sub": "client-1", "aud": "https://idp.example.net/token",
					"iat": float64(now.Unix() - 10), "nbf": float64(now.Unix() - 10), "exp": float64(now.Unix() + 300),
				}, claims); diff != "" {
					t.Error(diff)
				}
			}
			if len(ids) != 20 {
				t.Errorf("%d assertions", len(ids))
			}
		})
	}
}

// saltOfHashSize checks what RFC 7518, section 3.5, says of the salt and the
// other library does not look at.
func saltOfHashSize(t *testing.T, public *rsa.PublicKey, assertion string) {
	t.Helper()
	i := strings.LastIndex(assertion, ".")
	signature, err := base64.RawURLEncoding.DecodeString(assertion[i+1:])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(assertion[:i]))
	if err := rsa.VerifyPSS(public, crypto.SHA256, sum[:], signature, &rsa.PSSOptions{SaltLength: sha256.Size}); err != nil {
		t.Error(err)
	}
}

// The aud of an assertion stays the token endpoint at other endpoints, too.
func TestAssertionForRevocation(t *testing.T) {
	t.Parallel()
	f, c := proving(t, keyOf(rsaKey()))
	if _, err := c.revoke(t.Context(), "refresh"); err != nil {
		t.Fatal(err)
	}
	r := f.server.Requests()[0]
	_, claims := opened(t, r.Form.Get("client_assertion"), jose.PS256, rsaKey().Signer.Public())
	if r.Path != tokenstest.PathRevoke || claims["aud"] != "https://idp.example.net/token" {
		t.Errorf("%s: %v", r.Path, claims["aud"])
	}
}

// app returns a fixture and its provider, without a person.
func app(t *testing.T, grant Grant) (*fixture, Provider) {
	f, c := proving(t, secretOf(goodSecret))
	p := c.Provider()
	p.Grant, p.AuthorizationEndpoint, p.RedirectURI = grant, "", ""
	p.Scopes = []string{"https://outlook.office365.com/.default"}
	if grant == GrantServiceAccount {
		p.Scopes = []string{"https://mail.google.com/", "other"}
		p.ServiceAccount = func() (*SigningKey, error) { return serviceKey(), nil }
		f.server.ServiceAccounts = map[string]crypto.PublicKey{serviceKey().Issuer: serviceKey().Signer.Public()}
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return f, p
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		credentials []Credential
		ways        []string
	}{
		"secret":               {[]Credential{secretOf(goodSecret)}, []string{"good"}},
		"certificate":          {[]Credential{keyOf(rsaKey())}, []string{"signed"}},
		"federated":            {[]Credential{assertionOf(goodJWT)}, []string{"federated"}},
		"secret that is new":   {[]Credential{secretOf(oldSecret), secretOf(goodSecret)}, []string{"old", "good"}},
		"certificate that is…": {[]Credential{keyOf(ecKey()), keyOf(rsaKey())}, []string{"signed", "signed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := app(t, GrantClientCredentials)
			p.Credentials = test.credentials
			g, err := NewClient(p, f.server).mint(t.Context(), AppUser)
			if err != nil {
				t.Fatal(err)
			}
			if owner, ok := f.server.Owner(g.accessToken); !ok || owner != p.ClientID || g.refreshToken != "" || g.expiresIn != time.Hour {
				t.Errorf("owner %q, %+v", owner, g)
			}
			if diff := cmp.Diff(test.ways, f.ways()); diff != "" {
				t.Error(diff)
			}
			r := f.server.Requests()[0].Form
			if r.Get("grant_type") != "client_credentials" || r.Get("scope") != p.Scopes[0] || r.Has("username") {
				t.Errorf("form %v", r)
			}
		})
	}
}

func TestServiceAccount(t *testing.T) {
	t.Parallel()
	f, p := app(t, GrantServiceAccount)
	c := NewClient(p, f.server)
	g, err := c.mint(t.Context(), f.account.User)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := f.server.Owner(g.accessToken); !ok || owner != f.account.User {
		t.Errorf("owner %q", owner)
	}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c.now = func() time.Time { return now }
	f.server.Next(tokenstest.Status(400, ""))
	_, _ = c.mint(t.Context(), f.account.User)
	requests := f.server.Requests()
	if len(requests) != 2 {
		t.Fatalf("%d requests, want 2", len(requests))
	}
	form := requests[1].Form
	header, claims := opened(t, form.Get("assertion"), jose.RS256, serviceKey().Signer.Public())
	if diff := cmp.Diff(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "key-1"}, header); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{
		"iss": "robot@project.iam.example", "sub": f.account.User, "aud": "https://idp.example.net/token",
		"scope": "https://mail.google.com/ other", "iat": float64(now.Unix() - 10), "exp": float64(now.Unix() - 10 + 3600),
	}, claims); diff != "" {
		t.Error(diff)
	}
	form.Del("assertion")
	if diff := cmp.Diff(map[string][]string{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}}, map[string][]string(form)); diff != "" {
		t.Error(diff)
	}
	if requests[1].Header.Get("Authorization") != "" {
		t.Error("client authentication in the header")
	}
}

// No failure without a person is a person's business, and each costs one
// request.
func TestUnattendedFailures(t *testing.T) {
	t.Parallel()
	for _, grant := range []Grant{GrantClientCredentials, GrantServiceAccount} {
		for name, test := range map[string]struct {
			reply tokenstest.Reply
			kind  Kind
		}{
			"invalid_grant":        {tokenstest.Fail(400, "invalid_grant", "Invalid JWT Signature."), KindConfig},
			"interaction_required": {tokenstest.Fail(400, "interaction_required", ""), KindConfig},
			"unauthorized_client":  {tokenstest.Fail(401, "unauthorized_client", ""), KindConfig},
			"invalid_scope":        {tokenstest.Fail(400, "invalid_scope", ""), KindConfig},
			"Entra's passing":      {tokenstest.Status(400, `{"error":"invalid_grant","error_codes":[90033]}`), KindTransient},
			"busy":                 {tokenstest.Status(503, ""), KindTransient},
			"lost":                 {tokenstest.Lose(), KindAmbiguous},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f, p := app(t, grant)
				f.server.Next(test.reply)
				_, err := NewClient(p, f.server).mint(t.Context(), f.account.User)
				if e, ok := errors.AsType[*Error](err); !ok || e.Kind != test.kind || len(f.server.Requests()) != 1 {
					t.Errorf("%v is no error of kind %v, or %d requests are not 1", err, test.kind, len(f.server.Requests()))
				}
				if a, ok := err.(*Error).Advice(); ok && a.Who == WhoOwner && name == "invalid_grant" {
					t.Errorf("advice for a person: %+v", a)
				}
			})
		}
	}
}

func TestServiceAccountKeyThatFails(t *testing.T) {
	t.Parallel()
	weak := &SigningKey{Signer: weakKey(), Issuer: "robot@project.iam.example"}
	for name, read := range map[string]func() (*SigningKey, error){
		"unreadable": func() (*SigningKey, error) { return nil, errors.New("what a file") },
		"weak":       func() (*SigningKey, error) { return weak, nil },
	} {
		f, p := app(t, GrantServiceAccount)
		p.ServiceAccount = read
		_, err := NewClient(p, f.server).mint(t.Context(), f.account.User)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindConfig || !strings.Contains(err.Error(), "service account's key") || f.posts() != 0 {
			t.Errorf("%s: %v, %d requests", name, err, f.posts())
		}
	}
}

// Neither a key nor an assertion nor its signature shows, whatever a server
// sends back.
func TestAssertionsDoNotShow(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*Provider){
		"certificate":     func(p *Provider) { p.Credentials = []Credential{keyOf(rsaKey())} },
		"EC certificate":  func(p *Provider) { p.Credentials = []Credential{keyOf(ecKey())} },
		"federated":       func(p *Provider) { p.Credentials = []Credential{assertionOf(goodJWT)} },
		"service account": func(p *Provider) { p.Grant = GrantServiceAccount },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := app(t, GrantServiceAccount)
			p.Grant = GrantClientCredentials
			prepare(&p)
			c := NewClient(p, f.server)
			var out bytes.Buffer
			log := slog.New(slog.NewJSONHandler(&out, nil))
			for _, part := range []func(assertion string) string{
				func(s string) string { return s },
				func(s string) string { return s[strings.LastIndex(s, ".")+1:] },
			} {
				f.server.Next(tokenstest.Answer(func(r tokenstest.Request) (int, string) {
					said := part(r.Form.Get("client_assertion") + r.Form.Get("assertion"))
					return 400, `{"error":"invalid_request","error_description":"got ` + said + `","trace_id":"` + said + `","suberror":"` + said + `"}`
				}))
				_, err := c.mint(t.Context(), f.account.User)
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Code != "invalid_request" || !strings.Contains(err.Error(), "got [redacted]") {
					t.Fatalf("mint: %v", err)
				}
				log.Error("x", "error", e, "all", *e, "client", c, "failure", e.failure(time.Now()))
				out.WriteString(err.Error())
			}
			for _, r := range f.server.Requests() {
				assertion := r.Form.Get("client_assertion") + r.Form.Get("assertion")
				for part := range strings.SplitSeq(assertion, ".") {
					if strings.Contains(out.String(), part[:12]) {
						t.Errorf("%q shows in %s", part, out.String())
					}
				}
			}
			if len(f.server.Requests()) != 2 {
				t.Errorf("%d requests", len(f.server.Requests()))
			}
		})
	}
}
