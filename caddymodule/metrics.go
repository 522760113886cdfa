package caddymodule

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// The metrics outlive configurations, each of which has a registry of its own.
// Their labels come from configurations, and so are few: a tenant that is not
// configured is anyOther.
var (
	messagesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "messages_total",
		Help: "Messages, by what became of them.",
	}, []string{"tenant", "result"})
	attemptsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "attempts_total",
		Help: "Tries to send a message, by their results.",
	}, []string{"tenant", "result"})
	eventsDropped = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_mail", Name: "events_dropped_total",
		Help: "Events that were not emitted since their handlers were too slow.",
	})
)

// The results of messages and of tries.
const (
	resultAccepted = "accepted"
	resultSent     = "sent"
	resultDeferred = "deferred"
	resultFailed   = "failed"
	resultExpired  = "expired"
	resultHeld     = "held"
	resultCanceled = "canceled"
	// resultInterrupted is that of a try that the end of the process cut off.
	resultInterrupted = "interrupted"
)

// anyOther is the label of tenants that are not configured.
const anyOther = "_other"

// registerMetrics makes the metrics known to the registry of a configuration.
func registerMetrics(r *prometheus.Registry) error {
	if r == nil {
		return nil
	}
	for _, c := range append([]prometheus.Collector{messagesTotal, attemptsTotal, eventsDropped, outboxMetrics{}}, smtpMetrics...) {
		err := r.Register(c)
		if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !again {
			return err
		}
	}
	return nil
}

// label is a tenant's.
func (a *App) label(tenant string) string {
	if s := a.registry.load(); s != nil && s.tenants[tenant] != nil {
		return tenant
	}
	return anyOther
}

// count counts a message, and the try that ended it if there was one.
func (a *App) count(tenant, result string, tried bool) {
	messagesTotal.WithLabelValues(a.label(tenant), result).Inc()
	if tried {
		a.countAttempt(tenant, result)
	}
}

func (a *App) countAttempt(tenant, result string) {
	attemptsTotal.WithLabelValues(a.label(tenant), result).Inc()
}

// outboxMetrics reads the outboxes when somebody looks.
type outboxMetrics struct{}

var (
	queueMessages = prometheus.NewDesc("caddy_oauth_mail_queue_messages", "Messages in the outbox, by their states.", []string{"tenant", "state"}, nil)
	queueOldest   = prometheus.NewDesc("caddy_oauth_mail_queue_oldest_age_seconds", "Age of the oldest message that waits to be sent.", []string{"tenant"}, nil)
	outboxBytes   = prometheus.NewDesc("caddy_oauth_mail_outbox_bytes", "What the outbox takes on the disk.", nil, nil)
	outboxTakes   = prometheus.NewDesc("caddy_oauth_mail_outbox_accepting", "0 from a message that could not be stored until one is; else 1.", nil, nil)
	outboxFlushes = prometheus.NewDesc("caddy_oauth_mail_outbox_flushes_total", "How often the outbox has waited for the disk.", nil, nil)
	outboxMax     = prometheus.NewDesc("caddy_oauth_mail_outbox_max_bytes", "The most that the outbox may take on the disk; zero for no limit.", nil, nil)
)

// queueStates are the states whose messages are counted: those that are not done
// with.
var queueStates = []outbox.State{outbox.StateScheduled, outbox.StateQueued, outbox.StateSending, outbox.StateHeld, outbox.StateFailed}

// Describe names the metrics.
func (outboxMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueMessages, queueOldest, outboxBytes, outboxMax, outboxTakes, outboxFlushes} {
		ch <- d
	}
}

// metricsWait bounds a look.
const metricsWait = 5 * time.Second

// Collect adds up the outboxes, of which there are two for a moment when another
// one is configured.
func (outboxMetrics) Collect(ch chan<- prometheus.Metric) {
	var states []*outboxState
	outboxes.Range(func(_, v any) bool {
		states = append(states, v.(*outboxState))
		return true
	})
	ctx, cancel := context.WithTimeout(context.Background(), metricsWait)
	defer cancel()
	type key struct {
		tenant string
		state  outbox.State
	}
	messages, oldest := map[key]int{}, map[string]time.Time{}
	var total outbox.Stats
	read, accepting := 0, 1.
	for _, s := range states {
		box, app := s.newest()
		if box == nil || app == nil {
			continue
		}
		if s.refusing.Load() != nil {
			accepting = 0
		}
		stats, err := box.Engine().Stats(ctx)
		if err != nil {
			continue
		}
		read++
		total.Bytes += stats.Bytes
		total.MaxBytes += stats.MaxBytes
		total.Flushes += stats.Flushes
		for name, t := range stats.Tenants {
			label := app.label(name)
			for _, state := range queueStates {
				messages[key{label, state}] += t.Messages[state]
			}
			if at := oldest[label]; !t.Oldest.IsZero() && (at.IsZero() || t.Oldest.Before(at)) {
				oldest[label] = t.Oldest
			} else if _, ok := oldest[label]; !ok {
				oldest[label] = time.Time{}
			}
		}
	}
	if len(states) > 0 {
		ch <- prometheus.MustNewConstMetric(outboxTakes, prometheus.GaugeValue, accepting)
	}
	if read == 0 {
		return
	}
	for k, n := range messages {
		ch <- prometheus.MustNewConstMetric(queueMessages, prometheus.GaugeValue, float64(n), k.tenant, string(k.state))
	}
	for name, at := range oldest {
		age := 0.
		if !at.IsZero() {
			age = max(0, time.Since(at).Seconds())
		}
		ch <- prometheus.MustNewConstMetric(queueOldest, prometheus.GaugeValue, age, name)
	}
	ch <- prometheus.MustNewConstMetric(outboxBytes, prometheus.GaugeValue, float64(total.Bytes))
	ch <- prometheus.MustNewConstMetric(outboxFlushes, prometheus.CounterValue, float64(total.Flushes))
	ch <- prometheus.MustNewConstMetric(outboxMax, prometheus.GaugeValue, float64(total.MaxBytes))
}
