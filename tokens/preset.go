package tokens

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// preset is what a vendor's providers have in common. In URLs {directory}
// stands for the directory (Microsoft's tenant). Vendors' documents are named
// at each preset.
type preset struct {
	provider Provider
	// directory is used where none is given; empty: one must be given, or the
	// preset has no use for one.
	directory    string
	hasDirectory bool
}

var presets = map[string]preset{
	// learn.microsoft.com: "Authenticate an IMAP, POP or SMTP connection using
	// OAuth", "Microsoft identity platform and OAuth 2.0 authorization code
	// flow". The scope names Outlook, not Graph: a token for Graph is refused
	// with 535 5.7.3. Entra sends no iss, and login_hint has no effect together
	// with prompt=select_account.
	"microsoft": {
		hasDirectory: true,
		provider: Provider{ //nolint:gosec // no credentials
			AuthorizationEndpoint: "https://login.microsoftonline.com/{directory}/oauth2/v2.0/authorize",
			TokenEndpoint:         "https://login.microsoftonline.com/{directory}/oauth2/v2.0/token",
			Scopes:                []string{"https://outlook.office.com/SMTP.Send", "offline_access", "openid", "email", "profile"},
			AuthStyle:             AuthPost,
			ScopeOnRefresh:        true,
			IssRule:               IssIgnored,
			PickerPrompt:          "select_account",
			Servers:               []string{"smtp.office365.com", "smtp-mail.outlook.com"},
		},
	},
	// developers.google.com: "OAuth 2.0 Mechanism" (Gmail), "Using OAuth 2.0
	// for Web Server Applications". A refresh token comes only with
	// access_type=offline and right after the consent screen.
	"google": {
		provider: Provider{ //nolint:gosec // no credentials
			Issuer:                "https://accounts.google.com",
			AuthorizationEndpoint: "https://accounts.google.com/o/oauth2/v2/auth",
			TokenEndpoint:         "https://oauth2.googleapis.com/token",
			RevocationEndpoint:    "https://oauth2.googleapis.com/revoke",
			AuthStyle:             AuthPost,
			Scopes:                []string{"https://mail.google.com/", "openid", "email"},
			Prompt:                "consent",
			PickerPrompt:          "select_account",
			AuthParams:            map[string]string{"access_type": "offline"},
			Servers:               []string{"smtp.gmail.com", "smtp-relay.gmail.com"},
		},
	},
}

// directoryForm is a tenant's id or domain: what can stand in a URL's path.
var directoryForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Presets returns the names that [FromPreset] knows.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

// FromPreset returns a vendor's endpoints, scopes and ways. The caller adds the
// client registration.
func FromPreset(name, directory string) (Provider, error) {
	p, ok := presets[name]
	if !ok {
		return Provider{}, fmt.Errorf("unknown preset %q; there are %s", name, strings.Join(Presets(), ", "))
	}
	if directory != "" && !p.hasDirectory {
		return Provider{}, fmt.Errorf("preset %s has no use for a directory", name)
	}
	if directory == "" {
		directory = p.directory
	}
	if directory == "" && p.hasDirectory {
		return Provider{}, fmt.Errorf("preset %s needs a directory: the tenant's id or domain, such as contoso.onmicrosoft.com", name)
	}
	if directory != "" && !directoryForm.MatchString(directory) {
		return Provider{}, fmt.Errorf("directory %q must be a tenant's id or domain", directory)
	}
	v := p.provider
	v.AuthorizationEndpoint = strings.ReplaceAll(v.AuthorizationEndpoint, "{directory}", directory)
	v.TokenEndpoint = strings.ReplaceAll(v.TokenEndpoint, "{directory}", directory)
	v.Scopes = slices.Clone(v.Scopes)
	v.Servers = slices.Clone(v.Servers)
	v.AuthParams = maps.Clone(v.AuthParams)
	return v, nil
}
