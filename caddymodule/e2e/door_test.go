//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// door is a further port of a mail server, with manners of its own. All of them
// refuse some mail:
//
//   - the senders refused@example.com at MAIL, late@example.com at RCPT, and
//     nodata@example.com at DATA or BDAT (smtp-server knows the first only);
//   - the recipients refused@example.net for good, and later@example.net for now;
//   - messages with the header field X-Refuse, when they are there.
type door struct {
	// name is the server's, and which of its doors it is.
	name, server string
	port         int
	security     mailer.Security
	// pipelining and chunking (RFC 2920, RFC 3030) are offered.
	pipelining, chunking bool
	// open lets everybody in, and offers no AUTH.
	open bool
	// loginOnly offers no mechanism but LOGIN.
	loginOnly bool
	// requireTLS offers REQUIRETLS (smtp-server only).
	requireTLS bool
	// impatient goes as soon as it has refused a few commands (Postfix only).
	impatient bool
}

// The doors' kinds: shapes of a transaction, and ways to sign in.
var (
	shapeDoors = []door{
		{name: "lockstep"},
		{name: "pipelining", pipelining: true},
		{name: "chunking", chunking: true},
		{name: "both", pipelining: true, chunking: true},
	}
	signInDoors = []door{
		{name: "implicit", security: mailer.ImplicitTLS, pipelining: true, chunking: true},
		{name: "plaintext", security: mailer.Plaintext, pipelining: true, chunking: true},
		{name: "login", loginOnly: true, pipelining: true, chunking: true},
		{name: "login-implicit", loginOnly: true, security: mailer.ImplicitTLS, pipelining: true, chunking: true},
		{name: "login-plaintext", loginOnly: true, security: mailer.Plaintext, pipelining: true, chunking: true},
		{name: "open", open: true, pipelining: true, chunking: true},
		{name: "open-implicit", open: true, security: mailer.ImplicitTLS, pipelining: true, chunking: true},
		{name: "open-plaintext", open: true, security: mailer.Plaintext, pipelining: true, chunking: true},
	}
)

// doorsOf makes a server's doors of some kinds. smtp-server has no CHUNKING.
func doorsOf(t testing.TB, server string, kinds ...door) []*door {
	t.Helper()
	var list []*door
	for _, d := range kinds {
		if server == onSMTPServer && d.chunking {
			if !d.pipelining {
				continue
			}
			if d.chunking = false; d.name == "both" {
				continue // it would be "pipelining" again
			}
		}
		d.name, d.server, d.port = server+"-"+d.name, server, reservePort(t)
		list = append(list, &d)
	}
	return list
}

// flights is how often a client speaks for a message, where the connection is
// ready for it.
func (d *door) flights(rcpts int, size int64, all bool) int {
	const single = 256 << 10
	switch {
	case d.pipelining && d.chunking && size <= single && !all:
		return 1
	case d.pipelining && (d.chunking || !all):
		return 2
	case d.pipelining:
		return 3
	case d.chunking:
		return 1 + rcpts + 1
	}
	return 1 + rcpts + 2
}

// portsOf lists the ports of the doors that are of some kind, as Exim wants it.
func portsOf(doors []*door, is func(*door) bool) string {
	var ports []string
	for _, d := range doors {
		if is(d) {
			ports = append(ports, fmt.Sprint(d.port))
		}
	}
	return strings.Join(ports, ":")
}

// countLines counts the lines of a log that have all the words.
func countLines(log string, words ...string) int {
	n := 0
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}
