package caddymodule

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestEventsAtTheEnd: what waits when a configuration ends is still emitted, and what
// cannot be is counted.
func TestEventsAtTheEnd(t *testing.T) { // alone: it looks at a counter of the process
	for _, tt := range []struct {
		name             string
		takes            time.Duration
		emitted, dropped int
	}{
		{"quick handlers", time.Millisecond, 10, 1},
		{"slow handlers", 900 * time.Millisecond, 3, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var emitted []string
				q := &eventQueue{
					emitter: func(name string, _ map[string]any) {
						time.Sleep(tt.takes)
						emitted = append(emitted, name)
					},
					logger: slog.New(slog.DiscardHandler), waiting: make(chan event, maxEvents), ended: make(chan struct{}),
				}
				before := testutil.ToFloat64(eventsDropped)
				go q.run()
				for i := range 10 {
					q.emit(fmt.Sprint(i), nil)
				}
				began := time.Now()
				q.close()
				if took := time.Since(began); took > eventsGrace {
					t.Errorf("it took %v", took)
				}
				q.emit("late", nil)
				q.close()
				<-q.ended
				if len(emitted) != tt.emitted || emitted[0] != "0" {
					t.Errorf("emitted %q", emitted)
				}
				if n := testutil.ToFloat64(eventsDropped) - before; int(n) != tt.dropped {
					t.Errorf("%v were counted as dropped", n)
				}
			})
		})
	}
}

// TestEventsOverReload: a try that is under way at a reload tells the configuration
// that is in force when it ends.
func TestEventsOverReload(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{mailertest.Content: {"550 5.7.1 at last"}, "BDAT": {"550 5.7.1 at last"}}}
	open := make(chan struct{})
	host, port := mailertest.Listen(t, func(nc net.Conn) { script.Serve(gated{nc, open}) })
	p := startCaddy(t, tenantAt(net.JoinHostPort(host, fmt.Sprint(port))))
	v := p.sendAsync()
	await(t, "the content is there", func() bool { return script.Said("BDAT")+script.Said("DATA") >= 1 })
	p.mustReload("\toauth_mail {", "\tevents {\n\t\ton mail_failed test_log\n\t}\n\toauth_mail {")
	close(open)
	await(t, "the refusal is told as an event", func() bool {
		return strings.Contains(grepLines(p.output.String(), `"seen event"`), v.ID)
	})
}
