package tokens

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxAnswer is the most that is read of an authorization server's answer.
const maxAnswer = 1 << 20

// requestTimeout bounds one request to an authorization server.
const requestTimeout = 30 * time.Second

// grant is a successful answer of a token endpoint (RFC 6749, section 5.1).
type grant struct {
	accessToken  string
	refreshToken string
	idToken      string
	scopes       []string
	expiresIn    time.Duration
}

// errRedirect: a token endpoint answered with a redirect. Following it would
// send the refresh token and the client secret to another host.
var errRedirect = errors.New("the endpoint redirects elsewhere; set it to its final address")

// newHTTPClient returns a client that follows no redirect. A nil transport
// means the default one, which honours HTTPS_PROXY.
func newHTTPClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post sends a form to the token endpoint, once, and reads the answer. x/oauth2
// is not used here: it follows redirects with the secrets, loses the answer
// when a field has an odd type, and has no way to repeat the scope.
func (c *Client) post(ctx context.Context, op string, p Provider, form url.Values, secrets ...string) (*grant, error) {
	body, status, err := c.postForm(ctx, op, p, p.TokenEndpoint, form, secrets...)
	if err != nil {
		return nil, err
	}
	g, err := parseGrant(body)
	if err != nil {
		// The provider has acted on the request, and what it said is unreadable.
		return nil, &Error{Op: op, Kind: KindAmbiguous, Status: status, Err: err}
	}
	return g, nil
}

// postForm sends a form with client authentication and returns the body of a
// 2xx answer that carries no error.
func (c *Client) postForm(ctx context.Context, op string, p Provider, endpoint string, form url.Values, secrets ...string) ([]byte, int, error) {
	id, secret := p.ClientID, ""
	if len(p.Credentials) > 0 {
		s, err := p.Credentials[0].Secret()
		if err != nil {
			return nil, 0, &Error{Op: op, Kind: KindConfig, Err: err}
		}
		secret = s.Reveal()
	}
	user, password := url.QueryEscape(id), url.QueryEscape(secret)
	secrets = append(secrets, secret, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	basic := p.AuthStyle == AuthBasic && secret != ""
	if !basic {
		form.Set("client_id", id)
		if secret != "" {
			form.Set("client_secret", secret)
		}
	}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, &Error{Op: op, Kind: KindConfig, Err: fmt.Errorf("endpoint %q is no URL", endpoint)}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if basic {
		// RFC 6749, section 2.3.1: both are form-encoded first.
		req.SetBasicAuth(user, password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		kind := KindTransient
		if sent.Load() {
			kind = KindAmbiguous
		}
		return nil, 0, &Error{Op: op, Kind: kind, Err: networkError(err, secrets...)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, resp.StatusCode, &Error{Op: op, Kind: KindAmbiguous, Status: resp.StatusCode, Err: networkError(err, secrets...)}
	}
	if fail := parseFailure(op, resp, body, secrets...); fail != nil {
		return nil, resp.StatusCode, fail
	}
	return body, resp.StatusCode, nil
}

// networkError strips the URL from an error of net/http, and any secret.
func networkError(err error, secrets ...string) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	return errors.New(tidy(err.Error(), secrets...))
}

// parseFailure returns the error that an answer carries; nil for none. Some
// servers send errors with status 200, so the body counts, too.
func parseFailure(op string, resp *http.Response, body []byte, secrets ...string) error {
	var answer struct {
		Error       any `json:"error"`
		Description any `json:"error_description"`
		Codes       any `json:"error_codes"` // Entra's numbers
	}
	_ = json.Unmarshal(body, &answer) // an unreadable body has no error code
	code, _ := answer.Error.(string)
	ok := resp.StatusCode >= 200 && resp.StatusCode < 300
	if ok && (answer.Error == nil || answer.Error == "") {
		return nil
	}
	description, _ := answer.Description.(string)
	e := &Error{
		Op:          op,
		Status:      resp.StatusCode,
		Code:        tidy(code, secrets...),
		Description: tidy(description, secrets...),
		Kind:        kindOf(code, resp.StatusCode),
		RetryAfter:  retryAfter(resp.Header.Get("Retry-After")),
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		e.Err = errRedirect
	}
	if numbers, _ := answer.Codes.([]any); code == "invalid_grant" && slices.ContainsFunc(numbers, func(n any) bool {
		f, ok := n.(float64)
		return ok && slices.Contains(entraPassing, f)
	}) {
		e.Kind = KindTransient
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		// A busy or broken server's words about the grant are not believed.
		e.Kind = KindTransient
	}
	return e
}

// retryAfter reads a Retry-After of seconds or a date (RFC 9110), at most a day.
func retryAfter(v string) time.Duration {
	if v == "" {
		return 0
	}
	d := time.Duration(0)
	if n, err := strconv.Atoi(v); err == nil {
		d = time.Duration(min(max(n, 0), 86400)) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = time.Until(at)
	}
	return min(max(d, 0), 24*time.Hour)
}

// parseGrant reads a successful answer, tolerating what servers are known to
// get wrong: numbers as strings or with a fraction, a scope as a list.
func parseGrant(body []byte) (*grant, error) {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, errors.New("the answer is no JSON object")
	}
	g := &grant{expiresIn: noExpiry}
	g.accessToken, _ = m["access_token"].(string)
	g.refreshToken, _ = m["refresh_token"].(string)
	g.idToken, _ = m["id_token"].(string)
	if g.accessToken == "" {
		return nil, errors.New("the answer has no access_token")
	}
	for _, s := range []string{g.accessToken, g.refreshToken} {
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, errors.New("a token in the answer has characters that RFC 6749 forbids")
		}
	}
	switch v := m["scope"].(type) {
	case string:
		if v != "" { // an empty one tells nothing
			g.scopes = strings.Fields(v)
		}
	case []any:
		for _, s := range v {
			if s, ok := s.(string); ok {
				g.scopes = append(g.scopes, s)
			}
		}
	}
	seconds := -1.0
	switch v := m["expires_in"].(type) {
	case float64:
		seconds = v
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			seconds = f
		}
	}
	if seconds >= 1 {
		const year = 365 * 24 * 3600
		g.expiresIn = time.Duration(min(seconds, year)) * time.Second
	}
	return g, nil
}
