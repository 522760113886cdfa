package tokens

// google is Gmail and Google Workspace.
//
// developers.google.com: "OAuth 2.0 Mechanism" (Gmail), "Using OAuth 2.0 for Web
// Server Applications", "Using OAuth 2.0 for Server to Server Applications". A
// refresh token comes only with access_type=offline and right after the consent
// screen, and stays the same. The mail scope is not among those of "OAuth 2.0
// for TV and Limited-Input Device Applications", so there is no sign-in by
// device code. What a mailbox may send in a day depends on its edition; the size
// is what the servers announce.
var google = preset{
	scopes: map[Grant][]string{
		// The ID token tells who has signed in.
		GrantAuthorizationCode: {"https://mail.google.com/", "openid", "email"},
		GrantServiceAccount:    {"https://mail.google.com/"},
	},
	instead: map[Grant]string{ //nolint:gosec // no credentials
		GrantClientCredentials: "Google lets no client speak for itself to its mail servers; in Google Workspace use grant service_account, else each mailbox's owner signs in",
	},
	provider: Provider{ //nolint:gosec // no credentials
		Issuer:                "https://accounts.google.com",
		AuthorizationEndpoint: "https://accounts.google.com/o/oauth2/v2/auth",
		TokenEndpoint:         "https://oauth2.googleapis.com/token",
		RevocationEndpoint:    "https://oauth2.googleapis.com/revoke",
		AuthStyle:             AuthPost,
		Prompt:                "consent",
		PickerPrompt:          "select_account",
		AuthParams:            map[string]string{"access_type": "offline"},
		Rotation:              RotationNone,
		Mechanism:             "xoauth2",
		Servers:               []string{"smtp.gmail.com", "smtp-relay.gmail.com"},
		Limits:                Limits{MessageSize: 35_882_577},
	},
}
