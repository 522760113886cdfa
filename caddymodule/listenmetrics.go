package caddymodule

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

var (
	smtpSessionsTotal = counters("smtp_sessions_total", "SMTP sessions that were let in, by their TLS version and by what ended them.", "tls", "end")
	smtpMessagesTotal = counters("smtp_messages_total", "Messages that came by SMTP, by what their clients were told.", "result")
	// The callers are users and networks of the configuration, so that there are few.
	smtpCallerMessagesTotal = counters("smtp_caller_messages_total", "Messages that were accepted by SMTP, by the user or network that brought them, and how.", "caller", "tls", "mechanism")
	smtpCallerLastSeen      = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "smtp_caller_last_seen_timestamp_seconds",
		Help: "When a user or network last brought a message by SMTP, or ended a session.",
	}, []string{"caller"})
	smtpRefusalsTotal       = counters("smtp_refusals_total", "SMTP commands that were refused, wrong passwords excepted.", "command")
	smtpWrongPasswordsTotal = counter("smtp_wrong_passwords_total", "Wrong user names and passwords.")
	smtpTurnedAwayTotal     = counters("smtp_turned_away_total", "SMTP connections that were not let in, by the reason.", "reason")
)

// smtpMetrics are those of the SMTP entrances.
var smtpMetrics = []prometheus.Collector{smtpSessionsTotal, smtpMessagesTotal, smtpCallerMessagesTotal, smtpCallerLastSeen, smtpRefusalsTotal, smtpWrongPasswordsTotal, smtpTurnedAwayTotal}

// noteCaller enters a caller into the metrics.
func noteCaller(c listener.Client, id *listener.Identity, messages int, now time.Time) {
	caller := id.Kind + " " + id.Name
	smtpCallerMessagesTotal.WithLabelValues(caller, tlsLabel(c), cmp.Or(c.Mechanism, "none")).Add(float64(messages))
	smtpCallerLastSeen.WithLabelValues(caller).Set(float64(now.Unix()))
}

// tlsLabel is the TLS version of a client, or "none".
func tlsLabel(c listener.Client) string { return cmp.Or(tlsVersion(c), "none") }
