//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// usedMechanism reports whether a server's log tells of a sign-in by a mechanism
// at a door.
func (l *lab) usedMechanism(d *door, mechanism string) bool {
	log := l.mail[d.server].log()
	switch d.server {
	case onPostfix:
		return countLines(log, "postfix/"+d.name+"/smtpd[", "sasl_method="+mechanism+", sasl_username="+l.user) > 0
	case onExim:
		driver := map[string]string{"XOAUTH2": "xoauth2", "OAUTHBEARER": "oauthbearer", "PLAIN": "plain", "LOGIN": "login"}[mechanism]
		return countLines(log, fmt.Sprintf("I=[127.0.0.1]:%d ", d.port), " A="+driver+":"+l.user) > 0
	}
	return countLines(log, fmt.Sprintf(`{"door":%q,"mechanism":%q}`, d.name, mechanism)) > 0
}

// Each mechanism that a server has, over each kind of TLS; with what it takes and
// with what it refuses.
func TestSignIn(t *testing.T) {
	t.Parallel()
	starttls := shapeDoors[3]
	starttls.name = "starttls"
	kinds := append([]door{starttls}, signInDoors...)
	doors := slices.Concat(doorsOf(t, onPostfix, kinds...), doorsOf(t, onExim, kinds...), doorsOf(t, onSMTPServer, kinds...))
	l := startLab(t, doors...)
	token := func(mechanism, value string) mailer.Token {
		return mailer.Token{User: l.user, Source: staticToken(value), Mechanism: mechanism}
	}
	tests := []struct {
		mechanism         string
		right, other, bad mailer.Authenticator
		status            bool // the server tells the refusal's status
	}{
		{mechanism: "XOAUTH2", right: token("XOAUTH2", l.token), other: token("XOAUTH2", l.longToken), bad: token("XOAUTH2", "wrong-token"), status: true},
		{mechanism: "OAUTHBEARER", right: token("OAUTHBEARER", l.token), other: token("OAUTHBEARER", l.longToken), bad: token("OAUTHBEARER", "wrong-token"), status: true},
		{mechanism: "PLAIN", right: mailer.Password{User: l.user, Password: l.password}, bad: mailer.Password{User: l.user, Password: "wrong-password"}},
		{mechanism: "LOGIN", right: mailer.Password{User: l.user, Password: l.password}, bad: mailer.Password{User: l.user, Password: "wrong-password"}},
		{mechanism: "none"},
	}
	t.Run("doors", func(t *testing.T) {
		for _, d := range doors {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				for _, tt := range tests {
					if (tt.mechanism == "LOGIN") != d.loginOnly || (tt.mechanism == "none") != d.open {
						continue
					}
					if d.server == onSMTPServer && tt.mechanism == "OAUTHBEARER" {
						// It has none: nothing is tried instead.
						e := errorOf(t, tt.mechanism, l.newClient(t, d, tt.right).SignIn(t.Context(), nil))
						if e.Stage != mailer.StageAuth || e.Kind != mailer.KindConfig {
							t.Errorf("%s: %s %s: %v", tt.mechanism, e.Stage, e.Kind, e)
						}
						continue
					}
					for _, a := range []mailer.Authenticator{tt.right, tt.other} {
						if a == nil && tt.mechanism != "none" {
							continue
						}
						c := l.newClient(t, d, a)
						m := newLetterOf(1<<10, "")
						if _, err := c.Submit(t.Context(), c.envelope(t, "", someone), m, mailer.Options{}); err != nil {
							t.Errorf("%s: %v", tt.mechanism, err)
							continue
						}
						c.checkArrived(t, tt.mechanism, m, someone)
						c.Pool.Close()
						if tt.mechanism != "none" {
							eventually(t, patience, "the server tells of "+tt.mechanism, func() bool { return l.usedMechanism(d, tt.mechanism) })
						}
					}
					if tt.bad == nil {
						continue
					}
					e := errorOf(t, tt.mechanism, l.newClient(t, d, tt.bad).SignIn(t.Context(), nil))
					if e.Stage != mailer.StageAuth || e.Kind != mailer.KindUnauthorized || e.Reply.Code != 535 || (e.AuthStatus != "") != tt.status {
						t.Errorf("%s, wrong: %s %s, status %q: %v", tt.mechanism, e.Stage, e.Kind, e.AuthStatus, e)
					}
				}
			})
		}
	})
	l.checkManners(t)
}
