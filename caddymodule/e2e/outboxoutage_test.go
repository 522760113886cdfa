//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
)

// While the mail server is down messages wait in the outbox, also over a restart of
// Caddy. All arrive when it is back, once each.
func TestOutageWithOutbox(t *testing.T) {
	t.Parallel()
	e := newEntrances(t, onPostfix)
	s := Start(t, Options{Outbox: true, Lines: e.lines()})
	s.SignIn(t)
	e.trust(t, s)
	letter := papers()[0]
	letter.write(t, s.dir, 0)
	// submit sends by HTTP and by SMTP, and returns the ids.
	submit := func(prefix string) (recipients []string) {
		t.Helper()
		m := note(prefix)
		to := prefix + "-http@example.net"
		m["to"] = to
		if a := s.post(t, onPostfix, m); a.status != http.StatusOK || a.json["status"] != "queued" {
			t.Fatalf("%s by HTTP: %s", prefix, a)
		}
		recipients = append(recipients, to)
		for i, p := range submitters {
			kind := tlsKinds[i%len(tlsKinds)]
			to := fmt.Sprintf("%s-%s@example.net", prefix, p.name)
			argv, stdin := p.command(submission{
				greeting: p.name, tls: kind, port: e.ports[kind], ca: e.ca, mechanism: "PLAIN", user: e.user, password: e.password,
				from: s.user, to: to, paper: &letter,
			})
			runProgram(t, argv, stdin)
			recipients = append(recipients, to)
		}
		return recipients
	}
	s.mail[onPostfix].stop()
	all := submit("down")
	s.caddy.kill()
	s.caddy.start(t)
	all = append(all, submit("killed")...)
	if got := s.mailbox.all(); len(got) != 0 {
		t.Fatalf("%d messages arrived while Postfix was down", len(got))
	}
	s.mail[onPostfix].start(t)
	for _, to := range all {
		s.mailbox.findTo(t, to)
	}
	eventually(t, patience, "nothing waits in the outbox", func() bool {
		var box struct{ Messages map[string]int }
		a := s.admin(t, http.MethodGet, "/outbox")
		return json.Unmarshal([]byte(a.body), &box) == nil && a.status == http.StatusOK && box.Messages["queued"]+box.Messages["sending"] == 0
	})
	if got := s.mailbox.all(); len(got) != len(all) {
		t.Errorf("%d messages arrived, want %d", len(got), len(all))
	}
}
