//go:build endurance

package endurance

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// counters are the series of ours that only grow: of counters, and what histograms count.
type counters map[string]float64

var (
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (caddy_oauth_mail_\w+) (counter|histogram)$`)
	seriesLine = regexp.MustCompile(`(?m)^(caddy_oauth_mail_\w+)((?:\{.*\})?) (\S+)$`)
)

// counters reads them.
func (c *Caddy) counters() counters {
	c.t.Helper()
	text := string(c.Get("/metrics"))
	growing := make(map[string]bool)
	for _, m := range typeLine.FindAllStringSubmatch(text, -1) {
		growing[m[1]] = true
		for _, part := range []string{"_bucket", "_count", "_sum"} {
			growing[m[1]+part] = m[2] == "histogram"
		}
	}
	all := make(counters)
	for _, m := range seriesLine.FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			c.t.Fatal(err)
		}
		if growing[m[1]] {
			all[m[1]+m[2]] = v
		}
	}
	return all
}

// lost tells what was counted before and is counted no more.
func (c counters) lost(now counters) (list []string) {
	for name, v := range c {
		if is, there := now[name]; !there {
			list = append(list, name+" is gone")
		} else if is < v {
			list = append(list, fmt.Sprintf("%s fell from %v to %v", name, v, is))
		}
	}
	slices.Sort(list)
	return list
}

// level is what a Caddy at rest takes.
type level struct{ goroutines, files, heap int }

// level waits until it is as low as one before, or at rest where that is zero.
func (c *Caddy) level(before level) level {
	n, files := settle(c, before.goroutines, before.files)
	return level{n, len(files), c.Heap()}
}

// L2: over very many reloads under load no counter starts anew, and nothing is left
// behind: goroutines, files and memory are as they were after the first ones.
func TestReloadCounts(t *testing.T) {
	ledger := new(Ledger)
	certificate, _ := mailertest.NewCertificate(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificates[0].Certificate[1]}), 0o600); err != nil {
		t.Fatal(err)
	}
	sink := &mailertest.Sink{TLS: certificate, Pipelining: true, Chunking: true, Take: ledger.Arrived}
	_, port := sink.Listen(t)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"of-the-endurance-test","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(provider.Close)
	stub := fmt.Sprintf(`
		provider p {
			grant client_credentials
			client_id c
			client_secret s
			token_endpoint %s/token
			scopes smtp
			servers 127.0.0.1
		}
`, provider.URL)
	token := Tenant{Name: "token", Port: port, Connections: 4, Secure: true, More: "auth oauth p\nuser " + Sender + "\nca_file " + ca}
	open := Tenant{Name: "open", Port: port, Connections: 4, Secure: true, More: "auth none\nca_file " + ca}
	config := func(tenants ...Tenant) string {
		return Site(onBolt+stub, append([]Tenant{token, open}, tenants...)...)
	}
	caddy := New(t, config())
	caddy.Start()
	// One is made at run time, whose key is one of the file's.
	made := Tenant{Name: "made", Port: port}
	caddy.make(t, "tenants", fmt.Sprintf(`{"name":"made","server":"127.0.0.1:%d","auth":{"method":"password","username":"u","password":"p"},"from":%q,"ca":%q}`,
		port, Sender, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificates[0].Certificate[1]})))
	caddy.make(t, "keys", fmt.Sprintf(`{"name":"made","key":%q,"tenant":"made"}`, made.Key()))

	var wg sync.WaitGroup
	var mails *Load
	begin := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		mails = &Load{URLs: []string{caddy.URL}, Tenants: []Tenant{token, open, made}, Producers: 3, Keyed: true, Pause: 10 * time.Millisecond, Ledger: ledger}
		devices := &Devices{Address: caddy.SMTP, Tenants: []Tenant{token, open}, Producers: 2, Pause: 10 * time.Millisecond, Ledger: ledger}
		wg.Go(func() { mails.Run(ctx) })
		wg.Go(func() { devices.Run(ctx) })
		return func() {
			cancel()
			wg.Wait()
			Within(time.Minute, func() bool { return ledger.Figures().Lost == 0 })
		}
	}
	first := min(50, *reloads/2)
	stop := begin()
	Eventually(t, time.Minute, "there is traffic of all kinds", func() bool { return mails.Requests() > 100 })
	known := caddy.counters()
	var at level
	began := time.Now()
	for i := range *reloads {
		if i == first {
			stop()
			if status, body := caddy.Load(config()); status != http.StatusOK {
				t.Fatalf("status %d: %.500s", status, body)
			}
			at = caddy.level(level{})
			stop = begin()
		}
		changed, want := config(Tenant{Name: fmt.Sprintf("c%d", i%3), Port: port, Connections: 1 + i%3}), http.StatusOK
		if i%10 == 9 {
			changed, want = strings.Replace(changed, "connections 4", "connections many", 1), http.StatusBadRequest
		}
		if status, body := caddy.Load(changed); status != want {
			t.Fatalf("reload %d: status %d, want %d: %.500s", i, status, want, body)
		}
		served := mails.Requests() + 10
		Eventually(t, time.Minute, "traffic goes on", func() bool { return mails.Requests() >= served })
		now := caddy.counters()
		if lost := known.lost(now); len(lost) > 0 {
			t.Fatalf("reload %d: %q", i, lost)
		}
		known = now
	}
	took := time.Since(began)
	stop()
	if status, body := caddy.Load(config()); status != http.StatusOK {
		t.Fatalf("status %d: %.500s", status, body)
	}
	now := caddy.level(at)
	if lost := known.lost(caddy.counters()); len(lost) > 0 {
		t.Errorf("in the end: %q", lost)
	}
	f := ledger.Figures()
	t.Logf("%d reloads in %v; %d series only grew; from the %dth to the last, at rest: goroutines %d to %d, files %d to %d, heap %d to %d KiB; %v",
		*reloads, took.Round(time.Second), len(known), first, at.goroutines, now.goroutines, at.files, now.files, at.heap>>10, now.heap>>10, f)
	f.Check(t, 0)
	if n := f.Statuses[http.StatusUnprocessableEntity]; n > 0 {
		t.Errorf("%d messages were refused", n)
	}
	if len(known) < 50 {
		t.Errorf("%d series: %v", len(known), known)
	}
	if d := now.goroutines - at.goroutines; d > 5 {
		_, stacks := caddy.Goroutines()
		t.Errorf("%d goroutines, %d before\n%.6000s", now.goroutines, at.goroutines, stacks)
	}
	if d := now.files - at.files; d > 5 {
		t.Errorf("%d open files, %d before: %q", now.files, at.files, caddy.Files())
	}
	if d := now.heap - at.heap; d > heapMayGrow {
		t.Errorf("%d KiB of heap, %d before", now.heap>>10, at.heap>>10)
	}
}

// heapMayGrow is by how much, since nothing is ever quite the same.
const heapMayGrow = 2 << 20

// make makes something at run time.
func (c *Caddy) make(t *testing.T, what, settings string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, c.URL+"/admin/"+what, strings.NewReader(settings))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := admin.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: status %d: %s", what, resp.StatusCode, answer)
	}
}
