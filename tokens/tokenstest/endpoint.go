package tokenstest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// token answers a request to the token endpoint as it should be.
func (s *Server) token(form url.Values, header http.Header) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if form.Get("grant_type") == grantJWT {
		return s.redeemAssertionLocked(form) // the grant speaks for itself
	}
	if a, ok := s.clientLocked(form, header); !ok {
		return a
	}
	switch form.Get("grant_type") {
	case "authorization_code":
		return s.redeemCodeLocked(form)
	case "refresh_token":
		return s.redeemRefreshLocked(form)
	case "client_credentials":
		return s.grantClientLocked(form)
	}
	return failure(http.StatusBadRequest, "unsupported_grant_type", form.Get("grant_type"))
}

// clientLocked checks the client's own credentials.
func (s *Server) clientLocked(form url.Values, header http.Header) (answer, bool) {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if form.Has("client_assertion") {
		if err := s.clientAssertionLocked(form, header); err != nil {
			return failure(http.StatusUnauthorized, "invalid_client", err.Error()), false
		}
		return answer{}, true
	}
	if s.Basic {
		r := http.Request{Header: header}
		user, password, _ := r.BasicAuth()
		// RFC 6749, section 2.3.1: both are form-encoded.
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	if id != s.ClientID || secret != s.ClientSecret && !slices.Contains(s.MoreSecrets, secret) {
		return failure(http.StatusUnauthorized, "invalid_client", "wrong client id or secret"), false
	}
	return answer{}, true
}

func (s *Server) redeemCodeLocked(form url.Values) answer {
	c := s.codes[form.Get("code")]
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case c == nil:
		return failure(http.StatusBadRequest, "invalid_grant", "no such code")
	case c.used:
		c.grant.revoked = true
		return failure(http.StatusBadRequest, "invalid_grant", "the code was used before")
	case base64.RawURLEncoding.EncodeToString(sum[:]) != c.challenge:
		return failure(http.StatusBadRequest, "invalid_grant", "the code verifier does not match")
	case form.Get("redirect_uri") != c.redirect:
		return failure(http.StatusBadRequest, "invalid_grant", "another redirect URI")
	}
	c.used = true
	m := s.successLocked(c.grant)
	if !s.WithoutRefresh {
		m["refresh_token"] = s.newRefreshLocked(c.grant)
	}
	if !s.WithoutID && slices.Contains(strings.Fields(c.grant.scope), "openid") {
		m["id_token"] = s.idToken(c.grant, c.nonce)
	}
	return jsonAnswer(http.StatusOK, m)
}

func (s *Server) redeemRefreshLocked(form url.Values) answer {
	r := s.refresh[form.Get("refresh_token")]
	if r == nil {
		return failure(http.StatusBadRequest, "invalid_grant", "no such refresh token")
	}
	now := time.Now()
	if !r.used.IsZero() {
		s.reused++
		if now.Sub(r.used) > s.Grace {
			r.grant.revoked = true
			return failure(http.StatusBadRequest, "invalid_grant", "the refresh token was used before")
		}
	}
	if r.grant.revoked {
		return failure(http.StatusBadRequest, "invalid_grant", "the grant was ended")
	}
	m := s.successLocked(r.grant)
	if !s.Steady {
		if r.used.IsZero() {
			r.used = now
		}
		m["refresh_token"] = s.newRefreshLocked(r.grant)
	}
	return jsonAnswer(http.StatusOK, m)
}

// grantClientLocked answers a client that asks for itself (RFC 6749, section
// 4.4): the token is no person's, and none refreshes it.
func (s *Server) grantClientLocked(form url.Values) answer {
	switch {
	case s.ClientSecret == "" && !form.Has("client_assertion"):
		return failure(http.StatusBadRequest, "unauthorized_client", "a public client")
	case form.Get("scope") == "":
		return failure(http.StatusBadRequest, "invalid_scope", "no scope")
	}
	return jsonAnswer(http.StatusOK, s.successLocked(&grant{user: s.ClientID, scope: form.Get("scope")}))
}

func (s *Server) successLocked(g *grant) map[string]any {
	scope := g.scope
	if s.Scope != "" {
		scope = s.Scope
	}
	return map[string]any{
		"access_token": s.newAccessLocked(g),
		"token_type":   "Bearer",
		"expires_in":   int(s.Life.Seconds()),
		"scope":        scope,
	}
}

// idToken makes an ID token, unsigned.
func (s *Server) idToken(g *grant, nonce string) string {
	now := time.Now()
	claims := map[string]any{
		"iss": s.Issuer, "aud": s.ClientID, "sub": "subject of " + g.user, "email": g.user,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if s.Claims != nil {
		s.Claims(claims)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": "none"}) + "." + part(claims) + ".c2ln"
}

// revoke answers a request to the revocation endpoint (RFC 7009).
func (s *Server) revoke(form url.Values, header http.Header) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.clientLocked(form, header); !ok {
		return a
	}
	if r := s.refresh[form.Get("token")]; r != nil {
		r.grant.revoked = true
	}
	return answer{status: http.StatusOK}
}
