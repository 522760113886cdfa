//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// smarthost is an instance of Postfix that hands all on to entrances, as a client.
type smarthost struct {
	server
	config string
}

const smarthostMain = postfixBase + `
myhostname = host.example.com
smtp_dns_support_level = disabled
`

// smarthostWays is what a Postfix with several smart hosts has besides.
const smarthostWays = `
transport_maps = texthash:%[1]s/config/transport
smtp_sasl_password_maps = texthash:%[1]s/config/passwords
smtp_sasl_security_options = noanonymous
smtp_tls_CAfile = %[2]s
`

// startSmarthost starts a Postfix that sends by main.cf's further lines, and by further
// services of master.cf. It ends with the test.
func startSmarthost(t testing.TB, dir, lines, services string, files map[string]string) *smarthost {
	t.Helper()
	h := &smarthost{config: filepath.Join(dir, "config")}
	h.name = "Postfix as a client"
	all := map[string]string{"main.cf": fmt.Sprintf(smarthostMain, dir) + lines, "master.cf": postfixInside + services}
	for name, content := range files {
		all[name] = content
	}
	h.ready = says("daemon started")
	h.startIn(t, dir, all)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", h.name, h.output.tail())
		}
	})
	return h
}

// startWays starts a Postfix that brings each submission to its entrance.
func startWays(t testing.TB, dir string, list []submission) *smarthost {
	t.Helper()
	var services, transport strings.Builder
	known, passwords := map[string]bool{}, map[string]bool{}
	for _, s := range list {
		fmt.Fprintf(&transport, "%s %s:[localhost]:%d\n", s.to, s.greeting, s.port)
		if known[s.greeting] {
			continue
		}
		known[s.greeting] = true
		fmt.Fprintf(&services, "%s unix - - n - - smtp\n  -o smtp_helo_name=%[1]s\n", s.greeting)
		switch s.tls {
		case startTLS:
			services.WriteString("  -o smtp_tls_security_level=verify\n")
		case implicitTLS:
			services.WriteString("  -o smtp_tls_security_level=verify\n  -o smtp_tls_wrappermode=yes\n")
		case noTLS:
			services.WriteString("  -o smtp_tls_security_level=none\n")
		}
		if s.mechanism != "" {
			fmt.Fprintf(&services, "  -o smtp_sasl_auth_enable=yes\n  -o smtp_sasl_mechanism_filter=%s\n", strings.ToLower(s.mechanism))
		}
		passwords[fmt.Sprintf("[localhost]:%d %s:%s\n", s.port, s.user, s.password)] = true
	}
	return startSmarthost(t, dir, fmt.Sprintf(smarthostWays, dir, list[0].ca), services.String(),
		map[string]string{"transport": transport.String(), "passwords": strings.Join(slices.Collect(maps.Keys(passwords)), "")})
}

// command is how a message goes into the queue.
func (h *smarthost) command(s submission) (argv []string, stdin string) {
	return []string{"/usr/sbin/sendmail", "-C", h.config, "-f", s.from, "-i", "--", s.to}, s.unix
}
