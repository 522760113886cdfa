package tokens

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
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

// postOnce sends a form with the given proof of the client, and returns the body
// of a 2xx answer that carries no error.
func (c *Client) postOnce(ctx context.Context, op string, p Provider, endpoint string, form url.Values, by proof, secrets ...string) ([]byte, int, error) {
	header := http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"},
		"Accept":       {"application/json"},
	}
	form = maps.Clone(form) // the next credential begins anew
	secrets = append(by.authenticate(p, form, header), secrets...)
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, &Error{Op: op, Kind: KindConfig, Err: fmt.Errorf("endpoint %q is no URL", endpoint)}
	}
	req.Header = header
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
	// An object that is whole counts, though the connection broke after it.
	if err != nil && readAnswer(body) == nil {
		return nil, resp.StatusCode, &Error{Op: op, Kind: KindAmbiguous, Status: resp.StatusCode, Err: networkError(err, secrets...)}
	}
	if fail := parseFailure(op, resp, body, secrets...); fail != nil {
		return nil, resp.StatusCode, fail
	}
	return body, resp.StatusCode, nil
}

// networkError strips the URL from an error of net/http, and any secret. What
// could not be read as HTTP is not repeated: it may hold a token.
func networkError(err error, secrets ...string) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	_, inHeader := errors.AsType[textproto.ProtocolError](err)
	_, network := errors.AsType[net.Error](err)
	if inHeader || strings.Contains(err.Error(), "transport connection broken") &&
		!network && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the answer is no HTTP")
	}
	return errors.New(tidy(err.Error(), secrets...))
}

// parseFailure returns the error that an answer carries; nil for none. Some
// servers send errors with status 200, so the body counts, too. Members of an
// odd type are passed over.
func parseFailure(op string, resp *http.Response, body []byte, secrets ...string) error {
	answer := readAnswer(body) // an unreadable body has no error code
	ok := resp.StatusCode >= 200 && resp.StatusCode < 300
	if e := answer.member("error"); ok && (e == nil || e == "") {
		return nil
	}
	// Some name tokens in an error, new ones even.
	secrets = append(slices.Clip(secrets), answer.text("access_token"), answer.text("refresh_token"), answer.text("id_token"))
	word := func(names ...string) string {
		for _, name := range names {
			if text := answer.text(name); text != "" {
				return tidy(text, secrets...)
			}
		}
		return ""
	}
	code := answer.text("error")
	e := &Error{
		Op:            op,
		Status:        resp.StatusCode,
		Code:          word("error"),
		Suberror:      word("suberror", "error_subtype"), // Entra's name for it and Google's
		Description:   word("error_description"),
		Numbers:       entraNumbers(answer.member("error_codes")),
		TraceID:       word("trace_id"),
		CorrelationID: word("correlation_id"),
		Kind:          kindOf(code, resp.StatusCode),
		RetryAfter:    retryAfter(resp.Header.Get("Retry-After")),
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		e.Err = errRedirect
	}
	if code == "invalid_grant" && slices.ContainsFunc(e.Numbers, func(n int) bool { return slices.Contains(entraPassing, n) }) {
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
	answer := readAnswer(body)
	if answer == nil {
		return nil, errors.New("the answer is no JSON object")
	}
	g := &grant{
		accessToken:  answer.text("access_token"),
		refreshToken: answer.text("refresh_token"),
		idToken:      answer.text("id_token"),
		expiresIn:    noExpiry,
	}
	if g.accessToken == "" {
		return nil, errors.New("the answer has no access_token")
	}
	for _, s := range []string{g.accessToken, g.refreshToken} {
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, errors.New("a token in the answer has characters that RFC 6749 forbids")
		}
	}
	switch v := answer.member("scope").(type) {
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
	switch v := answer.member("expires_in").(type) {
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
