package mailer

import (
	"fmt"
	"strconv"
	"strings"
)

// mailParams checks a message against what the server offers and returns the
// parameters of MAIL.
func (c *Conn) mailParams(m *outgoing) (string, *Error) {
	fail := func(kind Kind, code, field, format string, args ...any) *Error {
		return &Error{Stage: StageMail, Kind: kind, Code: code, Field: field, Server: c.server.addr(), Err: fmt.Errorf(format, args...)}
	}
	var b strings.Builder
	size := m.content.Size()
	if c.offers("SIZE") { // RFC 1870
		if most := c.maxSize(); most > 0 && size > most {
			return "", fail(KindRejected, "over_upstream_size", "", "message of %d octets is over the server's limit of %d", size, most)
		}
		b.WriteString(" SIZE=")
		b.WriteString(strconv.FormatInt(size, 10))
	}
	if field := m.utf8Field(); field != "" { // RFC 6531
		if !c.offers("SMTPUTF8") {
			return "", fail(KindInvalid, "smtputf8_required", field, "address needs SMTPUTF8, which the server does not offer")
		}
		b.WriteString(" SMTPUTF8")
	}
	if m.content.EightBit() { // RFC 6152
		if !c.offers("8BITMIME") {
			return "", fail(KindInvalid, "8bitmime_required", "", "message has octets above 127 and the server does not offer 8BITMIME")
		}
		b.WriteString(" BODY=8BITMIME")
	}
	if m.opts.RequireTLS { // RFC 8689
		if !c.secure || !c.offers("REQUIRETLS") {
			return "", fail(KindRejected, "requiretls_not_offered", "", "the message must not travel without TLS, and the server does not offer REQUIRETLS")
		}
		b.WriteString(" REQUIRETLS")
	}
	if c.offers("DSN") { // RFC 3461; without it nobody can be asked
		if m.opts.DSN.Return != "" {
			b.WriteString(" RET=" + string(m.opts.DSN.Return))
		}
		if m.opts.DSN.EnvelopeID != "" {
			b.WriteString(" ENVID=" + xtext(m.opts.DSN.EnvelopeID))
		}
	}
	return b.String(), nil
}

// utf8Field names what keeps the message from going without SMTPUTF8.
func (m *outgoing) utf8Field() string {
	if m.env.From.NeedsSMTPUTF8() {
		return "from"
	}
	for _, a := range m.env.To {
		if a.NeedsSMTPUTF8() {
			return "to"
		}
	}
	if m.content.UTF8Header() {
		return "headers"
	}
	return ""
}
