//go:build endurance

package endurance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

const onBolt = "outbox bbolt DIR/outbox"

// K1: Caddy is killed at random moments, and started again on what it left, while
// programs post and devices send by SMTP.
func TestKill(t *testing.T) {
	const connections = 4
	ledger := new(Ledger)
	sink := &mailertest.Sink{Pipelining: true, Chunking: true, Take: func(m mailertest.Message) {
		ledger.Arrived(m)
		// Long enough that a kill finds answers under way.
		<-time.After(2 * time.Millisecond)
	}}
	_, port := sink.Listen(t)
	tenants := []Tenant{{Name: "a", Port: port, Connections: connections}, {Name: "b", Port: port, Connections: connections}}
	caddy := New(t, Site(onBolt, tenants...))
	caddy.Start()

	load := &Load{
		URLs: []string{caddy.URL}, Tenants: tenants,
		Producers: 12, Ledger: ledger,
	}
	devices := &Devices{Address: caddy.SMTP, Tenants: tenants, Producers: 12, Ledger: ledger}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { load.Run(ctx) })
	wg.Go(func() { devices.Run(ctx) })
	defer wg.Wait()
	defer stop()

	want := *kills * 100
	if *kills > 100 {
		want = *kills * 50
	}
	began := time.Now()
	slowest := time.Duration(0)
	for range *kills {
		<-time.After(rand.N(1200 * time.Millisecond))
		caddy.Kill()
		slowest = max(slowest, caddy.Start())
	}
	Eventually(t, 5*time.Minute, fmt.Sprintf("%d messages are accepted", want), func() bool {
		return ledger.Figures().Accepted >= want
	})
	stop()
	wg.Wait()
	took := time.Since(began)
	Within(2*time.Minute, func() bool { return ledger.Figures().Lost == 0 })
	<-time.After(time.Second) // for what arrives too often
	f := ledger.Figures()
	most := *kills * len(tenants) * 2 * connections
	t.Logf("%d kills in %v, the slowest start %v; %d requests and %d messages by SMTP without an answer: %v; at most %d copies are allowed",
		*kills, took.Round(time.Second), slowest.Round(time.Millisecond), load.Unanswered(), devices.Unanswered(), f, most)
	f.Check(t, most)
	f.CheckReplies(t)
}
