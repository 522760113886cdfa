//go:build e2e

package e2e

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// Wishes about reports reach the server, and it heeds them.
func TestDSN(t *testing.T) {
	t.Parallel()
	both, lockstep, pipelining := shapeDoors[3], shapeDoors[0], shapeDoors[1]
	doors := slices.Concat(doorsOf(t, onPostfix, both, lockstep), doorsOf(t, onExim, both, lockstep), doorsOf(t, onSMTPServer, pipelining))
	l := startLab(t, doors...)
	// Exim reports it as it came, though RFC 3464, section 2.2.1, wants it decoded.
	const id, encoded = "order 1+1=2", "order+201+2B1+3D2"
	failures := []mailer.DSNEvent{mailer.NotifySuccess, mailer.NotifyFailure, mailer.NotifyDelay}
	t.Run("doors", func(t *testing.T) {
		for _, d := range doors {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				c := l.newClient(t, d, nil)
				send := func(to string, dsn mailer.DSN) letter {
					m := newLetter("Subject: "+d.name+"\r\n", "\r\nThe text of it.\r\n")
					if _, err := c.Submit(t.Context(), c.envelope(t, "", to), m, mailer.Options{DSN: dsn}); err != nil {
						t.Fatalf("%+v: %v", dsn, err)
					}
					return m
				}
				never := send(unreachable, mailer.DSN{Notify: []mailer.DSNEvent{mailer.NotifyNever}})
				taken := send(someone, mailer.DSN{Notify: failures[:1]})
				header := send(unreachable, mailer.DSN{Notify: failures, Return: mailer.ReturnHeaders, EnvelopeID: id})
				full := send(unreachable, mailer.DSN{Notify: failures, Return: mailer.ReturnFull})
				if d.server == onSMTPServer { // it tells what it was told, and reports nothing
					if got := l.mail[d.server].log(); !strings.Contains(got, `"envid":"`+id+`"`) ||
						!strings.Contains(got, `"ret":"HDRS"`) || !strings.Contains(got, `"notify":[["SUCCESS","FAILURE","DELAY"]]`) {
						t.Errorf("it was not told:\n%s", got)
					}
					return
				}
				report := func(m letter) string {
					for _, r := range l.mailbox.all() {
						if r.From == "" && slices.Equal(r.To, []string{l.user}) && bytes.Contains(r.Data, []byte("ID: "+m.id)) {
							return string(r.Data)
						}
					}
					return ""
				}
				for _, m := range []letter{taken, header, full} {
					eventually(t, patience, "a report", func() bool { return report(m) != "" })
				}
				reported := "Original-Envelope-Id: " + id
				if d.server == onExim {
					reported = "Original-Envelope-ID: " + encoded
				}
				for what, ok := range map[string]bool{
					"the envelope id":   strings.Contains(report(header), reported+"\r\n"),
					"the header only":   !strings.Contains(report(header), "The text of it."),
					"the whole message": strings.Contains(report(full), "The text of it."),
					"what it was to":    report(never) == "",
				} {
					if !ok {
						t.Errorf("it does not report %s:\n%s\n%s", what, report(header), report(full))
					}
				}
			})
		}
	})
	l.checkManners(t)
}

// REQUIRETLS goes to servers that offer it only.
func TestRequireTLS(t *testing.T) {
	t.Parallel()
	both, offered := shapeDoors[3], shapeDoors[1]
	offered.name, offered.requireTLS = "requiretls", true
	not := slices.Concat(doorsOf(t, onPostfix, both), doorsOf(t, onExim, both), doorsOf(t, onSMTPServer, shapeDoors[1]))
	offers := doorsOf(t, onSMTPServer, offered)
	l := startLab(t, slices.Concat(not, offers)...)
	for _, d := range not {
		c := l.newClient(t, d, nil)
		_, err := c.Submit(t.Context(), c.envelope(t, "", someone), newLetterOf(1<<10, ""), mailer.Options{RequireTLS: true})
		if e := errorOf(t, d.name, err); e.Code != "requiretls_not_offered" || e.Kind != mailer.KindRejected || e.Reply.Code != 0 {
			t.Errorf("%s: %s %s %s: %v", d.name, e.Stage, e.Kind, e.Code, e)
		}
	}
	c := l.newClient(t, offers[0], nil)
	m := newLetterOf(1<<10, "")
	if _, err := c.Submit(t.Context(), c.envelope(t, "", someone), m, mailer.Options{RequireTLS: true}); err != nil {
		t.Fatal(err)
	}
	c.checkArrived(t, "REQUIRETLS", m, someone)
	if !strings.Contains(l.mail[onSMTPServer].log(), `"requireTLS":true`) {
		t.Error("the server was not asked for TLS on all of the way")
	}
	if n := len(l.mailbox.all()); n != 1 {
		t.Errorf("%d messages were delivered, want 1", n)
	}
}
