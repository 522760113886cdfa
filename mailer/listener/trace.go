package listener

import (
	"crypto/tls"
	"strings"
	"time"
)

// trace is the Received field of a message (RFC 5321, section 4.4): how it came, and
// under which id the log has it. It tells nobody from which address: those of devices
// are internal, and those of people at home are theirs. Neither does it name
// recipients, who may not know of each other.
func (t *session) trace(m *transaction, now time.Time) string {
	var b strings.Builder
	b.WriteString("Received: from " + t.source() + "\r\n\tby " + t.config.Hostname + " with " + t.protocol(m) + " id " + t.id)
	if t.client.TLS != nil { // RFC 8314, section 7.4
		b.WriteString("\r\n\ttls " + tls.CipherSuiteName(t.client.TLS.CipherSuite))
	}
	b.WriteString(";\r\n\t" + now.Format(time.RFC1123Z) + "\r\n")
	return b.String()
}

// source is the name that the client gave itself, if it is one: no address.
func (t *session) source() string {
	name, _, _ := strings.Cut(t.client.Greeting, " ")
	named := false
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			named = true
		case c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return "unknown"
		}
	}
	if !named {
		return "unknown"
	}
	return name
}

// protocol is how the message came (RFC 3848, RFC 6531 in section 4.3).
func (t *session) protocol(m *transaction) string {
	if !t.extended {
		return "SMTP"
	}
	p := "ESMTP"
	if m.utf8 {
		p = "UTF8SMTP"
	}
	if t.client.TLS != nil {
		p += "S"
	}
	if t.user != nil {
		p += "A"
	}
	return p
}
