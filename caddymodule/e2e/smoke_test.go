//go:build e2e

package e2e

import "testing"

func TestOneMessageThroughEachServer(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix, onExim, onSMTPServer}})
	s.SignIn(t)
	n := 0
	for _, server := range []string{onPostfix, onExim, onSMTPServer} {
		for _, way := range []string{"", "-oauthbearer", "-password"} {
			if s.keys[server+way] == "" {
				continue
			}
			n++
			s.Send(t, server+way, note(server+way))
			got := s.mailbox.wait(t, n)[n-1]
			if got.From != s.user || len(got.To) != 1 || got.To[0] != "someone@example.net" {
				t.Errorf("%s%s: envelope from %q to %q", server, way, got.From, got.To)
			}
		}
	}
}
