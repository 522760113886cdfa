package tokens

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// Every hostile answer has the right kind, costs one request, and shows no
// secret, in the error or in a log.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	const canary = "refresh-canary+/ü-0123456789"
	for name, test := range map[string]struct {
		reply tokenstest.Reply
		kind  Kind
	}{
		"307 elsewhere":         {tokenstest.Status(307, "", "Location", "https://evil.example/token"), KindConfig},
		"302 elsewhere":         {tokenstest.Status(302, "", "Location", "https://evil.example/token"), KindConfig},
		"304":                   {tokenstest.Status(304, ""), KindConfig},
		"400 with HTML":         {tokenstest.Status(400, "<html>"), KindTransient},
		"400 empty":             {tokenstest.Status(400, ""), KindTransient},
		"401 with HTML":         {tokenstest.Status(401, "<html>"), KindConfig},
		"403":                   {tokenstest.Status(403, ""), KindConfig},
		"404":                   {tokenstest.Status(404, ""), KindConfig},
		"405":                   {tokenstest.Status(405, ""), KindConfig},
		"408":                   {tokenstest.Status(408, ""), KindTransient},
		"418":                   {tokenstest.Status(418, ""), KindTransient},
		"429":                   {tokenstest.Status(429, ""), KindTransient},
		"429 saying dead":       {tokenstest.Fail(429, "invalid_grant", ""), KindTransient},
		"500":                   {tokenstest.Status(500, ""), KindTransient},
		"500 saying dead":       {tokenstest.Fail(500, "invalid_grant", ""), KindTransient},
		"500 saying client":     {tokenstest.Fail(500, "invalid_client", ""), KindTransient},
		"503 with Retry-After":  {tokenstest.Status(503, "", "Retry-After", "7"), KindTransient},
		"invalid_grant":         {tokenstest.Fail(400, "invalid_grant", "ended"), KindNeedsPerson},
		"invalid_grant, 401":    {tokenstest.Fail(401, "invalid_grant", "ended"), KindNeedsPerson},
		"interaction_required":  {tokenstest.Fail(400, "interaction_required", ""), KindNeedsPerson},
		"consent_required":      {tokenstest.Fail(400, "consent_required", ""), KindNeedsPerson},
		"login_required":        {tokenstest.Fail(400, "login_required", ""), KindNeedsPerson},
		"invalid_client":        {tokenstest.Fail(401, "invalid_client", ""), KindConfig},
		"unauthorized_client":   {tokenstest.Fail(400, "unauthorized_client", ""), KindConfig},
		"invalid_scope":         {tokenstest.Fail(400, "invalid_scope", ""), KindConfig},
		"invalid_request":       {tokenstest.Fail(400, "invalid_request", ""), KindConfig},
		"server_error":          {tokenstest.Fail(400, "server_error", ""), KindTransient},
		"slow_down":             {tokenstest.Fail(400, "slow_down", ""), KindTransient},
		"unknown code":          {tokenstest.Fail(400, "moon_phase", ""), KindTransient},
		"Entra's passing":       {tokenstest.Status(400, `{"error":"invalid_grant","error_codes":[50196]}`), KindTransient},
		"Entra's lasting":       {tokenstest.Status(400, `{"error":"invalid_grant","error_codes":[700082]}`), KindNeedsPerson},
		"odd error_codes":       {tokenstest.Status(400, `{"error":"invalid_grant","error_codes":"90033"}`), KindNeedsPerson},
		"200 with an error":     {tokenstest.Fail(200, "invalid_grant", "ended"), KindNeedsPerson},
		"200, error an object":  {tokenstest.Status(200, `{"error":{"code":7},"access_token":"x"}`), KindTransient},
		"200 with garbage":      {tokenstest.Status(200, "garbage"), KindAmbiguous},
		"200 empty":             {tokenstest.Status(200, ""), KindAmbiguous},
		"200 with a list":       {tokenstest.Status(200, "[]"), KindAmbiguous},
		"200 with null":         {tokenstest.Status(200, "null"), KindAmbiguous},
		"200 without a token":   {tokenstest.Status(200, `{"token_type":"Bearer"}`), KindAmbiguous},
		"200, token a number":   {tokenstest.Status(200, `{"access_token":7}`), KindAmbiguous},
		"200, token with a LF":  {tokenstest.Status(200, `{"access_token":"a\nb"}`), KindAmbiguous},
		"200, refresh with NUL": {tokenstest.Status(200, `{"access_token":"a","refresh_token":"\u0000"}`), KindAmbiguous},
		"200, cut":              {tokenstest.Status(200, `{"access_token":"`+canary), KindAmbiguous},
		"200, too long":         {tokenstest.Status(200, `{"access_token":"`+strings.Repeat("x", maxAnswer)+`"}`), KindAmbiguous},
		"204":                   {tokenstest.Status(204, ""), KindAmbiguous},
		"echo":                  {tokenstest.Echo(), KindConfig},
		"echo in a title":       {tokenstest.Status(400, `{"error":"`+canary+`","error_description":"`+canary+` `+canary[:15]+`"}`), KindTransient},
		"hang":                  {tokenstest.Hang(), KindAmbiguous},
		"lost":                  {tokenstest.Lose(), KindAmbiguous},
	} {
		for _, style := range []AuthStyle{AuthPost, AuthBasic} {
			t.Run(name+map[AuthStyle]string{AuthPost: ", post", AuthBasic: ", basic"}[style], func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := setUp(t)
					f.server.ClientSecret = "secret-canary-é&+/ 0123456789"
					p := f.provider()
					p.AuthStyle = style
					c := NewClient(p, f.server)
					f.server.Next(test.reply)
					began := time.Now()
					_, err := c.refresh(t.Context(), canary, nil)
					var e *Error
					if !errors.As(err, &e) {
						t.Fatalf("%v is no *Error", err)
					}
					if e.Kind != test.kind {
						t.Errorf("%v is %v, want %v", e, e.Kind, test.kind)
					}
					if n := len(f.server.Requests()); n != 1 {
						t.Errorf("%d requests, want 1", n)
					}
					if took := time.Since(began); took > requestTimeout {
						t.Errorf("took %v", took)
					}
					slog.New(slog.NewJSONHandler(&f.log, nil)).Error("x", "error", e, "all", *e, "client", c, "failure", e.failure(began))
					shown := f.log.String() + e.Error()
					for _, secret := range []string{"refresh-canary", "secret-canary", "canary", base64.StdEncoding.EncodeToString([]byte("client-1:"))[:11]} {
						if strings.Contains(shown, secret) {
							t.Errorf("%q shows in %s", secret, shown)
						}
					}
				})
			})
		}
	}
}

// What a provider says beyond RFC 6749 is kept where it is of the right type.
func TestFailureDetails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body string
		want Error
		text string
	}{
		"Entra": {
			`{"error":"invalid_grant","suberror":"bad_token","error_description":"AADSTS700082: idle.","error_codes":[700082,1],"trace_id":"t-1","correlation_id":"c-1"}`,
			Error{Code: "invalid_grant", Suberror: "bad_token", Description: "AADSTS700082: idle.", Numbers: []int{700082, 1}, TraceID: "t-1", CorrelationID: "c-1", Kind: KindNeedsPerson},
			"refresh: status 400: invalid_grant: AADSTS700082: idle., trace id t-1, correlation id c-1",
		},
		"told in the text": {
			`{"error":"invalid_grant","error_description":"Trace ID: t-1","trace_id":"t-1"}`,
			Error{Code: "invalid_grant", Description: "Trace ID: t-1", TraceID: "t-1", Kind: KindNeedsPerson},
			"refresh: status 400: invalid_grant: Trace ID: t-1",
		},
		"Google": {
			`{"error":"invalid_grant","error_description":"reauth","error_subtype":"invalid_rapt"}`,
			Error{Code: "invalid_grant", Suberror: "invalid_rapt", Description: "reauth", Kind: KindNeedsPerson},
			"refresh: status 400: invalid_grant: reauth",
		},
		"odd types": {
			`{"error":"invalid_scope","suberror":7,"error_codes":["1",null,-3,0,1e99,1.5,{}],"trace_id":["t"],"correlation_id":null,"error_description":{}}`,
			Error{Code: "invalid_scope", Kind: KindConfig},
			"refresh: status 400: invalid_scope",
		},
		"too many": {
			`{"error":"invalid_scope","error_codes":[1,2,3,4,5,6,7,8,9,10]}`,
			Error{Code: "invalid_scope", Numbers: []int{1, 2, 3, 4, 5, 6, 7, 8}, Kind: KindConfig},
			"refresh: status 400: invalid_scope",
		},
		"hostile": {
			`{"error":"invalid_scope","trace_id":"a\u001b[31m\nb s3cr3t-value","correlation_id":"` + strings.Repeat("x", 400) + `"}`,
			Error{Code: "invalid_scope", TraceID: "a [31m b [redacted]", CorrelationID: strings.Repeat("x", 300) + "…", Kind: KindConfig},
			"refresh: status 400: invalid_scope, trace id a [31m b [redacted], correlation id " + strings.Repeat("x", 300) + "…",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := parseFailure("refresh", &http.Response{StatusCode: 400}, []byte(test.body), "s3cr3t-value")
			test.want.Op, test.want.Status = "refresh", 400
			if diff := cmp.Diff(&test.want, err); diff != "" {
				t.Error(diff)
			}
			if err.Error() != test.text {
				t.Errorf("%q", err)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	s := tokenstest.NewServer()
	web := httptest.NewServer(s)
	defer web.Close()
	s.Issuer = web.URL
	for _, status := range []int{301, 302, 303, 307, 308} {
		s.Next(tokenstest.Status(status, "", "Location", elsewhere.URL))
		c := NewClient(Provider{
			AuthorizationEndpoint: s.Issuer + tokenstest.PathAuthorize, TokenEndpoint: s.Issuer + tokenstest.PathToken,
			ClientID: s.ClientID, Credentials: NewClientSecret(s.ClientSecret), AuthStyle: AuthPost,
		}, nil)
		if _, err := c.refresh(t.Context(), "r", nil); !errors.Is(err, errRedirect) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// Over a real connection: what was not sent may be sent again, and what was
// sent and not answered is in doubt.
func TestNetworkErrors(t *testing.T) {
	t.Parallel()
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(broken.Close)
	closed := httptest.NewServer(nil)
	closed.Close()
	refuses := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no route to canary-token")
	}}
	for name, test := range map[string]struct {
		address   string
		transport http.RoundTripper
		kind      Kind
	}{
		"connection broken": {broken.URL, nil, KindAmbiguous},
		"nobody listens":    {closed.URL, nil, KindTransient},
		"no route":          {"http://127.0.0.1:1", refuses, KindTransient},
		"no address":        {"https://[::1", nil, KindConfig},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := NewClient(Provider{AuthorizationEndpoint: "x", TokenEndpoint: test.address, AuthStyle: AuthPost, ClientID: "c"}, test.transport)
			_, err := c.refresh(t.Context(), "canary-token", nil)
			var e *Error
			if !errors.As(err, &e) || e.Kind != test.kind {
				t.Errorf("%v is not %v", err, test.kind)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("a secret shows: %v", err)
			}
		})
	}
}

func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		style  AuthStyle
		basic  bool
		secret string
	}{
		"post":           {AuthPost, false, "secret"},
		"post, odd":      {AuthPost, false, "s e&c=r%+/:é"},
		"basic":          {AuthBasic, true, "secret"},
		"basic, odd":     {AuthBasic, true, "s e&c=r%+/:é"},
		"default":        {AuthFromMetadata, true, "secret"},
		"public, post":   {AuthPost, false, ""},
		"public, basic":  {AuthBasic, false, ""},
		"public, either": {AuthFromMetadata, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			f.server.ClientID = "client:1 ü"
			f.server.ClientSecret = test.secret
			f.server.Basic = test.basic
			f.expired()
			p := f.provider()
			p.AuthStyle = test.style
			f.mustToken(f.sourceOf(&Cell{}, NewClient(p, f.server)))
			r := f.server.Requests()[0]
			if _, has := r.Form["client_secret"]; has != (test.secret != "" && !test.basic) {
				t.Errorf("client_secret in the form: %v", has)
			}
			if has := r.Header.Get("Authorization") != ""; has != test.basic {
				t.Errorf("Authorization in the header: %v", has)
			}
			user, password, ok := (&http.Request{Header: r.Header}).BasicAuth()
			if ok && (user != url.QueryEscape(p.ClientID) || password != url.QueryEscape(test.secret)) {
				t.Errorf("Basic %q %q is not form-encoded", user, password)
			}
		})
	}
}

func TestParseGrant(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body string
		want grant
	}{
		"plain":           {`{"access_token":"a","refresh_token":"r","id_token":"i","expires_in":3599,"scope":"x y"}`, grant{"a", "r", "i", []string{"x", "y"}, 3599 * time.Second}},
		"no expires_in":   {`{"access_token":"a"}`, grant{"a", "", "", nil, time.Hour}},
		"null expires_in": {`{"access_token":"a","expires_in":null}`, grant{"a", "", "", nil, time.Hour}},
		"string":          {`{"access_token":"a","expires_in":"3599"}`, grant{"a", "", "", nil, 3599 * time.Second}},
		"fraction":        {`{"access_token":"a","expires_in":3599.9}`, grant{"a", "", "", nil, 3599 * time.Second}},
		"exponent":        {`{"access_token":"a","expires_in":3.6e3}`, grant{"a", "", "", nil, time.Hour}},
		"word":            {`{"access_token":"a","expires_in":"soon"}`, grant{"a", "", "", nil, time.Hour}},
		"not a number":    {`{"access_token":"a","expires_in":"NaN"}`, grant{"a", "", "", nil, time.Hour}},
		"infinite":        {`{"access_token":"a","expires_in":"Inf"}`, grant{"a", "", "", nil, 365 * 24 * time.Hour}},
		"list":            {`{"access_token":"a","expires_in":[1]}`, grant{"a", "", "", nil, time.Hour}},
		"zero":            {`{"access_token":"a","expires_in":0}`, grant{"a", "", "", nil, time.Hour}},
		"negative":        {`{"access_token":"a","expires_in":-5}`, grant{"a", "", "", nil, time.Hour}},
		"huge":            {`{"access_token":"a","expires_in":1e300}`, grant{"a", "", "", nil, 365 * 24 * time.Hour}},
		"scope as a list": {`{"access_token":"a","scope":["x",7,"y"]}`, grant{"a", "", "", []string{"x", "y"}, time.Hour}},
		"scope empty":     {`{"access_token":"a","scope":""}`, grant{"a", "", "", nil, time.Hour}},
		"scope null":      {`{"access_token":"a","scope":null}`, grant{"a", "", "", nil, time.Hour}},
		"unknown members": {`{"access_token":"a","ext_expires_in":1,"x":{}}`, grant{"a", "", "", nil, time.Hour}},
		"refresh null":    {`{"access_token":"a","refresh_token":null}`, grant{"a", "", "", nil, time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseGrant([]byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, got, cmp.AllowUnexported(grant{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The odd answers that still are answers reach the source whole.
func TestOddSuccess(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]map[string]any{
		"no expires_in":       {"expires_in": nil},
		"expires_in a string": {"expires_in": "3600"},
		"expires_in a float":  {"expires_in": 3600.5},
		"expires_in a word":   {"expires_in": "one hour"},
		"no scope":            {"scope": nil},
		"no token_type":       {"token_type": nil},
		"token_type odd":      {"token_type": "BEARER"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.expired()
				f.server.Next(tokenstest.Set(members))
				s := f.source()
				f.mustToken(s)
				if got := f.stored(); got.life() != time.Hour || cmp.Diff(got.Scopes, []string{"smtp.send"}) != "" && members["scope"] != nil {
					t.Errorf("life %v, scopes %v", got.life(), got.Scopes)
				}
			})
		})
	}
}

func TestRetryAfterForms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for value, want := range map[string]time.Duration{
			"": 0, "0": 0, "30": 30 * time.Second, "-5": 0, "1e3": 0, "soon": 0,
			"99999999999999999999":                   0,
			"999999":                                 24 * time.Hour,
			time.Now().UTC().Format(http.TimeFormat): 0,
			time.Now().UTC().Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
			time.Now().UTC().Add(-time.Hour).Format(http.TimeFormat):       0,
			time.Now().UTC().AddDate(1, 0, 0).Format(http.TimeFormat):      24 * time.Hour,
		} {
			if got := retryAfter(value); got != want {
				t.Errorf("retryAfter(%q) = %v, want %v", value, got, want)
			}
		}
	})
}

func TestTidy(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text    string
		secrets []string
		want    string
	}{
		"plain":             {"all is well", nil, "all is well"},
		"lines":             {"a\r\nb\tc\u0085d\u2028e", nil, "a b c d e"},
		"escape sequence":   {"a\x1b[31mb", nil, "a [31mb"},
		"direction":         {"a\u202egnp.exe", nil, "a gnp.exe"},
		"invalid UTF-8":     {"a\xffb", nil, "ab"},
		"secret":            {"token s3cr3t-token!", []string{"s3cr3t-token"}, "token [redacted]!"},
		"secret twice":      {"0123456789 0123456789", []string{"0123456789"}, "[redacted] [redacted]"},
		"secret, escaped":   {"x=a%2Bb%2Fcdef&y", []string{"a+b/cdef"}, "x=[redacted]&y"},
		"escaped lower":     {"x=a%2bb%2fcdef&y", []string{"a+b/cdef"}, "x=[redacted]&y"},
		"path-escaped":      {"x=a%20b%20cdef", []string{"a b cdef"}, "x=[redacted]"},
		"secret breaks off": {"refresh_token=0123456789", []string{"0123456789abcdef"}, "refresh_token=[redacted]"},
		"short secret":      {"pin 12345", []string{"12345"}, "pin [redacted]"},
		"too short to tell": {"a b c", []string{"b", ""}, "a b c"},
		"long":              {strings.Repeat("x", 400), nil, strings.Repeat("x", 300) + "…"},
		"cut inside a rune": {strings.Repeat("x", 299) + "éé", nil, strings.Repeat("x", 299) + "…"},
		"cut after a rune":  {strings.Repeat("x", 298) + "éé", nil, strings.Repeat("x", 298) + "é…"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := tidy(test.text, test.secrets...)
			if got != test.want {
				t.Errorf("tidy = %q, want %q", got, test.want)
			}
			if !utf8.ValidString(got) {
				t.Error("invalid UTF-8")
			}
		})
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add([]byte(`{"access_token":"a","refresh_token":"r","expires_in":3600,"scope":"x y"}`))
	f.Add([]byte(`{"access_token":"a","expires_in":"1e400","scope":["x",null]}`))
	f.Add([]byte(`{"error":"invalid_grant","error_codes":[1,"2",null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, status := range []int{200, 400, 503} {
			err := parseFailure("refresh", &http.Response{StatusCode: status}, body, "s3cr3t-value")
			if err == nil {
				if status != 200 {
					t.Fatalf("status %d is no failure", status)
				}
				continue
			}
			if text := err.Error(); strings.ContainsAny(text, "\r\n\x00") || !utf8.ValidString(text) || strings.Contains(text, "s3cr3t-value") {
				t.Fatalf("error %q", text)
			}
		}
		g, err := parseGrant(body)
		if err != nil {
			return
		}
		if g.accessToken == "" || g.expiresIn < time.Second || g.expiresIn > 365*24*time.Hour {
			t.Fatalf("grant %+v", g)
		}
		if strings.ContainsAny(g.accessToken+g.refreshToken, "\r\n\x00 ") {
			t.Fatalf("grant %+v", g)
		}
	})
}
