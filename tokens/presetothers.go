package tokens

// signInOnly is why a vendor has no grant but a person's.
var signInOnly = map[Grant]string{
	GrantClientCredentials: "nobody can permit an application there; each mailbox's owner signs in",
	GrantServiceAccount:    "service accounts are Google's; each mailbox's owner signs in",
}

// fastmail: fastmail.com/dev, "OAuth". Its clients are public ones, registered
// by hand, the token endpoint is called refresh, and iss always comes. A refresh
// token ends when it is used, and using it again ends the grant.
var fastmail = preset{
	scopes:  map[Grant][]string{GrantAuthorizationCode: {"https://www.fastmail.com/dev/protocol-smtp"}},
	instead: signInOnly,
	provider: Provider{ //nolint:gosec // no credentials
		Issuer:                "https://api.fastmail.com",
		AuthorizationEndpoint: "https://api.fastmail.com/oauth/authorize",
		TokenEndpoint:         "https://api.fastmail.com/oauth/refresh",
		RevocationEndpoint:    "https://api.fastmail.com/oauth/revoke",
		AuthStyle:             AuthPost,
		Public:                true,
		IssRule:               IssRequired,
		Rotation:              RotationStrict,
		Servers:               []string{"smtp.fastmail.com"},
	},
}

var (
	yahoo = oath("api.login.yahoo.com", "smtp.mail.yahoo.com")
	aol   = oath("api.login.aol.com", "smtp.aol.com")
)

// oath is what Yahoo and AOL share: developer.yahoo.com, "Authorization code flow
// for server-side apps", which wants HTTP Basic. AOL's endpoints and the mail
// scope are known from mail clients. Both give that scope to approved partners
// only. Whether a refresh token ends when it is used is told in two ways.
func oath(host, server string) preset {
	base := "https://" + host + "/oauth2"
	return preset{
		scopes:  map[Grant][]string{GrantAuthorizationCode: {"mail-w"}},
		instead: signInOnly,
		provider: Provider{
			Issuer:                "https://" + host,
			AuthorizationEndpoint: base + "/request_auth",
			TokenEndpoint:         base + "/get_token",
			RevocationEndpoint:    base + "/revoke",
			AuthStyle:             AuthBasic,
			Servers:               []string{server},
		},
	}
}
