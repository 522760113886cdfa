package caddymodule

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

var (
	refreshesTotal  = counters("token_refreshes_total", "Refreshes of tokens, by their results.", "provider", "result")
	refreshDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "token_refresh_duration_seconds",
		Help: "How long refreshes of tokens took, failed ones included.", Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"provider"})
)

// accountStates has the last state that was told of each account, by [tokens.Account].
// It serves where memory has no token, so that metrics read no storage.
var accountStates sync.Map

// countRefresh counts a refresh with its result, and notes the state that it leaves the
// account in.
func countRefresh(a tokens.Account, result string, took time.Duration, state tokens.State) {
	refreshesTotal.WithLabelValues(a.Provider, result).Inc()
	refreshDuration.WithLabelValues(a.Provider).Observe(took.Seconds())
	accountStates.Store(a, state)
}
