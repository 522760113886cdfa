package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	requestLife = 10 * time.Minute // how long the sign-in page may stay open
	codeLife    = time.Minute      // RFC 6749 section 4.1.2 recommends at most ten
)

// A user can sign in at the embedded authorization server. There is no password: a click is enough.
type user struct {
	id    string // the `sub` claim
	email string
}

// The idpStore keeps what the embedded authorization server must remember, in memory. It is safe for concurrent use.
// Access tokens live for the configured time; a refresh token lives until it is used, when a new one takes its place,
// or revoked.
type idpStore struct {
	client *idpClient
	secret string
	users  []user
	life   time.Duration
	now    func() time.Time
	key    signingKey

	mu       sync.Mutex
	requests map[string]*authRequest  // by id
	codes    map[string]issuedCode    // by code
	access   map[string]accessToken   // by token id
	refresh  map[string]*refreshToken // by token
}

type issuedCode struct {
	request string
	expires time.Time
}

type accessToken struct {
	grant   string
	subject string
	expires time.Time
	scopes  []string
}

var (
	_ op.Storage                   = (*idpStore)(nil)
	_ op.CanSetUserinfoFromRequest = (*idpStore)(nil)
)

// newIDPStore makes an empty store with a signing key of its own.
func newIDPStore(client *idpClient, secret string, users []user, life time.Duration, now func() time.Time) (*idpStore, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	return &idpStore{
		client:   client,
		secret:   secret,
		users:    users,
		life:     life,
		now:      now,
		key:      signingKey{id: rand.Text(), key: key},
		requests: make(map[string]*authRequest),
		codes:    make(map[string]issuedCode),
		access:   make(map[string]accessToken),
		refresh:  make(map[string]*refreshToken),
	}, nil
}

// signIn records that the user with this address has agreed to the request with this id.
func (s *idpStore) signIn(requestID, email string) error {
	i := slices.IndexFunc(s.users, func(u user) bool { return u.email == email })
	if i < 0 {
		return fmt.Errorf("no user %q", email)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(requestID)
	if err != nil {
		return err
	}
	r.subject = s.users[i].id
	r.signedIn = s.now()
	return nil
}

// take removes a request, for one that was refused, and returns it.
func (s *idpStore) take(requestID string) (*authRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(requestID)
	if err != nil {
		return nil, err
	}
	delete(s.requests, requestID)
	return r, nil
}

// owner answers whose the access token with this id is, if it is valid still.
func (s *idpStore) owner(tokenID, subject string) (email string, ok bool) {
	s.mu.Lock()
	t, ok := s.access[tokenID]
	s.mu.Unlock()
	if !ok || t.subject != subject || !s.now().Before(t.expires) {
		return "", false
	}
	u, ok := s.userByID(t.subject)
	return u.email, ok
}

func (s *idpStore) userByID(id string) (user, bool) {
	i := slices.IndexFunc(s.users, func(u user) bool { return u.id == id })
	if i < 0 {
		return user{}, false
	}
	return s.users[i], true
}

func (s *idpStore) requestLocked(id string) (*authRequest, error) {
	r, ok := s.requests[id]
	if !ok || !s.now().Before(r.expires) {
		return nil, errors.New("this sign-in is unknown or too old: begin again")
	}
	return r, nil
}

// CreateAuthRequest implements [op.AuthStorage]. PKCE with S256 is demanded of everybody (RFC 9700 section 2.1.1).
func (s *idpStore) CreateAuthRequest(_ context.Context, req *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if req.CodeChallenge == "" || req.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE with code_challenge_method S256 is required")
	}
	if slices.Contains(req.Prompt, oidc.PromptNone) {
		return nil, oidc.ErrLoginRequired()
	}
	r := &authRequest{id: rand.Text(), AuthRequest: *req, expires: s.now().Add(requestLife)}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetOldLocked()
	s.requests[r.id] = r
	return r.copy(), nil
}

func (s *idpStore) forgetOldLocked() {
	now := s.now()
	maps.DeleteFunc(s.requests, func(_ string, r *authRequest) bool { return !now.Before(r.expires) })
	maps.DeleteFunc(s.codes, func(_ string, c issuedCode) bool { return !now.Before(c.expires) })
	maps.DeleteFunc(s.access, func(_ string, t accessToken) bool { return !now.Before(t.expires) })
}

// AuthRequestByID implements [op.AuthStorage].
func (s *idpStore) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(id)
	if err != nil {
		return nil, err
	}
	return r.copy(), nil
}

// AuthRequestByCode implements [op.AuthStorage].
func (s *idpStore) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.codes[code]
	if !ok || !s.now().Before(c.expires) {
		return nil, errors.New("the code is unknown, used or too old")
	}
	r, err := s.requestLocked(c.request)
	if err != nil {
		return nil, err
	}
	return r.copy(), nil
}

// SaveAuthCode implements [op.AuthStorage].
func (s *idpStore) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = issuedCode{request: id, expires: s.now().Add(codeLife)}
	return nil
}

// DeleteAuthRequest implements [op.AuthStorage].
func (s *idpStore) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spendLocked(id)
	return nil
}

// spendLocked ends a request together with its code and reports whether it was there.
func (s *idpStore) spendLocked(id string) bool {
	_, ok := s.requests[id]
	delete(s.requests, id)
	maps.DeleteFunc(s.codes, func(_ string, c issuedCode) bool { return c.request == id })
	return ok
}

// CreateAccessToken implements [op.AuthStorage]: for a request without `offline_access`.
func (s *idpStore) CreateAccessToken(_ context.Context, req op.TokenRequest) (string, time.Time, error) {
	r, ok := req.(*authRequest)
	if !ok {
		return "", time.Time{}, oidc.ErrUnsupportedGrantType()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.spendLocked(r.id) {
		return "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("the code was used before")
	}
	id, expires := s.issueLocked(rand.Text(), r.subject, r.GetScopes())
	return id, expires, nil
}

// CreateAccessAndRefreshTokens implements [op.AuthStorage]. A code and a refresh token work once, also when two
// requests bring the same one at the same time.
func (s *idpStore) CreateAccessAndRefreshTokens(_ context.Context, req op.TokenRequest, current string) (string, string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &refreshToken{token: rand.Text()}
	switch r := req.(type) {
	case *authRequest:
		if !s.spendLocked(r.id) {
			return "", "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("the code was used before")
		}
		next.grant = rand.Text()
		next.subject, next.client = r.subject, r.ClientID
		next.scopes, next.current = r.GetScopes(), r.GetScopes()
		next.signedIn = r.signedIn
	case *refreshToken:
		old, ok := s.refresh[current]
		if !ok {
			return "", "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("the refresh token was used or revoked")
		}
		delete(s.refresh, current)
		next.grant = old.grant
		next.subject, next.client = old.subject, old.client
		next.scopes, next.current = old.scopes, r.current
		next.signedIn = old.signedIn
	default:
		return "", "", time.Time{}, oidc.ErrUnsupportedGrantType()
	}
	s.refresh[next.token] = next
	id, expires := s.issueLocked(next.grant, next.subject, next.current)
	return id, next.token, expires, nil
}

func (s *idpStore) issueLocked(grant, subject string, scopes []string) (id string, expires time.Time) {
	id, expires = rand.Text(), s.now().Add(s.life)
	s.access[id] = accessToken{grant: grant, subject: subject, expires: expires, scopes: scopes}
	return id, expires
}

// TokenRequestByRefreshToken implements [op.AuthStorage].
func (s *idpStore) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.refresh[token]
	if !ok {
		return nil, op.ErrInvalidRefreshToken
	}
	c := *t
	c.current = c.scopes
	return &c, nil
}

// GetRefreshTokenInfo implements [op.AuthStorage].
func (s *idpStore) GetRefreshTokenInfo(_ context.Context, clientID, token string) (userID, tokenID string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.refresh[token]
	if !ok || t.client != clientID {
		return "", "", op.ErrInvalidRefreshToken
	}
	return t.subject, t.token, nil
}

// RevokeToken implements [op.AuthStorage] (RFC 7009). With a refresh token go the access tokens of the same grant.
func (s *idpStore) RevokeToken(_ context.Context, tokenOrID, _, _ string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.access, tokenOrID)
	t, ok := s.refresh[tokenOrID]
	if !ok {
		return nil // RFC 7009 section 2.2: an unknown token is no error
	}
	delete(s.refresh, tokenOrID)
	maps.DeleteFunc(s.access, func(_ string, a accessToken) bool { return a.grant == t.grant })
	return nil
}

// TerminateSession implements [op.AuthStorage]. There are no sessions: each sign-in asks again.
func (s *idpStore) TerminateSession(context.Context, string, string) error { return nil }

// SigningKey implements [op.AuthStorage].
func (s *idpStore) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms implements [op.AuthStorage].
func (s *idpStore) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{s.key.SignatureAlgorithm()}, nil
}

// KeySet implements [op.AuthStorage].
func (s *idpStore) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey(s.key)}, nil
}

// GetClientByClientID implements [op.OPStorage].
func (s *idpStore) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.client.id {
		return nil, oidc.ErrInvalidClient().WithDescription("unknown client")
	}
	return s.client, nil
}

// AuthorizeClientIDSecret implements [op.OPStorage].
func (s *idpStore) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != s.client.id || subtle.ConstantTimeCompare([]byte(secret), []byte(s.secret)) != 1 {
		return errors.New("wrong client id or secret")
	}
	return nil
}
