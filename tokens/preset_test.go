package tokens

import (
	"strings"
	"testing"
)

var allGrants = []Grant{GrantAuthorizationCode, GrantClientCredentials, GrantServiceAccount}

// TestPresets: each preset is whole, for each grant that it has.
func TestPresets(t *testing.T) {
	t.Parallel()
	for _, name := range Presets() {
		directory := ""
		if presets[name].hasDirectory && presets[name].directory == "" {
			directory = "contoso.onmicrosoft.com"
		}
		for _, g := range allGrants {
			p, err := FromPreset(name, directory, g)
			if _, possible := presets[name].scopes[g]; !possible {
				if presets[name].instead[g] == "" || err == nil || !strings.Contains(err.Error(), presets[name].instead[g]) {
					t.Errorf("%s with %s: %v", name, g, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			p.ClientID = "c"
			if g == GrantClientCredentials {
				p.Credentials = NewClientSecret("s")
			}
			p.ServiceAccount = func() (*SigningKey, error) { return nil, nil }
			if err := p.Check(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if p.AuthStyle == AuthFromMetadata || len(p.Scopes) == 0 || p.Grant != g {
				t.Errorf("%s: %+v", name, p)
			}
			for _, u := range []string{p.AuthorizationEndpoint, p.TokenEndpoint, p.DeviceAuthorizationEndpoint, p.AdminConsentEndpoint, p.RevocationEndpoint} {
				if strings.Contains(u, "{") {
					t.Errorf("%s: %s", name, u)
				}
			}
			for _, s := range p.Servers {
				if !p.AllowsServer(strings.ToUpper(s)+".") || s != strings.ToLower(s) {
					t.Errorf("%s: server %s", name, s)
				}
			}
			if p.AllowsServer("evil.example") || p.AllowsServer("x"+p.Servers[0]) || p.AllowsServer("") {
				t.Errorf("%s: foreign servers are allowed", name)
			}
			// Presets are not to be changed through what was made of them.
			p.Scopes[0], p.Servers[0] = "changed", "changed"
			if q, _ := FromPreset(name, directory, g); q.Scopes[0] == "changed" || q.Servers[0] == "changed" {
				t.Errorf("%s is shared", name)
			}
		}
	}
	if _, err := FromPreset("nosuch", "", GrantAuthorizationCode); err == nil || !strings.Contains(err.Error(), "google") {
		t.Errorf("unknown preset: %v", err)
	}
}

// TestPresetFacts: what vendors' documents say, and what would go wrong in
// silence.
func TestPresetFacts(t *testing.T) {
	t.Parallel()
	const contoso = "contoso.onmicrosoft.com"
	for _, tt := range []struct {
		preset, directory string
		grant             Grant
		token             string
		scopes            string
		consent, device   string
		server            string
		style             AuthStyle
		rotation          Rotation
		connections       int
	}{
		{
			"microsoft", contoso, GrantAuthorizationCode, "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token",
			"https://outlook.office.com/SMTP.Send offline_access openid email profile",
			"https://login.microsoftonline.com/contoso.onmicrosoft.com/v2.0/adminconsent", "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/devicecode",
			"smtp.office365.com", AuthPost, RotationNone, 3,
		},
		{
			"microsoft", contoso, GrantClientCredentials, "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token",
			"https://outlook.office365.com/.default", // another host than for people
			"https://login.microsoftonline.com/contoso.onmicrosoft.com/v2.0/adminconsent", "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/devicecode",
			"smtp-hve.office365.com", AuthPost, RotationNone, 3,
		},
		{
			"microsoft", "organizations", GrantAuthorizationCode, "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
			"https://outlook.office.com/SMTP.Send offline_access openid email profile",
			"https://login.microsoftonline.com/organizations/v2.0/adminconsent", "https://login.microsoftonline.com/organizations/oauth2/v2.0/devicecode",
			"smtp.office365.com", AuthPost, RotationNone, 3,
		},
		{
			"microsoft-us-gov", contoso, GrantClientCredentials, "https://login.microsoftonline.us/contoso.onmicrosoft.com/oauth2/v2.0/token",
			"https://outlook.office365.us/.default",
			"https://login.microsoftonline.us/contoso.onmicrosoft.com/v2.0/adminconsent", "https://login.microsoftonline.us/contoso.onmicrosoft.com/oauth2/v2.0/devicecode",
			"smtp.office365.us", AuthPost, RotationNone, 3,
		},
		{
			"microsoft-us-dod", contoso, GrantAuthorizationCode, "https://login.microsoftonline.us/contoso.onmicrosoft.com/oauth2/v2.0/token",
			"https://outlook.office365.us/SMTP.Send offline_access openid email profile",
			"https://login.microsoftonline.us/contoso.onmicrosoft.com/v2.0/adminconsent", "https://login.microsoftonline.us/contoso.onmicrosoft.com/oauth2/v2.0/devicecode",
			"outlook-dod.office365.us", AuthPost, RotationNone, 3,
		},
		{
			"microsoft-china", contoso, GrantAuthorizationCode, "https://login.partner.microsoftonline.cn/contoso.onmicrosoft.com/oauth2/v2.0/token",
			"https://partner.outlook.cn/SMTP.Send offline_access openid email profile",
			"https://login.partner.microsoftonline.cn/contoso.onmicrosoft.com/v2.0/adminconsent", "https://login.partner.microsoftonline.cn/contoso.onmicrosoft.com/oauth2/v2.0/devicecode",
			"smtp.partner.outlook.cn", AuthPost, RotationNone, 3,
		},
		{
			"outlook", "", GrantAuthorizationCode, "https://login.microsoftonline.com/consumers/oauth2/v2.0/token",
			"https://outlook.office.com/SMTP.Send offline_access openid email profile",
			"", "https://login.microsoftonline.com/consumers/oauth2/v2.0/devicecode", "smtp-mail.outlook.com", AuthPost, RotationNone, 0,
		},
		{
			"google", "", GrantAuthorizationCode, "https://oauth2.googleapis.com/token", "https://mail.google.com/ openid email",
			"", "", "smtp.gmail.com", AuthPost, RotationNone, 0,
		},
		{
			"google", "", GrantServiceAccount, "https://oauth2.googleapis.com/token", "https://mail.google.com/",
			"", "", "smtp-relay.gmail.com", AuthPost, RotationNone, 0,
		},
		{
			"yahoo", "", GrantAuthorizationCode, "https://api.login.yahoo.com/oauth2/get_token", "mail-w",
			"", "", "smtp.mail.yahoo.com", AuthBasic, RotationUnknown, 0,
		},
		{
			"aol", "", GrantAuthorizationCode, "https://api.login.aol.com/oauth2/get_token", "mail-w",
			"", "", "smtp.aol.com", AuthBasic, RotationUnknown, 0,
		},
		{
			"fastmail", "", GrantAuthorizationCode, "https://api.fastmail.com/oauth/refresh", "https://www.fastmail.com/dev/protocol-smtp",
			"", "", "smtp.fastmail.com", AuthPost, RotationStrict, 0,
		},
	} {
		t.Run(tt.preset+" "+tt.grant.String()+" "+tt.directory, func(t *testing.T) {
			t.Parallel()
			p, err := FromPreset(tt.preset, tt.directory, tt.grant)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct{ what, got, want string }{
				{"token endpoint", p.TokenEndpoint, tt.token},
				{"scopes", strings.Join(p.Scopes, " "), tt.scopes},
				{"admin consent", p.AdminConsentEndpoint, tt.consent},
				{"device authorization", p.DeviceAuthorizationEndpoint, tt.device},
			} {
				if c.got != c.want {
					t.Errorf("%s is %q, want %q", c.what, c.got, c.want)
				}
			}
			if !p.AllowsServer(tt.server) || p.AuthStyle != tt.style || p.Rotation != tt.rotation || p.Limits.Connections != tt.connections {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestPresetDirectories(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		preset, directory string
		grant             Grant
		want              string // part of the error; empty for none
	}{
		{"microsoft", "", GrantAuthorizationCode, "directory is missing"},
		{"microsoft", "common", GrantAuthorizationCode, ""},
		{"microsoft", "common", GrantClientCredentials, "needs the directory of one organization"},
		{"microsoft", "organizations", GrantClientCredentials, "needs the directory of one organization"},
		{"microsoft-china", "consumers", GrantClientCredentials, "needs the directory of one organization"},
		{"outlook", "common", GrantAuthorizationCode, ""},
		{"outlook", "contoso.com", GrantAuthorizationCode, "need preset microsoft"},
		{"google", "x", GrantAuthorizationCode, "no use there"},
		{"fastmail", "x", GrantAuthorizationCode, "no use there"},
	} {
		_, err := FromPreset(tt.preset, tt.directory, tt.grant)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %q and %s: %v, want %q", tt.preset, tt.directory, tt.grant, err, tt.want)
		}
	}
	for _, bad := range []string{"..", "a/b", "a?b", "a#b", "a%2fb", "a b", "{x}", "a\nb"} {
		if _, err := FromPreset("microsoft", bad, GrantAuthorizationCode); err == nil {
			t.Errorf("directory %q is fine", bad)
		}
	}
}

// TestPublicPreset: a secret for a public client is a mistake, and would be sent.
func TestPublicPreset(t *testing.T) {
	t.Parallel()
	p, err := FromPreset("fastmail", "", GrantAuthorizationCode)
	if err != nil {
		t.Fatal(err)
	}
	p.ClientID = "c"
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	p.Credentials = NewClientSecret("s")
	if err := p.Check(); err == nil || !strings.Contains(err.Error(), "public") {
		t.Errorf("with a secret: %v", err)
	}
}
