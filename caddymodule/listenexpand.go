package caddymodule

import (
	"maps"
	"slices"
	"strings"
)

// smtp expands an SMTP entrance.
func (e *expander) smtp(s SMTP) SMTP {
	e.place = "smtp " + strings.Join(s.Listen, " ")
	s.Listen = e.list("listen", s.Listen)
	e.text("hostname", &s.Hostname)
	e.text("tls", &s.TLS)
	e.text("certificate", &s.Certificate)
	e.text("tenant", &s.Tenant)
	e.text("bare_lf", &s.BareLF)
	s.PlaintextAuth = e.list("plaintext_auth", s.PlaintextAuth)
	sni := make(map[string]string, len(s.SNI))
	for name, tenant := range s.SNI {
		e.text("sni "+name, &tenant)
		sni[name] = tenant
	}
	s.SNI = sni
	place := e.place
	users := make(map[string]*SMTPUser, len(s.Users))
	for _, name := range slices.Sorted(maps.Keys(s.Users)) {
		if !e.present(place+", user "+name, s.Users[name] != nil) {
			continue
		}
		u := *s.Users[name]
		if isHash(u.Password) {
			e.text("password", &u.Password)
		} else {
			e.secret("password", &u.Password)
		}
		u.Networks = e.list("networks", u.Networks)
		e.sender(&u.SMTPSender)
		users[name] = &u
	}
	s.Users = users
	networks := make([]*SMTPNetwork, 0, len(s.Networks))
	for _, v := range s.Networks {
		if !e.present(place+", network", v != nil) {
			continue
		}
		n := *v
		n.Ranges = e.list("ranges", n.Ranges)
		e.sender(&n.SMTPSender)
		networks = append(networks, &n)
	}
	s.Networks = networks
	return s
}

func (e *expander) sender(s *SMTPSender) {
	e.text("tenant", &s.Tenant)
	e.text("from", &s.From)
	e.text("rewrite_from", &s.RewriteFrom)
}
