package main

import (
	"context"
	"errors"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// SetUserinfoFromScopes implements [op.OPStorage]. The library wants it empty where SetUserinfoFromRequest is there.
func (s *idpStore) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest implements [op.CanSetUserinfoFromRequest]: the claims of the ID token.
func (s *idpStore) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, req op.IDTokenRequest, scopes []string) error {
	return s.describe(info, req.GetSubject(), scopes)
}

// SetUserinfoFromToken implements [op.OPStorage]: the answer of the userinfo endpoint.
func (s *idpStore) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, tokenID, subject, _ string) error {
	if _, ok := s.owner(tokenID, subject); !ok {
		return errors.New("the access token is unknown, revoked or too old")
	}
	s.mu.Lock()
	scopes := s.access[tokenID].scopes
	s.mu.Unlock()
	return s.describe(info, subject, scopes)
}

func (s *idpStore) describe(info *oidc.UserInfo, subject string, scopes []string) error {
	u, ok := s.userByID(subject)
	if !ok {
		return errors.New("unknown user")
	}
	info.Subject = u.id
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email = u.email
		info.EmailVerified = true
	}
	return nil
}

// SetIntrospectionFromToken implements [op.OPStorage].
func (s *idpStore) SetIntrospectionFromToken(_ context.Context, answer *oidc.IntrospectionResponse, tokenID, subject, _ string) error {
	email, ok := s.owner(tokenID, subject)
	if !ok {
		return errors.New("the access token is unknown, revoked or too old")
	}
	answer.Subject = subject
	answer.Email = email
	return nil
}

// GetPrivateClaimsFromScopes implements [op.OPStorage]. Access tokens are opaque and have no claims.
func (s *idpStore) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID implements [op.OPStorage]. No client signs assertions here.
func (s *idpStore) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errors.New("clients have no keys here")
}

// ValidateJWTProfileScopes implements [op.OPStorage].
func (s *idpStore) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, oidc.ErrUnsupportedGrantType()
}

// Health implements [op.Storage].
func (s *idpStore) Health(context.Context) error { return nil }
