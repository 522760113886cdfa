package listener

import (
	"bufio"
	"strings"
	"testing"
)

// TestDialogues are sessions as devices and old programs lead them. C: and S: say
// who speaks; of what the server says, the beginning counts.
func TestDialogues(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, dialogue string
		sent           int
	}{
		{"a copier: LOGIN, waits for its prompts", `
S: 220 relay.example.com ESMTP
C: EHLO XRX9C934E
S: 250
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: cHJpbnRlcg==
S: 334 UGFzc3dvcmQ6
C: b3BlbiBzZXNhbWU=
S: 235 2.0.0
C: MAIL FROM:<scan@copier.example.com>
S: 250 2.0.0
C: RCPT TO:<b@example.net>
S: 250 2.0.0
C: DATA
S: 354
C: Subject: scan
C:
C: .
S: 554 5.6.0 The message is malformed
C: RSET
S: 250
C: MAIL FROM:<scan@copier.example.com>
S: 250 2.0.0
C: RCPT TO:<b@example.net>
S: 250 2.0.0
C: DATA
S: 354
C: From: scan@copier.example.com
C: Subject: scan
C:
C: .
S: 250 2.0.0 Ok: queued as
C: QUIT
S: 221`, 1},
		{"a scanner: lower case, user name in the first line", `
S: 220
C: ehlo scanner
S: 250
C: auth login cHJpbnRlcg==
S: 334 UGFzc3dvcmQ6
C: b3BlbiBzZXNhbWU=
S: 235
C: mail from: <scan@example.com>
S: 250
C: rcpt to: <b@example.net>
S: 250
C: data
S: 354
C: From: scan@example.com
C:
C: x
C: .
S: 250
C: quit
S: 221`, 1},
		{"an old mail program: looks for AUTH=, asks for it so", `
S: 220
C: EHLO pc
S: 250 ...AUTH=PLAIN LOGIN...
C: AUTH=LOGIN
S: 334 VXNlcm5hbWU6
C: cHJpbnRlcg==
S: 334 UGFzc3dvcmQ6
C: b3BlbiBzZXNhbWU=
S: 235
C: MAIL FROM:<scan@example.com> AUTH=<>
S: 250
C: RSET
S: 250
C: MAIL FROM:<scan@example.com> AUTH= SIZE=100
S: 250`, 0},
		{"HELO only, PLAIN", `
S: 220
C: HELO alarm
S: 250
C: ` + authPlain + `
S: 235
C: MAIL FROM:<alarm@example.com>
S: 250`, 0},
		{"no greeting at all", `
S: 220
C: AUTH PLAIN
S: 334
C: AHByaW50ZXIAb3BlbiBzZXNhbWU=
S: 235
C: MAIL FROM:<alarm@example.com>
S: 250
C: RCPT TO:<b@example.net>
S: 250
C: DATA
S: 354
C: From: alarm@example.com
C:
C: x
C: .
S: 250
C: MAIL FROM:<alarm@example.com>
S: 250`, 1},
		{"no name to greet with", `
S: 220
C: EHLO
S: 250
C: HELO ` + `
S: 250
C: EHLO [192.0.2.1]
S: 250
C: EHLO my office copier
S: 250
C: ` + authPlain + `
S: 235`, 0},
		{"odd paths", `
S: 220
C: EHLO x
S: 250
C: ` + authPlain + `
S: 235
C: MAIL FROM : scan@example.com SIZE=100
S: 250
C: RSET ` + `
S: 250
C: MAIL FROM:<scan@example.com>SIZE=100 BODY=8BITMIME
S: 250
C: RCPT TO:b@example.net
S: 250
C: RCPT TO: < b@example.net >
S: 250
C: RCPT TO:<c>
S: 501
C: DATA ` + `
S: 354
C: From: scan@example.com
C:
C: x
C: .
S: 250
C: QUIT ` + `
S: 221`, 1},
		{"a user without a domain, as cron has it", `
S: 220
C: EHLO x
S: 250
C: ` + authPlain + `
S: 235
C: MAIL FROM:<root>
S: 250 2.0.0 Roger, accepting mail from <root@localhost>
C: RCPT TO:<root>
S: 501`, 0},
		{"gives up in the middle of AUTH", `
S: 220
C: EHLO x
S: 250
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: *
S: 501
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: printer
S: 501
C: AUTH PLAIN ???
S: 501 5.5.2
C: AUTH PLAIN =
S: 501 5.5.2
C: AUTH CRAM-MD5
S: 504 5.5.4
C: AUTH
S: 502
C: AUTH PLAIN cm9vdABwcmludGVyAG9wZW4gc2VzYW1l
S: 535 5.7.8 Nobody can act for another user
C: AUTH PLAIN cHJpbnRlcgBwcmludGVyAG9wZW4gc2VzYW1l
S: 235`, 0},
		{"line ends of its own", "\nS: 220\nLF: EHLO x\nS: 250\nLF: " + authPlain + "\nS: 235\nLF: MAIL FROM:<scan@example.com>\nS: 250\nLF: RCPT TO:<b@example.net>\nS: 250\nLF: DATA\nS: 354\nLF: From: scan@example.com\nLF:\nLF: x\nC:\nC: .\nS: 250", 1},
		{"a browser", `
S: 220
C: POST / HTTP/1.1
S: 500 5.5.2 This is no web server`, 0},
		{"what nobody needs", `
S: 220
C: EHLO x
S: 250
C: VRFY root
S: 252
C: EXPN all
S: 502
C: HELP
S: 502
C: NOOP
S: 250
C: TURN
S: 500
C: MAIL FROM:<a@example.com>
S: 530`, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			c := dialTalk(t, listen(t, New(r.config())))
			lines := bufio.NewScanner(strings.NewReader(strings.TrimPrefix(tt.dialogue, "\n")))
			for lines.Scan() {
				who, what, _ := strings.Cut(lines.Text(), ":")
				what = strings.TrimPrefix(what, " ")
				switch who {
				case "C":
					c.write(what + "\r\n")
				case "LF":
					c.write(what + "\n")
				default:
					begin, within, _ := strings.Cut(what, "...")
					within = strings.TrimSuffix(within, "...")
					if got := c.hear(strings.TrimSpace(begin)); !strings.Contains(got, within) {
						t.Errorf("got %q, want %q in it", got, within)
					}
				}
			}
			if got := r.sent(); len(got) != tt.sent {
				t.Errorf("sent %+v, want %d", got, tt.sent)
			}
		})
	}
}

// TestGreeting: what a device calls itself comes to the inventory, printable.
func TestGreeting(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"EHLO copier":                         "copier",
		"HELO my copier":                      "my copier",
		"EHLO":                                "",
		"EHLO caf\xc3\xa9":                    "caf?",
		"EHLO " + strings.Repeat("x", 300):    strings.Repeat("x", 255),
		"EHLO <script>alert(1)</script>":      "<script>alert(1)</script>",
		"NOOP":                                "",
		"EHLO first\r\nEHLO second\r\nHELO 3": "3",
	} {
		r := &recorder{}
		c := dialTalk(t, listen(t, New(r.config())))
		c.hear("220")
		c.write(said + "\r\n")
		for range strings.Count(said, "\n") + 1 {
			c.hear("250")
		}
		c.say("QUIT", "221")
		c.gone()
		if got := r.sessions(); len(got) != 1 || got[0].Greeting != want {
			t.Errorf("%q: %+v, want %q", said, got, want)
		}
	}
}

func TestMendPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"FROM:<a@b.c>":                     "FROM:<a@b.c>",
		"from : a@b.c":                     "FROM:<a@b.c>",
		"FROM:<>":                          "FROM:<>",
		"FROM:":                            "FROM:<>",
		"FROM:<a>":                         "FROM:<a@localhost>",
		"FROM:a SIZE=1":                    "FROM:<a@localhost> SIZE=1",
		"FROM:<a@b.c>BODY=8BITMIME":        "FROM:<a@b.c> BODY=8BITMIME",
		"FROM:<a@b.c> AUTH=<x@y.z> SIZE=1": "FROM:<a@b.c> SIZE=1",
		`FROM:<"a b"@c.d>`:                 `FROM:<"a b"@c.d>`,
		`FROM:<"a> SIZE=1"@c.d>`:           `FROM:<"a> SIZE=1"@c.d>`,
		"FROM:<a@b.c":                      "FROM:<a@b.c",
		"FROM <a@b.c>":                     "FROM <a@b.c>",
		"TO:<a@b.c>":                       "TO:<a@b.c>",
		"FROM:<a <b>":                      "FROM:<a <b>",
		"":                                 "",
	} {
		if got := mendPath(in, "FROM", "@localhost"); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
