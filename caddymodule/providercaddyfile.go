package caddymodule

import (
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func parseProvider(d *caddyfile.Dispenser, p *Provider) error {
	return parseBlock(d, words{
		"display_name":                  single(text(&p.DisplayName)),
		"preset":                        single(text(&p.Preset)),
		"directory":                     single(text(&p.Directory)),
		"grant":                         single(choice(&p.Grant, "authorization_code", "client_credentials", "service_account")),
		"issuer":                        single(text(&p.Issuer)),
		"authorization_endpoint":        single(text(&p.AuthorizationEndpoint)),
		"token_endpoint":                single(text(&p.TokenEndpoint)),
		"revocation_endpoint":           single(text(&p.RevocationEndpoint)),
		"device_authorization_endpoint": single(text(&p.DeviceAuthorizationEndpoint)),
		"admin_consent_endpoint":        single(text(&p.AdminConsentEndpoint)),
		"device_code":                   single(toggle(&p.DeviceCode)),
		"client_id":                     single(text(&p.ClientID)),
		"client_secret":                 many(p.credential(func(c *Credential) *string { return &c.Secret })),
		"client_secret_expires":         many(p.parseExpires),
		"client_certificate":            many(p.credential(func(c *Credential) *string { return &c.Certificate })),
		"federated_token":               many(p.credential(func(c *Credential) *string { return &c.FederatedToken })),
		"service_account":               single(text(&p.ServiceAccount)),
		"client_auth":                   single(choice(&p.ClientAuth, "basic", "post")),
		"scopes":                        single(list(&p.Scopes)),
		"prompt":                        single(text(&p.Prompt)),
		"auth_param":                    many(pair(&p.AuthParams)),
		"redirect_uri":                  single(text(&p.RedirectURI)),
		"servers":                       single(list(&p.Servers)),
		"rotation":                      single(choice(&p.Rotation, "strict", "none")),
		"margin":                        single(duration(&p.Margin)),
		"refresh_rate":                  single(positive(&p.RefreshRate)),
		"proxy":                         single(text(&p.Proxy)),
		"ca_file":                       single(text(&p.CAFile)),
	})
}

// credential adds a credential of one kind to those above it.
func (p *Provider) credential(kind func(*Credential) *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var c Credential
		if err := text(kind(&c))(d); err != nil {
			return err
		}
		p.Credentials = append(p.Credentials, c)
		return nil
	}
}

// parseExpires takes the day on which the client secret above it expires.
func (p *Provider) parseExpires(d *caddyfile.Dispenser) error {
	word := d.Val()
	last := len(p.Credentials) - 1
	if last < 0 || p.Credentials[last].Secret == "" {
		return d.Errf("%s must follow the client_secret that it is about", word)
	}
	c := &p.Credentials[last]
	if c.Expires != "" {
		return d.Errf("duplicate %s of one client_secret", word)
	}
	if err := text(&c.Expires)(d); err != nil {
		return err
	}
	if _, err := time.Parse(time.DateOnly, c.Expires); err != nil && !strings.Contains(c.Expires, "{") {
		return d.Errf("bad %s value '%s': must be a date such as 2027-06-30", word, c.Expires)
	}
	return nil
}
