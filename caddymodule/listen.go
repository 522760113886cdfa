package caddymodule

import "github.com/caddyserver/caddy/v2/modules/caddytls"

// SMTP is an entrance for devices and programs that send by SMTP (RFC 6409), with
// passwords of our own or from networks that need none.
//
// All strings accept the placeholders `{env.*}` and `{file.*}`.
type SMTP struct {
	// Where to listen, as Caddy writes network addresses. Default port: 587. An
	// address that is not loopback is refused as long as anybody could send there
	// without being known.
	Listen []string `json:"listen,omitempty"`

	// The name that clients connect to, which stands in the greeting and the
	// certificate; an address where there is no name. Needed, unless `tls` is `off`.
	Hostname string `json:"hostname,omitempty"`

	// When TLS begins: `starttls`, when the client asks for it; `implicit`, at once;
	// or `off`. Default: `implicit` at port 465, else `starttls`.
	TLS string `json:"tls,omitempty"`

	// Where the certificate comes from: `automatic`, as Caddy's automation policies
	// say for the hostname, or from the site that has it; or `internal`, from Caddy's
	// own authority. Default: `automatic`, and `internal` for names that no public
	// authority serves.
	Certificate string `json:"certificate,omitempty"`

	// How TLS connections are set up. Default: Caddy's defaults.
	ConnectionPolicies caddytls.ConnectionPolicies `json:"tls_connection_policies,omitempty"`

	// The tenant of users and networks that name none.
	Tenant string `json:"tenant,omitempty"`

	// The tenants of users and networks that name none, by the host name that the
	// client asks for in the TLS handshake. Each gets a certificate, too.
	SNI map[string]string `json:"sni,omitempty"`

	// Who may sign in, by name. Names are compared without regard to case.
	Users map[string]*SMTPUser `json:"users,omitempty"`

	// Who may send without signing in.
	Networks []*SMTPNetwork `json:"networks,omitempty"`

	// The private networks whose clients may sign in without TLS, which shows their
	// passwords and mails to whoever listens there.
	PlaintextAuth []string `json:"plaintext_auth,omitempty"`

	// The most that a message may have, in octets. Default: 36 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// The most recipients of a message. Default: 100.
	MaxRecipients int `json:"max_recipients,omitempty"`

	// The most connections to one of the addresses at a time. Default: 100.
	Connections int `json:"connections,omitempty"`

	// The most connections of one client's address, or of 64 bits of IPv6. Default: 10.
	ConnectionsPerAddress int `json:"connections_per_address,omitempty"`

	// What becomes of line ends without a CR: `mend` or `refuse`. Default: `mend`.
	BareLF string `json:"bare_lf,omitempty"`
}

// SMTPUser may sign in to an SMTP entrance.
type SMTPUser struct {
	// The hash of the password, as `caddy hash-password` prints it; or, for a password
	// of 24 characters and more, the password itself, which belongs in `{file.*}` or
	// `{env.*}`.
	Password string `json:"password,omitempty"`

	// The networks that the user may sign in from. Default: any.
	Networks []string `json:"networks,omitempty"`

	SMTPSender
}

// SMTPNetwork may use an SMTP entrance without signing in.
type SMTPNetwork struct {
	// Networks and addresses, all private or loopback. The narrowest network that
	// holds a client's address counts.
	Ranges []string `json:"ranges,omitempty"`

	SMTPSender
}

// SMTPSender is on whose behalf a user or network sends.
type SMTPSender struct {
	// The tenant that messages go out with. Default: that of the name in `sni`, or of
	// the entrance.
	Tenant string `json:"tenant,omitempty"`

	// The sender of messages that have none. Default: the tenant's.
	From string `json:"from,omitempty"`

	// The sender of all messages, whatever they say. The address that they had goes
	// to Reply-To.
	RewriteFrom string `json:"rewrite_from,omitempty"`
}
