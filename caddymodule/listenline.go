package caddymodule

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// smtpLine is a line of the log about a message that came by SMTP. As there is one for
// each, it writes its fields itself: see [sentLine].
type smtpLine struct {
	client   *listener.Client
	identity *listener.Identity
	message  *listener.Accepted
}

// logAccepted tells in the log that a message was accepted.
func (s *smtpServer) logAccepted(c listener.Client, id *listener.Identity, m listener.Accepted) {
	writeLine(s.lines.Load(), "message accepted by SMTP", &smtpLine{&c, id, &m})
}

// MarshalLogObject writes the fields of the line, first those of [aboutClient].
func (l *smtpLine) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("session", l.client.Session)
	e.AddString("remote_ip", l.client.Addr.Addr().String())
	e.AddString("greeting", l.client.Greeting)
	e.AddString("tls", tlsVersion(*l.client))
	e.AddString("mechanism", l.client.Mechanism)
	e.AddString("caller", l.identity.Kind+" "+l.identity.Name)
	e.AddString("tenant", l.identity.Tenant)
	e.AddString("id", l.message.Receipt.ID)
	e.AddInt("recipients", len(l.message.Envelope.To))
	e.AddInt64("size", l.message.Size)
	e.AddString("state", string(l.message.Receipt.Status))
	if len(l.message.Repaired) > 0 {
		zap.Strings("repaired", l.message.Repaired).AddTo(e)
	}
	return nil
}
