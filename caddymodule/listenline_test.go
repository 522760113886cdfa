package caddymodule

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// TestSMTPLine: the line about a message that came by SMTP reads as if it went the way of
// all others.
func TestSMTPLine(t *testing.T) {
	t.Parallel()
	client := listener.Client{
		Addr: netip.MustParseAddrPort("192.0.2.7:4321"), Session: "the-session", Greeting: "printer \"3\"", Mechanism: "PLAIN",
		TLS: &tls.ConnectionState{Version: tls.VersionTLS13},
	}
	identity := &listener.Identity{Kind: "user", Name: "scanner", Tenant: "office"}
	for _, repaired := range [][]string{nil, {"Date was missing", "bare LF"}} {
		message := listener.Accepted{
			Receipt:  mailer.Receipt{ID: "the-id", Status: mailer.StatusQueued},
			Envelope: mailer.Envelope{To: make([]mailer.Address, 2)}, Size: 1234, Repaired: repaired,
		}
		var got, want bytes.Buffer
		to := func(b *bytes.Buffer) zapcore.Core {
			return zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg", LevelKey: "level", EncodeLevel: zapcore.LowercaseLevelEncoder}), zapcore.AddSync(b), zap.InfoLevel)
		}
		s := new(smtpServer)
		s.logAccepted(client, identity, message) // nowhere yet
		s.lines.Store(zap.New(to(&got)))
		s.logAccepted(client, identity, message)
		about := append(aboutClient(client, identity), "id", "the-id", "recipients", 2, "size", int64(1234), "state", "queued")
		if repaired != nil {
			about = append(about, "repaired", repaired)
		}
		slog.New(zapslog.NewHandler(to(&want))).Info("message accepted by SMTP", about...)
		if got.String() != want.String() || want.Len() == 0 {
			t.Errorf("logged %s, want %s", got.String(), want.String())
		}
	}
}
