//go:build endurance

package caddymodule

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

const manyTenants = 10_000

// manySite is a Caddy with very many tenants, each with a mailbox of its own, and a key
// for all.
type manySite struct {
	*runtimeSite
	sink *mailertest.Sink
	// bare is the heap without the tenants.
	bare int
}

// startMany starts Caddy and imports tenants. If they are to send, they trust the sink and
// keep their connections.
func startMany(t *testing.T, n int, send bool) *manySite {
	t.Helper()
	config, _ := mailertest.NewCertificate(t)
	sink := &mailertest.Sink{TLS: config, Pipelining: true, Chunking: true}
	host, port := sink.Listen(t)
	plainHost, plainPort := (&mailertest.Sink{}).Listen(t)
	s := &manySite{sink: sink, runtimeSite: &runtimeSite{&oauthSite{caddyProcess: startCaddy(t, withoutOutbox+
		tenantAt(net.JoinHostPort(plainHost, fmt.Sprint(plainPort)))+"key all test-key-for-all-the-tenants {\ntenants *\n}\n")}}}
	s.bare = s.heap()
	authorities, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[1]})))
	if err != nil {
		t.Fatal(err)
	}
	more := ""
	if send {
		more = fmt.Sprintf(`,"ca":%s,"max_idle":"1h","max_age":"1h"`, authorities)
	}
	var body strings.Builder
	body.WriteString(`{"format":1,"tenants":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"name":"tenant-%05d","settings":{"server":%q,"auth":{"method":"password","username":"user-%05d@example.com","password":"password"},"from":"sender@example.com"%s}}`,
			i, net.JoinHostPort(host, fmt.Sprint(port)), i, more)
	}
	body.WriteString(`]}`)
	began := time.Now()
	s.change("POST", "/settings", body.String(), 200)
	t.Logf("import of %d tenants: %v", n, time.Since(began).Round(time.Millisecond))
	return s
}

var heapAlloc = regexp.MustCompile(`# HeapAlloc = (\d+)`)

// heap is what Caddy has in its heap after a collection.
func (s *manySite) heap() int {
	s.t.Helper()
	n := 0
	for range 2 { // what has a finalizer goes with the second one
		resp, err := http.Get("http://" + s.caddyProcess.admin + "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		m := heapAlloc.FindSubmatch(text)
		if m == nil {
			s.t.Fatalf("no HeapAlloc in %s", text)
		}
		if n, err = strconv.Atoi(string(m[1])); err != nil {
			s.t.Fatal(err)
		}
	}
	return n
}

// sendAs posts a mail of a tenant.
func (s *manySite) sendAs(client *http.Client, i int) error {
	req, err := http.NewRequest("POST", fmt.Sprintf("%s/t/tenant-%05d/emails", s.URL, i), strings.NewReader(mailBody))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer test-key-for-all-the-tenants")
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return err
}

// rotate sends so many messages, of the tenants in turn, and returns how many went in a
// second.
func (s *manySite) rotate(messages, tenants int) float64 {
	s.t.Helper()
	const producers = 16
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: producers}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range producers {
		group.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= messages {
					return
				}
				if err := s.sendAs(client, n%tenants); err != nil {
					s.t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return float64(messages) / time.Since(began).Seconds()
}

// TestManyTenants: ten thousand tenants cost little memory and little time.
func TestManyTenants(t *testing.T) {
	s := startMany(t, manyTenants, false)
	s.kill()
	began := time.Now()
	s.start()
	await(t, "all tenants are there", func() bool { return s.admin("GET", fmt.Sprintf("/tenants/tenant-%05d", manyTenants-1)).status == 200 })
	took := time.Since(began)
	each := (s.heap() - s.bare) / manyTenants
	t.Logf("start with %d tenants: %v; %d octets a tenant", manyTenants, took.Round(time.Millisecond), each)
	if took > 5*time.Second {
		t.Errorf("the start took %v", took)
	}
	if each > 3<<10 {
		t.Errorf("%d octets a tenant", each)
	}
	for _, path := range []string{"/tenants", "/tenants?limit=1000", "/tenants?after=tenant-05000", "/tenants?search=99"} {
		best := time.Hour
		for range 5 { // other programs may hold one up
			began := time.Now()
			if got := s.admin("GET", path); got.status != 200 {
				t.Fatalf("%s: status %d", path, got.status)
			}
			best = min(best, time.Since(began))
		}
		t.Logf("GET %s: %v", path, best.Round(time.Millisecond))
		if best > 100*time.Millisecond {
			t.Errorf("GET %s took %v", path, best)
		}
	}
	began = time.Now()
	s.change("PATCH", "/tenants/tenant-00042", `{"connections":3}`, 200, "*")
	t.Logf("a change among %d tenants: %v", manyTenants, time.Since(began).Round(time.Millisecond))
}

// TestManyConnections: ten thousand tenants with a connection each.
func TestManyConnections(t *testing.T) {
	s := startMany(t, manyTenants, true)
	s.rotate(manyTenants, manyTenants)
	if n := s.sink.Sessions(); n < manyTenants {
		t.Fatalf("%d sessions", n)
	}
	each := (s.heap() - s.bare) / manyTenants
	t.Logf("%d octets a tenant with a connection", each)
	if each > 15<<10 {
		t.Errorf("%d octets a tenant with a connection", each)
	}
}

// TestManyInRotation: four thousand tenants in rotation send nearly as fast as sixteen.
func TestManyInRotation(t *testing.T) {
	s := startMany(t, 4000, true)
	const messages = 8000
	s.rotate(4000, 4000) // all have a connection
	few, many := 0.0, 0.0
	for range 3 { // in turn, since other programs want their share
		few, many = max(few, s.rotate(messages, 16)), max(many, s.rotate(messages, 4000))
	}
	t.Logf("16 tenants: %.0f messages a second, 4,000 tenants: %.0f", few, many)
	if many < 0.8*few {
		t.Errorf("4,000 tenants send %.2f times as fast as 16", many/few)
	}
}
