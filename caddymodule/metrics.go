package caddymodule

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// The names of metrics begin with caddy_oauth_mail_.
const (
	metricsNamespace = "caddy"
	metricsSubsystem = "oauth_mail"
)

// counter makes a counter.
func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help})
}

// counters makes a counter for each combination of labels.
func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help}, labels)
}

// The metrics outlive configurations, each of which has a registry of its own.
// Their labels come from configurations, and so are few: a tenant that is not
// configured is anyOther.
var (
	messagesTotal   = counters("messages_total", "Messages, by what became of them.", "tenant", "result")
	attemptsTotal   = counters("attempts_total", "Tries to send a message, by their results.", "tenant", "result")
	recipientsTotal = counters("recipients_total", "Recipients of messages that were sent, by what the mail server said to them.", "tenant", "result")
	failuresTotal   = counters("failures_total", "Tries that failed, by the stage in which they did and by what is off.", "tenant", "stage", "diagnosis")
	// Tenants may be many, and a histogram is a dozen series: these have no tenants.
	messageSize = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "message_size_bytes",
		Help: "Size of the messages that were accepted.", Buckets: prometheus.ExponentialBuckets(4<<10, 4, 8),
	})
	sendDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "send_duration_seconds",
		Help: "How long tries took, by their results.", Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"result"})
	requestsTotal = counters("http_requests_total", "Requests to the plugin, by endpoint and by the status of the answer.", "endpoint", "code")
	replaysTotal  = counter("idempotent_replays_total", "Requests that were answered as the one before with their Idempotency-Key.")
	eventsDropped = counter("events_dropped_total", "Events that were not emitted since their handlers were too slow.")
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

// registerMetrics makes the metrics known to the registry of the configuration.
func (a *App) registerMetrics(r *prometheus.Registry) error {
	if r == nil {
		return nil
	}
	all := []prometheus.Collector{
		messagesTotal, attemptsTotal, recipientsTotal, failuresTotal, messageSize, sendDuration, requestsTotal, replaysTotal,
		eventsDropped, refreshesTotal, refreshDuration,
		outboxMetrics{},
		&tenantMetrics{a},
	}
	for _, c := range append(all, smtpMetrics...) {
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

// measure notes how long a try took.
func measure(result string, took time.Duration) {
	sendDuration.WithLabelValues(result).Observe(took.Seconds())
}

// countRecipients counts those whom the mail server took or refused for good, in a try
// in which it took some.
func (a *App) countRecipients(tenant string, r mailer.Receipt) {
	taken, refused := 0, 0
	for _, o := range r.Recipients {
		switch o.Kind.Outcome() {
		case mailer.Done:
			taken++
		case mailer.Dead:
			refused++
		case mailer.Retry, mailer.Park, mailer.Doubt: // they are tried again
		}
	}
	label := a.label(tenant)
	recipientsTotal.WithLabelValues(label, "accepted").Add(float64(taken))
	if refused > 0 {
		recipientsTotal.WithLabelValues(label, "refused").Add(float64(refused))
	}
}

// countFailure counts what is off.
func (a *App) countFailure(tenant string, e *mailer.Error) {
	failuresTotal.WithLabelValues(a.label(tenant), string(e.Stage), e.Diagnosis().ID).Inc()
}

// outboxMetrics reads the outboxes when somebody looks.
type outboxMetrics struct{}

var (
	queueMessages = prometheus.NewDesc("caddy_oauth_mail_queue_messages", "Messages in the outbox, by their states.", []string{"tenant", "state"}, nil)
	queueState    = prometheus.NewDesc("caddy_oauth_mail_queue_state", "1 where the messages of a tenant wait: resting, parked until somebody acts, or paused by an operator.", []string{"tenant", "state"}, nil)
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
	for _, d := range []*prometheus.Desc{queueMessages, queueState, queueOldest, outboxBytes, outboxMax, outboxTakes, outboxFlushes} {
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
	waiting := map[[2]string]bool{} // tenant and state
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
		lanes, err := box.Engine().Lanes(ctx)
		if err != nil {
			continue
		}
		for name, l := range lanes {
			if l.State != outbox.LaneOpen {
				waiting[[2]string{app.label(name), string(l.State)}] = true
			}
		}
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
	for w := range waiting {
		ch <- prometheus.MustNewConstMetric(queueState, prometheus.GaugeValue, 1, w[0], w[1])
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
