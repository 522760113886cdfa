//go:build endurance

package endurance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// L1: Caddy reloads under load, and a tenth of the configurations cannot be used.
func TestReload(t *testing.T) {
	ledger := new(Ledger)
	sink := &mailertest.Sink{Pipelining: true, Chunking: true, Take: ledger.Arrived}
	_, port := sink.Listen(t)
	tenants := []Tenant{{Name: "a", Port: port, Connections: 4}, {Name: "b", Port: port, Connections: 4}}
	config := Site(onBolt, tenants...)
	caddy := New(t, config)
	caddy.Start()

	// What there is of connections comes to be before anything is counted.
	load := func(l *Ledger) *Load {
		return &Load{
			URLs: []string{caddy.URL}, Tenants: tenants,
			Producers: 8, Keyed: true, Pause: 3 * time.Millisecond, Ledger: l,
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	load(ledger).Run(ctx)
	stop()
	Within(time.Minute, func() bool { return ledger.Figures().Lost == 0 })
	goroutines, files := settle(caddy, 0, 0)
	sessions := sink.Sessions()

	mails, respond := load(ledger), load(nil)
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { mails.Run(ctx) })
	wg.Go(func() { respond.RunAt(ctx, "/respond") })
	devices := &Devices{Address: caddy.SMTP, Tenants: tenants, Producers: 4, Pause: 3 * time.Millisecond, Ledger: ledger}
	wg.Go(func() { devices.Run(ctx) })
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tick := time.NewTicker(600 * time.Millisecond)
	defer tick.Stop()
	refused := 0
	for i := range *reloads {
		<-tick.C
		changed, want := config, http.StatusOK
		switch i % 30 {
		case 9: // the Caddyfile says nonsense
			changed, want = strings.Replace(config, "connections 4", "connections many", 1), http.StatusBadRequest
		case 19: // a setting is wrong
			changed, want = strings.Replace(config, "auth none", "auth oauth nobody", 1), http.StatusBadRequest
		case 29: // the app has started when another one cannot
			changed, want = config+fmt.Sprintf("http://127.0.0.1:%d {\n\tbind 192.0.2.1\n}\n", taken.Addr().(*net.TCPAddr).Port), http.StatusBadRequest
		default:
			changed = Site(onBolt, append(tenants, Tenant{Name: fmt.Sprintf("c%d", i), Port: port, Connections: 1 + i%3})...)
		}
		status, body := caddy.Load(changed)
		if status != want {
			t.Errorf("reload %d: status %d, want %d: %.500s", i, status, want, body)
		}
		if status == http.StatusBadRequest {
			refused++
		}
	}
	stop()
	wg.Wait()
	if status, body := caddy.Load(config); status != http.StatusOK {
		t.Fatalf("the first configuration again: status %d: %.500s", status, body)
	}
	Within(2*time.Minute, func() bool { return ledger.Figures().Lost == 0 })
	<-time.After(time.Second) // for what arrives too often
	f := ledger.Figures()
	goroutinesNow, filesNow := settle(caddy, goroutines, len(files))
	t.Logf("%d reloads, %d of them refused; %d requests to us, %d of them unanswered, %d to respond, %d of them unanswered: %v; goroutines %d to %d, files %d to %d, SMTP sessions %d to %d",
		*reloads, refused, mails.Requests(), mails.Unanswered(), respond.Requests(), respond.Unanswered(), f,
		goroutines, goroutinesNow, len(files), len(filesNow), sessions, sink.Sessions())
	f.Check(t, 0)
	f.CheckReplies(t)
	if n := devices.Unanswered() + devices.Unconnected() + f.Statuses[421] + f.Statuses[451] + f.Statuses[452]; n > 0 {
		t.Errorf("%d messages and %d connections of devices were cut: %v", devices.Unanswered(), devices.Unconnected(), f.Statuses)
	}
	if mails.Unanswered() > respond.Unanswered() {
		t.Errorf("%d requests were left unanswered, %d by the respond handler", mails.Unanswered(), respond.Unanswered())
	}
	if d := goroutinesNow - goroutines; d < -5 || d > 5 {
		_, stacks := caddy.Goroutines()
		t.Errorf("%d goroutines, %d before\n%.6000s", goroutinesNow, goroutines, stacks)
	}
	if d := len(filesNow) - len(files); d < -5 || d > 5 {
		slices.Sort(filesNow)
		t.Errorf("%d open files, %d before: %q", len(filesNow), len(files), filesNow)
	}
}

// settle waits until the numbers of goroutines and of open files are near those
// given, or at rest where none are, and returns them.
func settle(c *Caddy, goroutines, files int) (int, []string) {
	n, stable := 0, 0
	Within(30*time.Second, func() bool {
		now, _ := c.Goroutines()
		if now == n {
			stable++
		} else {
			stable = 0
		}
		n = now
		if goroutines == 0 {
			return stable >= 10
		}
		return n <= goroutines+2 && len(c.Files()) <= files+2
	})
	return n, c.Files()
}
