package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// The words for TLS of an SMTP entrance, for its certificate, and for bare line feeds.
const (
	startTLS    = "starttls"
	implicitTLS = "implicit"
	noTLS       = "off"

	automaticCertificate = "automatic"
	internalCertificate  = "internal"

	mendBareLF   = "mend"
	refuseBareLF = "refuse"
)

var (
	tlsModes     = []string{startTLS, implicitTLS, noTLS}
	certificates = []string{automaticCertificate, internalCertificate}
	bareLFRules  = []string{mendBareLF, refuseBareLF}
)

// parseSMTP sets up an SMTP entrance. There may be several.
func (a *App) parseSMTP(d *caddyfile.Dispenser) error {
	s := new(SMTP)
	if err := list(&s.Listen)(d); err != nil {
		return err
	}
	a.SMTP = append(a.SMTP, s)
	return parseBlock(d, words{
		"hostname":                single(text(&s.Hostname)),
		"tls":                     single(s.parseTLS),
		"tenant":                  single(text(&s.Tenant)),
		"sni":                     many(pair(&s.SNI)),
		"user":                    many(s.parseUser),
		"network":                 many(s.parseNetwork),
		"plaintext_auth":          single(list(&s.PlaintextAuth)),
		"max_size":                single(size(&s.MaxSize)),
		"max_recipients":          single(number(&s.MaxRecipients)),
		"connections":             single(number(&s.Connections)),
		"connections_per_address": single(number(&s.ConnectionsPerAddress)),
		"bare_lf":                 single(choice(&s.BareLF, bareLFRules...)),
	})
}

// parseTLS takes when TLS begins, where the certificate comes from, or both.
func (s *SMTP) parseTLS(d *caddyfile.Dispenser) error {
	const usage = "wrong arguments: want tls starttls|implicit|off, tls internal, or both, such as tls implicit internal"
	args := d.RemainingArgs()
	for _, arg := range args {
		switch {
		case slices.Contains(tlsModes, arg) && s.TLS == "":
			s.TLS = arg
		case slices.Contains(certificates, arg) && s.Certificate == "":
			s.Certificate = arg
		default:
			return d.Err(usage)
		}
	}
	if len(args) == 0 {
		return d.Err(usage)
	}
	return nil
}

// parseUser takes a user's password and tenant in its line or in its block.
func (s *SMTP) parseUser(d *caddyfile.Dispenser) error {
	const usage = "wrong arguments: want user <name> <password> <tenant>, or a block that says more"
	line := d.RemainingArgs()
	if len(line) == 0 || len(line) > 3 {
		return d.Err(usage)
	}
	name := line[0]
	if _, taken := s.Users[name]; taken {
		return d.Errf("duplicate user '%s'", name)
	}
	u := new(SMTPUser)
	for i, to := range []*string{&u.Password, &u.Tenant}[:len(line)-1] {
		*to = line[i+1]
	}
	if s.Users == nil {
		s.Users = make(map[string]*SMTPUser)
	}
	s.Users[name] = u
	w := u.words()
	w["password"] = single(unsaid(u.Password == "", text(&u.Password)))
	w["networks"] = single(list(&u.Networks))
	return parseBlock(d, w)
}

// parseNetwork takes networks, and before them a tenant, if there is one.
func (s *SMTP) parseNetwork(d *caddyfile.Dispenser) error {
	n := new(SMTPNetwork)
	if err := list(&n.Ranges)(d); err != nil {
		return err
	}
	if first := n.Ranges[0]; !strings.ContainsAny(first, "/:{") && strings.Trim(first, "0123456789.") != "" {
		n.Tenant, n.Ranges = first, n.Ranges[1:]
	}
	s.Networks = append(s.Networks, n)
	return parseBlock(d, n.words())
}

func (s *SMTPSender) words() words {
	return words{
		"tenant":       single(unsaid(s.Tenant == "", text(&s.Tenant))),
		"from":         single(text(&s.From)),
		"rewrite_from": single(text(&s.RewriteFrom)),
	}
}
