//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// What usual programs submit, by each mechanism and kind of TLS, arrives as they wrote
// it.
func TestSubmission(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		upstream string
		outbox   bool
	}{
		{onPostfix, true},
		{onExim, false},
	} {
		t.Run(tt.upstream, func(t *testing.T) {
			t.Parallel()
			e := newEntrances(t, tt.upstream)
			s := Start(t, Options{Servers: []string{tt.upstream}, Outbox: tt.outbox, Lines: e.lines()})
			s.SignIn(t)
			e.trust(t, s)
			all := papers()
			for i := range all {
				all[i].write(t, s.dir, i)
			}
			relay := startWays(t, filepath.Join(s.dir, "smarthost"), e.submissions(s.user, "postfix", all))
			t.Run("by", func(t *testing.T) {
				for _, p := range slices.Concat(submitters, []submitter{{name: "postfix", command: relay.command}}) {
					t.Run(p.name, func(t *testing.T) {
						t.Parallel()
						for _, way := range e.submissions(s.user, p.name, all) {
							argv, stdin := p.command(way)
							runProgram(t, argv, stdin)
							s.checkSubmitted(t, way, p.adds)
						}
					})
				}
			})
			devices := s.devices(t)
			for _, p := range slices.Concat(submitters, []submitter{{name: "postfix"}}) {
				sent := map[string]int{}
				for _, way := range e.submissions(s.user, p.name, all) {
					sent[way.greeting]++
					d := devices[way.greeting]
					d.Messages, d.TLS = 0, strings.TrimRight(d.TLS, ".0123456789")
					want := device{
						Kind: "user", Name: e.user, Tenant: tt.upstream, Listen: fmt.Sprintf("127.0.0.1:%d", way.port),
						Greeting: way.greeting, TLS: "TLS ", Mechanism: way.mechanism,
					}
					if way.mechanism == "" {
						want.Kind, want.Name = "network", "127.0.0.0/8"
					}
					if way.tls == noTLS {
						want.TLS = ""
					}
					if diff := gocmp.Diff(want, d); diff != "" {
						t.Errorf("%s (-want +got):\n%s", way.greeting, diff)
					}
				}
				for greeting, n := range sent {
					if got := devices[greeting].Messages; got != n {
						t.Errorf("%s: the inventory has %d messages, want %d", greeting, got, n)
					}
				}
			}
		})
	}
}

// submissions are a program's: one for each kind of TLS and mechanism, and all papers
// by the first of them.
func (e *entrances) submissions(from, program string, all []paper) []submission {
	var list []submission
	for k, kind := range tlsKinds {
		for m, mechanism := range []string{"PLAIN", "LOGIN", ""} {
			papers := all[:1]
			if k+m == 0 {
				papers = all
			}
			for i := range papers {
				greeting := strings.ToLower(program + "-" + kind + "-" + cmp.Or(mechanism, "network"))
				list = append(list, submission{
					greeting: greeting, tls: kind, port: e.ports[kind], ca: e.ca,
					mechanism: mechanism, user: e.user, password: e.password,
					from: from, to: fmt.Sprintf("%s.%d@example.net", greeting, i), paper: &papers[i],
				})
			}
		}
	}
	return list
}

// checkSubmitted checks that a message arrives once, as it was submitted but for what
// the program adds.
func (s *Stack) checkSubmitted(t testing.TB, way submission, adds string) {
	t.Helper()
	what := way.name + " by " + way.greeting
	got := s.mailbox.findTo(t, way.to)
	if got.From != way.from || len(got.To) != 1 {
		t.Errorf("%s: from %s to %q", what, got.From, got.To)
	}
	if !way.decoded {
		checkEqual(t, what, []byte(way.arrives+adds), got.Data)
		return
	}
	// Python's parser does not forgive the spaces that Postfix breaks lines of base64 with.
	both := read(t, readers[1].argv, []string{way.file, got.File})
	if diff := gocmp.Diff(both[0], both[1]); diff != "" {
		t.Errorf("%s as %s reads it (-sent +arrived):\n%s", what, readers[1].name, diff)
	}
	if len(both[1].Attachments) != 1 || both[1].Attachments[0].Size == 0 {
		t.Errorf("%s: the attachments are %+v", what, both[1].Attachments)
	}
}

// write writes the paper into files of a folder.
func (p *paper) write(t testing.TB, dir string, number int) {
	t.Helper()
	p.file, p.unix = filepath.Join(dir, fmt.Sprintf("paper-%d.eml", number)), filepath.Join(dir, fmt.Sprintf("paper-%d.txt", number))
	for name, text := range map[string]string{p.file: p.given, p.unix: strings.ReplaceAll(p.given, "\r\n", "\n")} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
