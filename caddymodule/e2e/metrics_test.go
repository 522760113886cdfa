//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const monitoring = "../../examples/monitoring/"

// promtool takes the alert rules, and each alert fires on its cause alone.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool, err := filepath.Abs("prometheus/usr/bin/promtool")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = monitoring
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	rules, tests := monitoringFile(t, "alerts.yml"), monitoringFile(t, "alerts_test.yml")
	for _, alert := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		if !strings.Contains(tests, fmt.Sprintf("alertname=%q, alertstate=\"firing\"", alert[1])) {
			t.Errorf("no test lets %s fire", alert[1])
		}
	}
}

// The metrics that alert rules and dashboard name are there, with the labels by which
// they ask, tell what has happened, and go on over a reload.
func TestMetrics(t *testing.T) {
	t.Parallel()
	entrance := reservePort(t)
	s := Start(t, Options{
		Outbox: true,
		Tenants: map[string]string{
			"down":    fmt.Sprintf("server plaintext://127.0.0.1:%d\nauth none\nfrom sender@example.com\nrate 30 1m", reservePort(t)),
			"devices": fmt.Sprintf("server plaintext://127.0.0.1:%d\nauth none\nfrom sender@example.com", reservePort(t)),
		},
		Lines: fmt.Sprintf("smtp 127.0.0.1:%d {\ntls off\ntenant devices\nnetwork 127.0.0.1\n}", entrance),
	})
	unsigned := fmt.Sprintf(`account_state{provider="idp",state="needs_authorization",tenant=%q}`, onPostfix)
	eventually(t, patience, "the metric of an account that must be signed in", func() bool { return s.metrics(t)[unsigned] == 1 })
	s.SignIn(t)
	refused := note("refused")
	refused["headers"] = map[string]string{"X-Refuse": "me"}
	s.post(t, onPostfix, refused) // which ends the connection
	s.Send(t, onPostfix, map[string]any{"to": []string{"a@example.net", "b@example.net"}, "subject": "x", "text": "x"})
	for range 2 {
		r, err := s.newPost(onPostfix, note("with a key"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Idempotency-Key", "k")
		s.do(t, r)
	}
	s.post(t, "down", note("waits"))
	if a := s.refresh(t); a.status != http.StatusOK {
		t.Fatal(a)
	}
	if err := smtp.SendMail(fmt.Sprintf("127.0.0.1:%d", entrance), nil, "sender@example.com", []string{"a@example.net"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}

	label := func(format string) string { return fmt.Sprintf(format, onPostfix) }
	counters := map[string]float64{
		label(`messages_total{result="sent",tenant=%q}`):                                       2,
		label(`messages_total{result="failed",tenant=%q}`):                                     1,
		label(`recipients_total{result="accepted",tenant=%q}`):                                 3,
		label(`failures_total{diagnosis="general.message_refused",stage="final",tenant=%q}`):   1,
		`failures_total{diagnosis="general.connection_refused",stage="connect",tenant="down"}`: 1,
		`attempts_total{result="deferred",tenant="down"}`:                                      1,
		`message_size_bytes_count`:                                                             5,
		`send_duration_seconds_count{result="sent"}`:                                           2,
		`send_duration_seconds_count{result="failed"}`:                                         1,
		`http_requests_total{code="200",endpoint="send"}`:                                      4,
		`http_requests_total{code="422",endpoint="send"}`:                                      1,
		`idempotent_replays_total`:                                                             1,
		`token_refreshes_total{provider="idp",result="ok"}`:                                    1,
		`token_refresh_duration_seconds_count{provider="idp"}`:                                 1,
		`smtp_messages_total{result="accepted"}`:                                               1,
	}
	eventually(t, patience, "the tries are counted", func() bool {
		got := s.metrics(t)
		for name, want := range counters {
			if got[name] < want {
				return false
			}
		}
		return true
	})
	got := s.metrics(t)
	now := float64(time.Now().Unix())
	for name, between := range map[string][2]float64{
		label(`account_state{provider="idp",state="authorized",tenant=%q}`):                 {1, 1},
		label(`access_token_expiry_timestamp_seconds{tenant=%q}`):                           {now + 3000, now + 3600},
		label(`last_refresh_success_timestamp_seconds{tenant=%q}`):                          {now - 120, now + 1},
		`client_secret_expiry_timestamp_seconds{credential="client_secret",provider="idp"}`: {4000000000, 5000000000},
		`rate_limit_messages_per_minute{tenant="down"}`:                                     {30, 30},
		`smtp_connections{state="idle"}`:                                                    {1, 2},
		`queue_messages{state="queued",tenant="down"}`:                                      {1, 1},
		`queue_state{state="resting",tenant="down"}`:                                        {1, 1},
		`outbox_accepting`: {1, 1},
	} {
		if v, ok := got[name]; !ok || v < between[0] || v > between[1] {
			t.Errorf("%s is %v (there: %t), want %v", name, v, ok, between)
		}
	}
	if _, still := got[unsigned]; still {
		t.Errorf("%s is still there", unsigned)
	}
	s.reload(t)
	after := s.metrics(t)
	for name := range counters {
		if after[name] < got[name] || got[name] != counters[name] && !strings.Contains(name, `"down"`) {
			t.Errorf("%s is %v, and %v after a reload; want %v", name, got[name], after[name], counters[name])
		}
	}
	checkNamed(t, after, monitoringFile(t, "alerts.yml"))
	checkNamed(t, after, strings.ReplaceAll(monitoringFile(t, "dashboard.json"), `\"`, `"`))
}

var (
	aMetric   = regexp.MustCompile(`caddy_oauth_mail_(\w+)(?:\{([^}]*)\})?`)
	aMatcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	aGrouping = regexp.MustCompile(`by \(([^)]*)\)[^"]*?caddy_oauth_mail_(\w+)`)
)

// checkNamed checks that the metrics which a text names are there, with their labels.
func checkNamed(t testing.TB, metrics map[string]float64, text string) {
	t.Helper()
	labels := map[string]map[string]bool{"": {}} // by metric
	for series := range metrics {
		name, rest, _ := strings.Cut(series, "{")
		if labels[name] == nil {
			labels[name] = map[string]bool{"instance": true} // Prometheus adds it
		}
		for _, m := range aMatcher.FindAllStringSubmatch(rest, -1) {
			labels[name][m[1]] = true
		}
	}
	found := aMetric.FindAllStringSubmatch(text, -1)
	if len(found) < 10 {
		t.Fatalf("only %d metrics are named", len(found))
	}
	for _, m := range found {
		if labels[m[1]] == nil {
			t.Errorf("there is no metric caddy_oauth_mail_%s", m[1])
			continue
		}
		for _, l := range aMatcher.FindAllStringSubmatch(m[2], -1) {
			if !labels[m[1]][l[1]] {
				t.Errorf("caddy_oauth_mail_%s has no label %s", m[1], l[1])
			}
		}
	}
	for _, m := range aGrouping.FindAllStringSubmatch(text, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if known := labels[m[2]]; known != nil && !known[strings.TrimSpace(l)] {
				t.Errorf("caddy_oauth_mail_%s has no label %s", m[2], l)
			}
		}
	}
}

func monitoringFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(monitoring + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// metrics are the plugin's, without their common beginning, as Caddy shows them.
func (s *Stack) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.AdminURL+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	a := s.do(t, r)
	if a.status != http.StatusOK {
		t.Fatalf("the metrics: %s", a)
	}
	all := map[string]float64{}
	for line := range strings.Lines(a.body) {
		series, ours := strings.CutPrefix(strings.TrimSpace(line), "caddy_oauth_mail_")
		space := strings.LastIndexByte(series, ' ')
		if !ours || space < 0 {
			continue
		}
		if all[series[:space]], err = strconv.ParseFloat(series[space+1:], 64); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
