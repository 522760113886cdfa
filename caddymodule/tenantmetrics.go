package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// tenantMetrics reads the tenants of a configuration when somebody looks. It reads
// memory only: there may be thousands of them.
type tenantMetrics struct{ app *App }

var (
	accountState = prometheus.NewDesc("caddy_oauth_mail_account_state", "1 for the state that the account of a tenant is in.", []string{"tenant", "provider", "state"}, nil)
	tokenExpiry  = prometheus.NewDesc("caddy_oauth_mail_access_token_expiry_timestamp_seconds", "When the access token of a tenant ends, if it is in memory.", []string{"tenant"}, nil)
	tokenIssued  = prometheus.NewDesc("caddy_oauth_mail_last_refresh_success_timestamp_seconds", "When the access token of a tenant was issued, if it is in memory.", []string{"tenant"}, nil)
	secretExpiry = prometheus.NewDesc("caddy_oauth_mail_client_secret_expiry_timestamp_seconds", "When a secret or certificate of a client ends, where that is known.", []string{"provider", "credential"}, nil)
	rateLimit    = prometheus.NewDesc("caddy_oauth_mail_rate_limit_messages_per_minute", "How many messages the mailbox of a tenant may send, where there is a limit.", []string{"tenant"}, nil)
	smtpConns    = prometheus.NewDesc("caddy_oauth_mail_smtp_connections", "Connections to mail servers: used, and idle.", []string{"state"}, nil)
)

// Describe names the metrics.
func (*tenantMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{accountState, tokenExpiry, tokenIssued, secretExpiry, rateLimit, smtpConns} {
		ch <- d
	}
}

// Collect tells about the configuration in force.
func (m *tenantMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.app.registry.load()
	if s == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	at := func(d *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(d, float64(t.Unix()), labels...)
		}
	}
	pools := make(map[*mailer.Pool]bool, len(s.tenants)) // tenants may share one
	for name, t := range s.tenants {
		pools[t.mail.Pool] = true
		if l := t.limits; l.rate > 0 && l.window > 0 {
			gauge(rateLimit, float64(l.rate)/l.window.Minutes(), name)
		}
		if t.source == nil {
			continue
		}
		st, known := t.source.Known()
		if !known {
			if v, ok := accountStates.Load(t.source.Account()); ok {
				st.State, _ = v.(tokens.State)
			}
		}
		gauge(accountState, 1, name, st.Account.Provider, string(st.State))
		at(tokenExpiry, st.Expiry, name)
		at(tokenIssued, st.IssuedAt, name)
	}
	for _, p := range s.providers {
		for _, e := range p.expiries() {
			at(secretExpiry, e.At, e.Provider, e.Credential)
		}
	}
	used, idle := 0, 0
	for p := range pools {
		u, i := p.Connections()
		used, idle = used+u, idle+i
	}
	gauge(smtpConns, float64(used), "used")
	gauge(smtpConns, float64(idle), "idle")
}
