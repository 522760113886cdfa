package caddymodule

// Provider is an authorization server and our client registration there.
//
// All strings accept the placeholders `{env.*}` and `{file.*}`; they are
// replaced once, when the configuration is loaded.
type Provider struct {
	// What people see on the sign-in page. Default: the provider's name.
	DisplayName string `json:"display_name,omitempty"`

	// A vendor's endpoints, scopes and ways: `microsoft` or `google`.
	Preset string `json:"preset,omitempty"`

	// Microsoft's tenant: its id or one of its domains. Needed with the preset
	// `microsoft`.
	Directory string `json:"directory,omitempty"`

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

	// The client id of our registration.
	ClientID string `json:"client_id,omitempty"`

	// The client secret. Better `{file.*}` or `{env.*}` than the secret itself,
	// which would show in the configuration. None for a public client.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates at the token endpoint: `basic` or `post`.
	// Default: from the preset or the issuer's metadata, else `basic`.
	ClientAuth string `json:"client_auth,omitempty"`

	// The scopes to ask for. Default: from the preset.
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

	// The mailbox that signs in, where `auth` is `oauth`.
	User string `json:"user,omitempty"`

	// The sender of messages that name none. Default: `user`.
	From string `json:"from,omitempty"`

	// The allowed senders: addresses, `*@domain`, or `*` for any. Default:
	// `from` and `user`.
	Senders []string `json:"senders,omitempty"`

	// The most connections to the mail server at a time. Default: 2.
	Connections int `json:"connections,omitempty"`

	// A PEM file with the authorities that the server's certificate is verified
	// against, in place of the system's.
	CAFile string `json:"ca_file,omitempty"`
}

// Auth is how a tenant signs in to its mail server.
type Auth struct {
	// `oauth`, `password` or `none`.
	Method string `json:"method,omitempty"`

	// The provider whose token to use, with `oauth`.
	Provider string `json:"provider,omitempty"`

	// The SASL mechanism, with `oauth`: `xoauth2` or `oauthbearer`. Default: what
	// the server offers, XOAUTH2 first.
	Mechanism string `json:"mechanism,omitempty"`

	// User name and password, with `password`.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Key lets a program use the send route.
type Key struct {
	// The key: at least 24 characters. Better `{file.*}` or `{env.*}` than the
	// key itself, which would show in the configuration.
	Key string `json:"key,omitempty"`

	// The tenant that messages go out with.
	Tenant string `json:"tenant,omitempty"`
}

// settings are what a snapshot is built from: plain values without
// placeholders.
type settings struct {
	redirectBase string
	providers    map[string]providerSettings
	tenants      map[string]tenantSettings
	keys         map[string]keySettings
}

type providerSettings struct {
	Provider
	origin origin
}

type tenantSettings struct {
	Tenant
	// authorities is the content of CAFile.
	authorities []byte
	origin      origin
}

type keySettings struct {
	Key
	origin origin
}

// origin says where a setting comes from, and so who may change it.
type origin string

// originFile is the configuration file: shown, and read-only at run time.
const originFile origin = "file"

// defaults of settings.
const (
	defaultConnections = 2
	minKeyLength       = 24
)
