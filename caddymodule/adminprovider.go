package caddymodule

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// providerView is a provider as administrators see it.
type providerView struct {
	Name                  string `json:"name"`
	DisplayName           string `json:"display_name"`
	Origin                origin `json:"origin"`
	Issuer                string `json:"issuer,omitempty"`
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`
	TokenEndpoint         string `json:"token_endpoint,omitempty"`
	ClientID              string `json:"client_id"`
	// Credentials are the names of what the client proves itself with; none for a
	// public client.
	Credentials []string `json:"credentials"`
	// ClientSecretExpires is the soonest end of the client's credentials that is
	// known.
	ClientSecretExpires *time.Time `json:"client_secret_expires,omitempty"`
	Scopes              []string   `json:"scopes"`
	RedirectURI         string     `json:"redirect_uri"`
	Servers             []string   `json:"servers"`
	Grant               string     `json:"grant"`
	// DeviceCode: sign-ins by device code are allowed.
	DeviceCode bool `json:"device_code"`
	// AdminConsentURL is where an administrator consents for the whole
	// organization.
	AdminConsentURL string `json:"admin_consent_url,omitempty"`
	// Rotation says whether a refresh token is good for one use only.
	Rotation string `json:"rotation"`
	runtimeView
}

// providers lists providers by names.
func (a admin) providers(ctx context.Context, l listing) ([]providerView, string) {
	s := a.app.snapshot(ctx)
	names, next := l.page(s.names(kindProvider))
	views := make([]providerView, 0, len(names))
	for _, name := range names {
		views = append(views, viewProvider(s, name, false))
	}
	return views, next
}

// provider shows one provider.
func (a admin) provider(ctx context.Context, name string) (providerView, error) {
	s := a.app.snapshot(ctx)
	if s.providers[name] == nil && s.entries[entryRef{kindProvider, name}] == nil {
		return providerView{}, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no provider %q", name)}
	}
	return viewProvider(s, name, true), nil
}

func viewProvider(s *snapshot, name string, whole bool) providerView {
	about := s.viewEntry(entryRef{kindProvider, name}, whole)
	p := s.providers[name]
	if p == nil { // its problem is told
		return providerView{Name: name, Origin: originRuntime, Credentials: []string{}, runtimeView: about}
	}
	return providerView{
		Name: name, DisplayName: p.settings.Title(), Origin: p.origin,
		Issuer: p.settings.Issuer, AuthorizationEndpoint: p.settings.AuthorizationEndpoint, TokenEndpoint: p.settings.TokenEndpoint,
		ClientID: p.settings.ClientID, Credentials: credentialNames(p.settings), ClientSecretExpires: given(p.expires()),
		Scopes: p.settings.Scopes, RedirectURI: p.settings.RedirectURI, Servers: p.settings.Servers,
		Grant: p.settings.Grant.String(), DeviceCode: p.settings.DeviceCode,
		AdminConsentURL: adminConsentURL(p.settings), Rotation: rotationNames[p.settings.Rotation],
		runtimeView: about,
	}
}

// credentialNames returns the Caddyfile's words for what proves the client.
func credentialNames(p tokens.Provider) []string {
	names := make([]string, 0, len(p.Credentials))
	for _, c := range p.Credentials {
		names = append(names, c.Name)
	}
	if p.ServiceAccount != nil {
		names = append(names, "service_account")
	}
	return names
}

// rotationNames are kinds of rotation as administrators see them.
var rotationNames = map[tokens.Rotation]string{
	tokens.RotationUnknown: "unknown",
	tokens.RotationNone:    "none",
	tokens.RotationStrict:  "strict",
}

// adminConsentURL is the page where an administrator consents for the whole
// organization (learn.microsoft.com: "Admin consent on the Microsoft identity
// platform"); empty where there is none. It has no state: what comes back from
// there is not believed.
func adminConsentURL(p tokens.Provider) string {
	u, err := url.Parse(p.AdminConsentEndpoint)
	if err != nil || p.AdminConsentEndpoint == "" {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.ClientID)
	if p.RedirectURI != "" {
		q.Set("redirect_uri", p.RedirectURI)
	}
	if len(p.Scopes) > 0 {
		q.Set("scope", strings.Join(p.Scopes, " "))
	}
	u.RawQuery = q.Encode()
	return u.String()
}
