package tokens

// Entra's names for more than one organization (learn.microsoft.com: "OpenID
// Connect on the Microsoft identity platform").
var (
	sharedDirectories   = []string{"common", "organizations", "consumers"}
	personalDirectories = []string{"common", "consumers"}
)

// entra is what Microsoft's presets share, in the cloud with the given host for
// sign-ins. Resource is the URI that the cloud's scopes begin with, for people
// and for applications.
//
// learn.microsoft.com: "Authenticate an IMAP, POP or SMTP connection using
// OAuth", "Microsoft identity platform and OAuth 2.0 authorization code flow",
// and the pages on the device code flow, the client credentials flow and the
// admin consent endpoint. The scope names Outlook, not Graph: a token for Graph
// is refused with 535 5.7.3. Entra sends no iss, its issuer depends on who
// signs in, and login_hint has no effect together with
// prompt=select_account. A new refresh token comes with each use, and the old
// one stays good ("Refresh tokens in the Microsoft identity platform"). There is
// no revocation endpoint.
func entra(login, people, apps string, servers ...string) preset {
	base := "https://" + login + "/{directory}"
	return preset{
		hasDirectory: true,
		scopes: map[Grant][]string{
			GrantAuthorizationCode: {people + "/SMTP.Send", "offline_access", "openid", "email", "profile"},
			GrantClientCredentials: {apps + "/.default"},
		},
		instead: map[Grant]string{
			GrantServiceAccount: "service accounts are Google's; here an application signs in with grant client_credentials",
		},
		provider: Provider{
			AuthorizationEndpoint:       base + "/oauth2/v2.0/authorize",
			TokenEndpoint:               base + "/oauth2/v2.0/token",
			DeviceAuthorizationEndpoint: base + "/oauth2/v2.0/devicecode",
			AdminConsentEndpoint:        base + "/v2.0/adminconsent",
			AuthStyle:                   AuthPost,
			RSAOnly:                     true, // "Certificate credentials": PS256
			ScopeOnRefresh:              true,
			IssRule:                     IssIgnored,
			PickerPrompt:                "select_account",
			Rotation:                    RotationNone,
			Mechanism:                   "xoauth2",
			Servers:                     servers,
			Limits:                      exchangeLimits,
		},
	}
}

// exchangeLimits are a mailbox's at Exchange Online (learn.microsoft.com:
// "Exchange Online limits", "How to set up a multifunction device or application
// to send email"). The size is what its servers announce; a mailbox's own may be
// less, and its administrator sets it.
var exchangeLimits = Limits{Connections: 3, MessagesPerMinute: 30, RecipientsPerDay: 10_000, MessageSize: 157_286_400}

var (
	// smtp-hve.office365.com is High Volume Email ("Manage High Volume Email for
	// Microsoft 365"): its tokens are for the same resource.
	microsoft = entra("login.microsoftonline.com", "https://outlook.office.com", "https://outlook.office365.com",
		"smtp.office365.com", "smtp-mail.outlook.com", "smtp-hve.office365.com")

	// learn.microsoft.com: "National clouds", "Microsoft 365 U.S. Government GCC
	// High endpoints". The scopes are known from users only.
	microsoftUSGov = entra("login.microsoftonline.us", "https://outlook.office365.us", "https://outlook.office365.us",
		"smtp.office365.us", "outlook.office365.us")

	// "Microsoft 365 U.S. Government DoD endpoints". The scope is known from users
	// of the other government cloud only.
	microsoftUSDoD = entra("login.microsoftonline.us", "https://outlook.office365.us", "https://outlook.office365.us",
		"outlook-dod.office365.us")

	// "National clouds", "Office 365 operated by 21Vianet". Scope and server are
	// known from users only; some tenants need the scope
	// https://partner.outlook.cn/.default.
	microsoftChina = entra("login.partner.microsoftonline.cn", "https://partner.outlook.cn", "https://partner.outlook.cn",
		"smtp.partner.outlook.cn")

	outlook = personal(microsoft, "smtp-mail.outlook.com")
)

// personal turns a preset for organizations into one for Microsoft's personal
// accounts: same sign-in, no administrator, other limits, which depend on the
// account's reputation and are not told.
func personal(p preset, servers ...string) preset {
	p.directory, p.directories = "consumers", personalDirectories
	p.scopes = map[Grant][]string{GrantAuthorizationCode: p.scopes[GrantAuthorizationCode]}
	p.instead = signInOnly
	p.provider.Servers = servers
	p.provider.Limits = Limits{}
	return p
}
