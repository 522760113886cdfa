package mailer

import "fmt"

// mailFault checks a message against what the server offers.
func (c *Conn) mailFault(m *outgoing, o *offered) *Error {
	fail := func(kind Kind, code, field, format string, args ...any) *Error {
		return &Error{Stage: StageMail, Kind: kind, Code: code, Field: field, Server: c.addr, Err: fmt.Errorf(format, args...)}
	}
	if size := m.content.Size(); o.maxSize > 0 && size > o.maxSize { // RFC 1870
		return fail(KindRejected, "over_upstream_size", "", "message of %d octets is over the server's limit of %d", size, o.maxSize)
	}
	if field := m.utf8Field(); field != "" && !o.smtputf8 { // RFC 6531
		return fail(KindInvalid, "smtputf8_required", field, "address needs SMTPUTF8, which the server does not offer")
	}
	if m.content.EightBit() && !o.eightBit { // RFC 6152
		return fail(KindInvalid, "8bitmime_required", "", "message has octets above 127 and the server does not offer 8BITMIME")
	}
	if m.opts.RequireTLS && (!c.secure || !o.requireTLS) { // RFC 8689
		return fail(KindRejected, "requiretls_not_offered", "", "the message must not travel without TLS, and the server does not offer REQUIRETLS")
	}
	return nil
}

// mailParams says the parameters of MAIL for a message that has passed [Conn.mailFault].
func (g *gather) mailParams(m *outgoing, o *offered) {
	if o.size {
		g.string(" SIZE=")
		g.number(m.content.Size())
	}
	if m.utf8Field() != "" {
		g.string(" SMTPUTF8")
	}
	if m.content.EightBit() {
		g.string(" BODY=8BITMIME")
	}
	if m.opts.RequireTLS {
		g.string(" REQUIRETLS")
	}
	if !o.dsn { // RFC 3461; without it nobody can be asked
		return
	}
	if m.opts.DSN.Return != "" {
		g.string(" RET=" + string(m.opts.DSN.Return))
	}
	if m.opts.DSN.EnvelopeID != "" {
		g.string(" ENVID=" + xtext(m.opts.DSN.EnvelopeID))
	}
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
