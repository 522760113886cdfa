package caddymodule

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

var (
	smtpSessionsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "smtp_sessions_total",
		Help: "SMTP sessions that were let in, by their TLS version and by what ended them.",
	}, []string{"tls", "end"})
	smtpMessagesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "smtp_messages_total",
		Help: "Messages that came by SMTP, by what their clients were told.",
	}, []string{"result"})
	smtpRefusalsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "smtp_refusals_total",
		Help: "SMTP commands that were refused, wrong passwords excepted.",
	}, []string{"command"})
	smtpWrongPasswordsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "smtp_wrong_passwords_total",
		Help: "Wrong user names and passwords.",
	})
	smtpTurnedAwayTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "smtp_turned_away_total",
		Help: "SMTP connections that were not let in, by the reason.",
	}, []string{"reason"})
)

// smtpMetrics are those of the SMTP entrances.
var smtpMetrics = []prometheus.Collector{smtpSessionsTotal, smtpMessagesTotal, smtpRefusalsTotal, smtpWrongPasswordsTotal, smtpTurnedAwayTotal}

// tlsLabel is the TLS version of a client, or "none".
func tlsLabel(c listener.Client) string { return cmp.Or(tlsVersion(c), "none") }
