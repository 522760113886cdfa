package caddymodule

import "github.com/caddyserver/caddy/v2"

// Provider is an authorization server and our client registration there.
//
// All strings accept the placeholders `{env.*}` and `{file.*}`; they are
// replaced once, when the configuration is loaded. A credential's files are read
// again whenever it is used.
type Provider struct {
	// What people see on the sign-in page. Default: the provider's name.
	DisplayName string `json:"display_name,omitempty"`

	// A vendor's endpoints, scopes and ways: `microsoft`, `microsoft-us-gov`,
	// `microsoft-us-dod`, `microsoft-china`, `outlook`, `google`, `yahoo`, `aol`
	// or `fastmail`.
	Preset string `json:"preset,omitempty"`

	// Microsoft's tenant: its id or one of its domains. Needed with Microsoft's
	// presets; `outlook` has `consumers` by default.
	Directory string `json:"directory,omitempty"`

	// How access tokens are obtained: `authorization_code`, where a person signs
	// in once; `client_credentials`, where the client speaks for itself; or
	// `service_account`, Google's. Default: `authorization_code`.
	Grant string `json:"grant,omitempty"`

	// The server's issuer identifier. Endpoints that are not given are
	// discovered from it when they are first needed.
	Issuer string `json:"issuer,omitempty"`

	// Where a person consents. Default: from the preset or the issuer.
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`

	// Where codes and refresh tokens are redeemed. Default: from the preset or
	// the issuer.
	TokenEndpoint string `json:"token_endpoint,omitempty"`

	// Where a token is revoked when an account is disconnected. Default: from
	// the preset or the issuer; none is fine.
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`

	// Where a sign-in by device code begins. Default: from the preset or the
	// issuer.
	DeviceAuthorizationEndpoint string `json:"device_authorization_endpoint,omitempty"`

	// The page where an administrator consents for a whole organization.
	// Default: from the preset; none is fine.
	AdminConsentEndpoint string `json:"admin_consent_endpoint,omitempty"`

	// Allow sign-ins by device code.
	DeviceCode bool `json:"device_code,omitempty"`

	// The client id of our registration. None with `service_account`.
	ClientID string `json:"client_id,omitempty"`

	// What the client proves itself with, tried in this order. None for a public
	// client.
	Credentials []Credential `json:"credentials,omitempty"`

	// A service account's key file in JSON, with the grant of that name. Read
	// again when it is used.
	ServiceAccount string `json:"service_account,omitempty"`

	// How a client secret is sent to the token endpoint: `basic` or `post`.
	// Default: from the preset or the issuer's metadata, else `basic`.
	ClientAuth string `json:"client_auth,omitempty"`

	// The scopes to ask for. Default: from the preset, for the grant.
	Scopes []string `json:"scopes,omitempty"`

	// The `prompt` parameter of the authorization request. Default: from the
	// preset; `consent` for other servers when `offline_access` is asked for.
	Prompt string `json:"prompt,omitempty"`

	// Further parameters of the authorization request.
	AuthParams map[string]string `json:"auth_params,omitempty"`

	// The redirect URI that is registered with the provider. Default:
	// `<redirect_base>/<provider>`.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// The mail servers that may see this provider's tokens. Default: from the
	// preset.
	Servers []string `json:"servers,omitempty"`

	// Whether a refresh token ends when it is used: `strict` or `none`. Default:
	// from the preset, else whatever is safe with both.
	Rotation string `json:"rotation,omitempty"`

	// How long before its end an access token is renewed, where a quarter of its
	// life is not less. Default: 15 minutes.
	Margin caddy.Duration `json:"margin,omitempty"`

	// The most refreshes a second in the background, at the token endpoint's
	// host. Default: 10.
	RefreshRate float64 `json:"refresh_rate,omitempty"`

	// The proxy to reach the endpoints by: an `http`, `https` or `socks5` URL.
	// Default: what the environment says (`HTTPS_PROXY`, `NO_PROXY`).
	Proxy string `json:"proxy,omitempty"`

	// A PEM file with the authorities that the endpoints' certificates are
	// verified against, in place of the system's.
	CAFile string `json:"ca_file,omitempty"`
}

// Credential is what a client proves itself with: a secret, a certificate or a
// federated token.
type Credential struct {
	// A client secret. Better `{file.*}` or `{env.*}` than the secret itself,
	// which would show in the configuration. A file is read again when the
	// secret is used.
	Secret string `json:"secret,omitempty"`

	// The day the secret expires, such as `2027-06-30`, to be warned before.
	Expires string `json:"expires,omitempty"`

	// A PEM file with a certificate and its private key, which sign an assertion
	// (`private_key_jwt`). Read again when it is used.
	Certificate string `json:"certificate,omitempty"`

	// A file with a JWT that another issuer made for this client, such as a
	// workload's token. Read again when it is used.
	FederatedToken string `json:"federated_token,omitempty"`
}

// Tenant is a way to send: a mail server, how to sign in to it, and who may be
// the sender.
//
// All strings accept the placeholders `{env.*}` and `{file.*}`.
type Tenant struct {
	// The mail server, `[scheme://]host[:port]`. Without a scheme STARTTLS is
	// required (port 587); `smtps://` is TLS from the start (port 465);
	// `plaintext://` is unencrypted, for loopback and private addresses only.
	// Default: the first of the provider's servers.
	Server string `json:"server,omitempty"`

	// How to sign in.
	Auth Auth `json:"auth,omitzero"`

	// The mailbox that signs in, where `auth` is `oauth`. With the grant
	// `client_credentials` it is a mailbox that the client may use.
	User string `json:"user,omitempty"`

	// The sender of messages that name none. Default: `user`.
	From string `json:"from,omitempty"`

	// The allowed senders: addresses, `*@domain`, or `*` for any. Default:
	// `from` and `user`.
	Senders []string `json:"senders,omitempty"`

	// The allowed recipients, as for `senders`. Default: any.
	AllowedRecipients []string `json:"allowed_recipients,omitempty"`

	// The domains whose senders go by this tenant, where a request's key may use
	// several tenants and the request names none.
	Domains []string `json:"domains,omitempty"`

	// The most connections to the mail server at a time. Default: what the
	// provider's preset allows a mailbox, else 2.
	Connections int `json:"connections,omitempty"`

	// The most messages in a time, counted in a window that slides. Default: what
	// the provider's preset allows a mailbox, else no limit.
	Rate Rate `json:"rate,omitzero"`

	// The most recipients in any 24 hours. Default: what the provider's preset
	// allows a mailbox, else no limit.
	RecipientsPerDay int `json:"recipients_per_day,omitempty"`

	// How long a connection is used. Default: 15 minutes.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How long a connection is kept without use. Default: 1 minute.
	MaxIdle caddy.Duration `json:"max_idle,omitempty"`

	// The most messages over one connection. Default: 100.
	MaxMessages int `json:"max_messages,omitempty"`

	// Keep a connection ready when there is no mail, so that the next message need
	// not wait for a sign-in.
	Warm bool `json:"warm,omitempty"`

	// What to do when the server refuses a recipient: `some` sends to the others,
	// `all` sends to nobody. Default: `some`.
	Recipients string `json:"recipients,omitempty"`

	// The tenant that sends while this one cannot, since nobody can sign in, its
	// server cannot be reached or wants no mail from it for a while. It must
	// allow the same senders. Its own failover is not asked.
	Failover string `json:"failover,omitempty"`

	// For staging: deliver nothing, or all to one address. Default: mail goes to
	// its recipients.
	Deliver Deliver `json:"deliver,omitzero"`

	// The proxy to reach the server by: an `http`, `https` or `socks5` URL.
	// Default: none.
	Proxy string `json:"proxy,omitempty"`

	// A PEM file with the authorities that the server's certificate is verified
	// against, in place of the system's.
	CAFile string `json:"ca_file,omitempty"`

	// How long a message in the outbox is tried, from when it was accepted, or from
	// when it was scheduled for. Default: 48 hours.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// What becomes of a message in the outbox that may have been sent, since the
	// server's answer to it was lost: `retry` tries it again, and it may come twice;
	// `hold` keeps it until a person decides. Default: `retry`.
	OnUnknown string `json:"on_unknown,omitempty"`

	// How many messages in a row the server may refuse for one reason before the
	// others wait until a person has looked; below zero: any number. Default: 5.
	Brake int `json:"brake,omitempty"`

	// More messages than that in that time, of the tenant or of one of its callers, pause
	// the tenant until an operator resumes it. Default: no limit.
	VolumeLimit *Rate `json:"volume_limit,omitempty"`

	// So many times as many messages in an hour as in the busiest one of the week before
	// pause it, too. Default: no limit.
	VolumeJump int `json:"volume_jump,omitempty"`
}

// Auth is how a tenant signs in to its mail server.
type Auth struct {
	// `oauth`, `password` or `none`.
	Method string `json:"method,omitempty"`

	// The provider whose token to use, with `oauth`.
	Provider string `json:"provider,omitempty"`

	// The SASL mechanism, with `oauth`: `xoauth2` or `oauthbearer`. Default: from
	// the preset, else what the server offers, XOAUTH2 first.
	Mechanism string `json:"mechanism,omitempty"`

	// User name and password, with `password`.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Rate is a number of messages in a time.
type Rate struct {
	Messages int            `json:"messages,omitempty"`
	Window   caddy.Duration `json:"window,omitempty"`
}

// Deliver is where a tenant's mail goes in place of its recipients.
type Deliver struct {
	// Check and compose messages, and send none.
	None bool `json:"none,omitempty"`

	// The address that gets all messages. Their own recipients are named in
	// X-Original-To.
	To string `json:"to,omitempty"`
}
