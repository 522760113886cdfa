package tokenstest

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Server is an authorization server. It rotates refresh tokens, each good for
// one use, and ends the grant when one comes a second time. Set its fields
// before the first request; it is safe for concurrent use.
//
// It is an [http.RoundTripper], which needs no network, and an [http.Handler].
type Server struct {
	// Issuer begins every endpoint's URL.
	Issuer       string
	ClientID     string
	ClientSecret string
	// MoreSecrets are accepted besides ClientSecret.
	MoreSecrets []string
	// Certificates are those whose keys may sign assertions that prove the client
	// (RFC 7523, section 2.2), and Federated what another issuer has made.
	Certificates []*x509.Certificate
	Federated    []string
	// ServiceAccounts are the public keys of accounts that may speak for every
	// mailbox (RFC 7523, section 2.1), by their addresses.
	ServiceAccounts map[string]crypto.PublicKey
	// Basic wants the client to authenticate in the header, not in the form.
	Basic bool
	// Life is how long an access token lives.
	Life time.Duration
	// Grace is how long a used refresh token may be used again.
	Grace time.Duration
	// Steady hands out no new refresh token on a refresh.
	Steady bool
	// WithoutRefresh and WithoutID leave that token out of the answer to a code.
	WithoutRefresh, WithoutID bool
	// Scope, if set, is the answer's, instead of what was asked for.
	Scope string
	// Claims, if set, changes the claims of ID tokens.
	Claims func(claims map[string]any)
	// Metadata, if set, changes the discovery document.
	Metadata func(m map[string]any)
	// PlainOAuth has metadata at RFC 8414's place alone.
	PlainOAuth bool

	mu       sync.Mutex
	codes    map[string]*code
	refresh  map[string]*refreshToken
	access   map[string]issued
	replies  []Reply
	requests []Request
	reused   int
	devices  map[string]*device // by device code
	// assertions are the ids of those that proved the client already.
	assertions map[string]bool
}

// Request is a POST that came to the server.
type Request struct {
	Path   string
	Form   url.Values
	Header http.Header
}

// grant is what a person allowed.
type grant struct {
	user    string
	scope   string
	revoked bool
}

// issued is an access token that was issued.
type issued struct {
	user  string
	until time.Time
}

type code struct {
	grant                      *grant
	challenge, nonce, redirect string
	used                       bool
}

type refreshToken struct {
	grant *grant
	used  time.Time // zero: not yet
}

// NewServer returns a server for one client, with the issuer
// https://idp.example.net and access tokens of an hour.
func NewServer() *Server {
	return &Server{
		Issuer:       "https://idp.example.net",
		ClientID:     "client-1",
		ClientSecret: "client secret+1/é",
		Life:         time.Hour,
		codes:        map[string]*code{},
		refresh:      map[string]*refreshToken{},
		access:       map[string]issued{},
		assertions:   map[string]bool{},
	}
}

// The paths of the endpoints, below the issuer.
const (
	PathAuthorize = "/authorize"
	PathToken     = "/token"
	PathRevoke    = "/revoke"
)

// Next scripts the answers to the next requests to the token and revocation
// endpoints.
func (s *Server) Next(r ...Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies = append(s.replies, r...)
}

// Requests returns the POSTs that came so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Reused returns how often a used refresh token was presented, grace or not.
func (s *Server) Reused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reused
}

// Valid reports whether an access token is valid now.
func (s *Server) Valid(accessToken string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.access[accessToken].until)
}

// Owner returns whose access token it is, if it is valid now. One that a client
// got for itself belongs to its client id.
func (s *Server) Owner(accessToken string) (user string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.access[accessToken]
	return t.user, time.Now().Before(t.until)
}

// Issue makes a grant without a sign-in.
func (s *Server) Issue(user, scope string) (accessToken, refreshToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &grant{user: user, scope: scope}
	return s.newAccessLocked(g), s.newRefreshLocked(g)
}

// End ends every grant of a user.
func (s *Server) End(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.refresh {
		if r.grant.user == user {
			r.grant.revoked = true
		}
	}
}

// Consent is a person who opens an authorization URL, signs in and allows all.
// It returns the parameters of the answer.
func (s *Server) Consent(address, user string) (url.Values, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	switch {
	case !strings.HasPrefix(address, s.Issuer+PathAuthorize+"?"):
		return nil, fmt.Errorf("%s is not the authorization endpoint", address)
	case q.Get("response_type") != "code":
		return nil, fmt.Errorf("response_type is %q", q.Get("response_type"))
	case q.Get("client_id") != s.ClientID:
		return nil, fmt.Errorf("client_id is %q", q.Get("client_id"))
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		return nil, fmt.Errorf("no PKCE challenge")
	case len(q.Get("state")) < 20:
		return nil, fmt.Errorf("state %q can be guessed", q.Get("state"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "code-" + rand.Text()
	s.codes[name] = &code{
		grant:     &grant{user: user, scope: q.Get("scope")},
		challenge: q.Get("code_challenge"),
		nonce:     q.Get("nonce"),
		redirect:  q.Get("redirect_uri"),
	}
	return url.Values{"code": {name}, "state": {q.Get("state")}, "iss": {s.Issuer}}, nil
}

func (s *Server) newAccessLocked(g *grant) string {
	t := "access-" + rand.Text()
	s.access[t] = issued{g.user, time.Now().Add(s.Life)}
	return t
}

func (s *Server) newRefreshLocked(g *grant) string {
	t := "refresh-" + rand.Text()
	s.refresh[t] = &refreshToken{grant: g}
	return t
}

// answer is an HTTP answer before it is sent.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func jsonAnswer(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return answer{status, http.Header{"Content-Type": {"application/json"}}, body}
}

func failure(status int, code, description string) answer {
	return jsonAnswer(status, map[string]any{"error": code, "error_description": description})
}

// metadata is the discovery document.
func (s *Server) metadata() answer {
	m := map[string]any{
		"issuer":                 s.Issuer,
		"authorization_endpoint": s.Issuer + PathAuthorize,
		"token_endpoint":         s.Issuer + PathToken,
		"revocation_endpoint":    s.Issuer + PathRevoke,
	}
	m["device_authorization_endpoint"] = s.Issuer + PathDevice
	m["token_endpoint_auth_methods_supported"] = []string{"client_secret_basic", "client_secret_post", "private_key_jwt"}
	m["authorization_response_iss_parameter_supported"] = true
	if s.Metadata != nil {
		s.Metadata(m)
	}
	return jsonAnswer(http.StatusOK, m)
}
