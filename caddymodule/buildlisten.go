package caddymodule

import (
	"cmp"
	"crypto/tls"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// submissionPort is where SMTP entrances listen by default (RFC 6409, section 3.1),
// and submissionsPort where TLS begins at once (RFC 8314, section 7.3).
const (
	submissionPort  = 587
	submissionsPort = 465
)

// smtpEntrance is an SMTP entrance, checked and ready to use.
type smtpEntrance struct {
	// at names it in errors and in the log.
	at        string
	addresses []smtpAddress
	hostname  string
	// names are those that certificates are needed for, the hostname first; none
	// without TLS.
	names []string
	// internal has Caddy's own authority make the certificates.
	internal bool
	policies caddytls.ConnectionPolicies
	tenant   string
	// sni are tenants by host names in lower case.
	sni       map[string]string
	users     map[string]*smtpUser // by names in lower case
	decoys    []*smtpUser          // the same, in order
	networks  []*smtpNetwork       // the narrowest first
	plaintext []netip.Prefix
	maxSize   int64
	limits    listener.Limits
	noBareLF  bool
	// tls is set when the app is provisioned.
	tls *tls.Config
}

// smtpAddress is one socket of an entrance.
type smtpAddress struct {
	caddy.NetworkAddress
	tls string
}

// loopback reports whether only programs of this machine reach the address.
func (a smtpAddress) loopback() bool { return a.NetworkAddress.Network != "fd" && isLoopback(a.Host) }

// smtp checks an SMTP entrance.
func (b *builder) smtp(s SMTP) {
	at := "smtp " + strings.Join(s.Listen, " ")
	e := &smtpEntrance{
		at: at, tenant: s.Tenant, policies: s.ConnectionPolicies, internal: s.Certificate == internalCertificate,
		sni: make(map[string]string), users: make(map[string]*smtpUser), maxSize: s.MaxSize, noBareLF: s.BareLF == refuseBareLF,
		limits: listener.Limits{Connections: s.Connections, PerAddress: s.ConnectionsPerAddress, Recipients: s.MaxRecipients},
	}
	before := len(b.errs)
	b.smtpWords(at, s)
	b.smtpAddresses(at, s, e)
	b.smtpHostname(at, s, e)
	b.smtpTenants(at, s, e)
	for _, name := range slices.Sorted(maps.Keys(s.Users)) {
		b.smtpUser(at, name, s.Users[name], e)
	}
	for _, n := range s.Networks {
		b.smtpNetwork(at, n, e)
	}
	slices.SortStableFunc(e.networks, narrowestFirst)
	e.plaintext = b.nearbyNetworks(at+", plaintext_auth", s.PlaintextAuth, "passwords may travel in clear in private networks only")
	if len(b.errs) == before {
		b.smtpRules(at, e)
	}
	b.snapshot.smtp = append(b.snapshot.smtp, e)
}

func (b *builder) smtpWords(at string, s SMTP) {
	for _, c := range []struct {
		word, value string
		choices     []string
	}{{"tls", s.TLS, tlsModes}, {"certificate", s.Certificate, certificates}, {"bare_lf", s.BareLF, bareLFRules}} {
		if c.value != "" && !slices.Contains(c.choices, c.value) {
			b.errorf("%s, %s: %q must be one of %s", at, c.word, c.value, strings.Join(c.choices, ", "))
		}
	}
	for _, n := range []struct {
		word  string
		value int64
	}{
		{"max_size", s.MaxSize},
		{"max_recipients", int64(s.MaxRecipients)},
		{"connections", int64(s.Connections)},
		{"connections_per_address", int64(s.ConnectionsPerAddress)},
	} {
		if n.value < 0 {
			b.errorf("%s, %s: must be above zero", at, n.word)
		}
	}
}

func (b *builder) smtpAddresses(at string, s SMTP, e *smtpEntrance) {
	if len(s.Listen) == 0 {
		b.errorf("smtp, listen: missing; it is an address such as :587")
	}
	for _, address := range s.Listen {
		network, err := caddy.ParseNetworkAddressWithDefaults(address, "tcp", submissionPort)
		switch {
		case err != nil:
			b.errorf("%s: %w", at, err)
			continue
		case !slices.Contains([]string{"tcp", "tcp4", "tcp6", "fd"}, network.Network):
			b.errorf("%s: %s is no TCP address", at, address)
			continue
		case network.PortRangeSize() > 100:
			b.errorf("%s: so many ports are no help to anybody", at)
			continue
		}
		for _, one := range network.Expand() {
			a := smtpAddress{one, cmp.Or(s.TLS, startTLS)}
			if s.TLS == "" && one.StartPort == submissionsPort {
				a.tls = implicitTLS
			}
			if other, taken := b.listens[a.String()]; taken {
				b.errorf("%s: %s listens at %s, too", at, other, a)
				continue
			}
			b.listens[a.String()] = at
			e.addresses = append(e.addresses, a)
		}
	}
}

func (b *builder) smtpHostname(at string, s SMTP, e *smtpEntrance) {
	if s.TLS == noTLS {
		if s.Certificate != "" || len(s.ConnectionPolicies) > 0 || len(s.SNI) > 0 {
			b.errorf("%s: without TLS there is no certificate and no host name in a handshake; leave them out, or `tls off`", at)
		}
		if s.Hostname == "" {
			e.hostname = "localhost"
			return
		}
	}
	host, err := asciiHost(s.Hostname)
	if err != nil || host == "" || strings.ContainsAny(host, "*:/@ ") && net.ParseIP(host) == nil {
		b.errorf("%s, hostname: %q must be the name that clients connect to, such as smtp.example.com", at, s.Hostname)
		return
	}
	e.hostname = host
	if s.TLS == noTLS {
		return
	}
	e.names = []string{host}
	for _, name := range slices.Sorted(maps.Keys(s.SNI)) {
		ascii, err := asciiHost(name)
		if err != nil || ascii == "" || strings.ContainsAny(ascii, "*:/@ ") {
			b.errorf("%s, sni: %q is no host name", at, name)
			continue
		}
		if _, taken := e.sni[ascii]; taken {
			b.errorf("%s, sni: %s is there twice", at, ascii)
		}
		e.sni[ascii] = s.SNI[name]
		if ascii != host {
			e.names = append(e.names, ascii)
		}
	}
}

// smtpTenants checks the tenants of those that name none.
func (b *builder) smtpTenants(at string, s SMTP, e *smtpEntrance) {
	if s.Tenant != "" {
		b.knownTenant(at+", tenant", s.Tenant)
	}
	for _, name := range slices.Sorted(maps.Keys(e.sni)) {
		b.knownTenant(at+", sni "+name, e.sni[name])
	}
	if len(s.SNI) > 0 && s.Tenant == "" {
		b.errorf("%s, sni: clients that ask for no name need a tenant, too; name it with `tenant`", at)
	}
}

func (b *builder) knownTenant(at, name string) bool {
	_, known := b.settings.tenants[name]
	known = known || b.snapshot.tenants[name] != nil
	if !known {
		b.errorf("%s: there is no tenant %q", at, name)
	}
	return known
}
