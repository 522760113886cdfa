//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The kinds of TLS that a client may be told to use.
const (
	startTLS    = "starttls"
	implicitTLS = "implicit"
	noTLS       = "off"
)

var tlsKinds = []string{startTLS, implicitTLS, noTLS}

// entrances are SMTP entrances of a Stack, one for each kind of TLS. Clients may sign
// in there as a user, or send without, being in the network.
type entrances struct {
	tenant         string
	user, password string
	ports          map[string]int // by kind of TLS
	ca             string         // see trust
}

func newEntrances(t testing.TB, tenant string) *entrances {
	t.Helper()
	e := &entrances{tenant: tenant, user: "device", password: operatorPassword, ports: map[string]int{}}
	for _, kind := range tlsKinds {
		e.ports[kind] = reservePort(t)
	}
	return e
}

// lines is the entrances' part of the Caddyfile.
func (e *entrances) lines() string {
	var b strings.Builder
	for _, kind := range tlsKinds {
		plaintext := ""
		if kind == noTLS {
			plaintext = "plaintext_auth 127.0.0.0/8"
		}
		fmt.Fprintf(&b, `
		smtp 127.0.0.1:%d {
			hostname localhost
			tls %s
			tenant %s
			%s
			connections_per_address 100
			user %s {
				password %s
			}
			network 127.0.0.0/8
		}
`, e.ports[kind], kind, e.tenant, plaintext, e.user, operatorHash)
	}
	return b.String()
}

// trust has the certificate of Caddy's own authority in a file that everybody may read.
func (e *entrances) trust(t testing.TB, s *Stack) {
	t.Helper()
	e.ca = filepath.Join(s.dir, "caddy-root.pem")
	eventually(t, patience, "the authority's certificate", func() bool {
		pem, err := os.ReadFile(filepath.Join(s.dir, "storage", "pki", "authorities", "local", "root.crt"))
		return err == nil && os.WriteFile(e.ca, pem, 0o644) == nil // read by Postfix's own user
	})
}

// reload has Caddy load its Caddyfile again.
func (s *Stack) reload(t testing.TB) {
	t.Helper()
	text, err := os.Open(s.caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	r, err := http.NewRequest(http.MethodPost, s.AdminURL+"/load", text)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate") // though nothing has changed
	if a := s.do(t, r); a.status != http.StatusOK {
		t.Fatalf("reloading: %s", a)
	}
}

// device is a client of an entrance as the administration shows it.
type device struct {
	Kind, Name, Tenant, Listen, Greeting, TLS, Mechanism string
	Messages                                             int
}

// devices returns the clients of all entrances by their greetings.
func (s *Stack) devices(t testing.TB) map[string]device {
	t.Helper()
	a := s.admin(t, http.MethodGet, "/inventory")
	var list struct{ Clients []device }
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != http.StatusOK {
		t.Fatalf("the inventory: %s", a)
	}
	found := map[string]device{}
	for _, d := range list.Clients {
		found[d.Greeting] = d
	}
	return found
}
