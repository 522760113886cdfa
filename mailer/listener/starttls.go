package listener

import (
	"crypto/tls"
	"time"
)

// handshake begins TLS.
func (t *session) handshake() bool {
	t.by = time.Now().Add(min(t.idle, t.config.Limits.SignIn))
	if t.arm() != nil || t.armWrite(t.by) != nil {
		return false
	}
	conn := tls.Server(t.raw, t.config.TLS)
	if err := conn.HandshakeContext(t.ctx); err != nil {
		return false
	}
	state := conn.ConnectionState()
	t.conn, t.client.TLS, t.client.ServerName = conn, &state, state.ServerName
	t.identify()
	return true
}

// startTLS answers STARTTLS (RFC 3207).
func (t *session) startTLS() string {
	switch {
	case t.client.TLS != nil:
		t.deny("503 5.5.1 TLS is on already\r\n")
	case t.config.TLS == nil:
		t.deny("502 5.5.1 TLS is not offered here: turn it off in this device or program\r\n")
	case t.user != nil || t.mail != nil:
		t.deny("503 5.5.1 STARTTLS comes before AUTH and MAIL\r\n")
	case t.ahead():
		// It came before the handshake, from anybody (RFC 3207, section 6).
		t.leaveWith("protocol", "501 5.5.2 Nothing may be sent behind STARTTLS before TLS has begun; good-bye\r\n")
	default:
		t.say("220 2.0.0 Begin TLS\r\n")
		if t.flush() != nil || !t.handshake() {
			t.hangUp("handshake")
			return ""
		}
		t.smtp.TLSConfig = nil // not offered any more
		t.client.Greeting = "" // what was said before does not count
		t.swallow = true
		return "RSET\r\n"
	}
	return ""
}
