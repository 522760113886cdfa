package tokenstest

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// The names of RFC 7523, sections 2.1 and 2.2.
const (
	grantJWT  = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	clientJWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// clientAssertionLocked checks an assertion that proves the client: one that
// another issuer has made, or one that a certificate's key has signed, good for
// one request and for ten minutes at most.
func (s *Server) clientAssertionLocked(form url.Values, header http.Header) error {
	assertion := form.Get("client_assertion")
	switch {
	case form.Get("client_assertion_type") != clientJWT:
		return errors.New("wrong client_assertion_type")
	case form.Has("client_secret") || header.Get("Authorization") != "":
		return errors.New("more than one way of client authentication")
	case form.Get("client_id") != s.ClientID:
		return errors.New("wrong client id")
	case slices.Contains(s.Federated, assertion):
		return nil
	}
	token, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.PS256, jose.ES256})
	if err != nil {
		return errors.New("the assertion is no JWT that is signed with PS256 or ES256")
	}
	key, err := s.certified(token.Headers[0])
	if err != nil {
		return err
	}
	claims, err := s.checkAssertion(token, key, jwt.Expected{Issuer: s.ClientID, Subject: s.ClientID}, 10*time.Minute)
	if err != nil {
		return err
	}
	if claims.ID == "" || claims.NotBefore == nil || s.assertions[claims.ID] {
		return errors.New("jti or nbf is missing, or jti was used before")
	}
	s.assertions[claims.ID] = true
	return nil
}

// certified returns the public key of the certificate that a header names.
func (s *Server) certified(h jose.Header) (crypto.PublicKey, error) {
	i := slices.IndexFunc(s.Certificates, func(c *x509.Certificate) bool {
		sum := sha256.Sum256(c.Raw)
		return h.ExtraHeaders["x5t#S256"] == base64.RawURLEncoding.EncodeToString(sum[:])
	})
	if i < 0 || h.ExtraHeaders[jose.HeaderType] != "JWT" {
		return nil, errors.New("the certificate is not known, or typ is wrong")
	}
	return s.Certificates[i].PublicKey, nil
}

// checkAssertion checks signature and claims (RFC 7523, section 3).
func (s *Server) checkAssertion(token *jwt.JSONWebToken, key crypto.PublicKey, want jwt.Expected, life time.Duration, more ...any) (*jwt.Claims, error) {
	var claims jwt.Claims
	if err := token.Claims(key, append(more, &claims)...); err != nil {
		return nil, errors.New("the assertion's signature is wrong")
	}
	want.AnyAudience, want.Time = jwt.Audience{s.Issuer + PathToken}, time.Now()
	if err := claims.ValidateWithLeeway(want, 0); err != nil {
		return nil, fmt.Errorf("the assertion's claims are wrong: %w", err)
	}
	if claims.IssuedAt == nil || claims.Expiry == nil || claims.Expiry.Time().Sub(claims.IssuedAt.Time()) > life {
		return nil, errors.New("iat or exp is missing, or the assertion lives too long")
	}
	return &claims, nil
}

// redeemAssertionLocked answers a service account that speaks for a mailbox.
func (s *Server) redeemAssertionLocked(form url.Values) answer {
	refuse := func(description string) answer {
		return failure(http.StatusBadRequest, "invalid_grant", description)
	}
	token, err := jwt.ParseSigned(form.Get("assertion"), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return refuse("the assertion is no JWT that is signed with RS256")
	}
	var named struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
		Scope   string `json:"scope"`
	}
	if err := token.UnsafeClaimsWithoutVerification(&named); err != nil || s.ServiceAccounts[named.Issuer] == nil {
		return refuse("account not found")
	}
	if _, err := s.checkAssertion(token, s.ServiceAccounts[named.Issuer], jwt.Expected{Issuer: named.Issuer}, time.Hour); err != nil {
		return refuse(err.Error())
	}
	switch {
	case form.Has("client_id") || form.Has("client_secret") || form.Has("client_assertion"):
		return failure(http.StatusBadRequest, "invalid_request", "the assertion speaks for itself")
	case form.Has("scope") || named.Scope == "":
		return failure(http.StatusBadRequest, "invalid_scope", "the scope has to be in the assertion")
	case !strings.Contains(named.Subject, "@"):
		return failure(http.StatusUnauthorized, "unauthorized_client", "sub is no mailbox")
	}
	return jsonAnswer(http.StatusOK, s.successLocked(&grant{user: named.Subject, scope: named.Scope}))
}
