package mailertest

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func xoauth2(user, token string) string {
	return base64.StdEncoding.EncodeToString([]byte("user=" + user + "\x01auth=Bearer " + token + "\x01\x01"))
}

// signIn begins a session of a mailbox.
func signIn(t *testing.T, v *Vendor, user string) *client {
	t.Helper()
	config, pool := NewCertificate(t)
	v.TLS = config
	c := connect(t, v)
	c.startTLS(pool)
	c.ask("EHLO x", "250-")
	c.ask("AUTH XOAUTH2 "+xoauth2(user, "good"), "235 2.7.0 ")
	return c
}

// mail runs a transaction and checks how its last reply begins.
func (c *client) mail(from string, rcpts int, want string) string {
	c.t.Helper()
	c.ask("MAIL FROM:<"+from+">", "250 2.1.0 ")
	for i := range rcpts {
		c.ask(fmt.Sprintf("RCPT TO:<b%d@example.net>", i), "250 2.1.5 ")
	}
	c.ask("DATA", "354 ")
	return c.ask("Message-ID: <1@example.com>\r\n\r\nhello\r\n.", want)
}

const ann = "ann@example.com"

func TestVendorCapabilities(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vendor                  *Vendor
		greeting, before, after string
	}{
		{
			Exchange(),
			"220 FR0P281CA0001.outlook.office365.com Microsoft ESMTP MAIL Service ready at ",
			"250-FR0P281CA0001.outlook.office365.com Hello [192.0.2.1]\n250-SIZE 157286400\n250-PIPELINING\n250-DSN\n250-ENHANCEDSTATUSCODES\n250-8BITMIME\n250-BINARYMIME\n250-CHUNKING\n250-SMTPUTF8\n250 STARTTLS",
			"250-FR0P281CA0001.outlook.office365.com Hello [192.0.2.1]\n250-SIZE 157286400\n250-PIPELINING\n250-DSN\n250-ENHANCEDSTATUSCODES\n250-8BITMIME\n250-BINARYMIME\n250-CHUNKING\n250-SMTPUTF8\n250 AUTH LOGIN XOAUTH2",
		},
		{
			Gmail(),
			"220 smtp.gmail.com ESMTP ",
			"250-smtp.gmail.com at your service, [192.0.2.1]\n250-SIZE 35882577\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n250-PIPELINING\n250-CHUNKING\n250-SMTPUTF8\n250 STARTTLS",
			"250-smtp.gmail.com at your service, [192.0.2.1]\n250-SIZE 35882577\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n250-PIPELINING\n250-CHUNKING\n250-SMTPUTF8\n250 AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN OAUTHBEARER XOAUTH",
		},
	} {
		t.Run(tt.vendor.dialect.name, func(t *testing.T) {
			t.Parallel()
			config, pool := NewCertificate(t)
			tt.vendor.TLS = config
			nc := dial(tt.vendor.Serve)
			c := greeted(t, nc)
			if got := tt.vendor.dialect.greeting; !strings.HasPrefix(got, tt.greeting) {
				t.Errorf("greeting %q", got)
			}
			if got := c.ask("EHLO x", "250-"); got != tt.before {
				t.Errorf("before TLS %q", got)
			}
			c.ask("AUTH XOAUTH2 "+xoauth2(ann, "good"), "530 5.7.0 Must issue a STARTTLS command first")
			c.ask("MAIL FROM:<>", "530 5.7.0 Must issue a STARTTLS command first")
			c.startTLS(pool)
			if got := c.ask("EHLO x", "250-"); got != tt.after {
				t.Errorf("after TLS %q", got)
			}
			if got := c.ask("MAIL FROM:<>", "530"); !strings.Contains(got, "5.7.57") && !strings.Contains(got, "Authentication Required") {
				t.Errorf("MAIL without AUTH: %q", got)
			}
			c.ask("AUTH CRAM-MD5", "504 5.7.4 ")
			c.ask("QUIT", "221 ")
			c.want("EOF")
		})
	}
}

// TestVendorSignIn refuses a token in the shape of each vendor, and takes the
// next one.
func TestVendorSignIn(t *testing.T) {
	t.Parallel()
	bad, good := xoauth2(ann, "bad"), xoauth2(ann, "good")
	b64 := base64.StdEncoding.EncodeToString
	bearerGood := b64([]byte("n,a=ann=2Cb@example.com,\x01host=h\x01port=587\x01auth=Bearer good\x01\x01"))
	off := func(step, user string) string {
		if step == "AUTH" && user == ann {
			return ExchangeSMTPAuthOffTenant
		}
		return ""
	}
	tests := []struct {
		name    string
		vendor  *Vendor
		refuses func(step, user string) string
		talk    []string // lines and how their replies begin
		user    string   // who is let in
	}{
		{"Exchange refuses at once", Exchange(), nil, []string{"AUTH XOAUTH2 " + bad, "535 5.7.3 Authentication unsuccessful [", "AUTH XOAUTH2", "334 ", good, "235 2.7.0 "}, ann},
		{"Exchange, LOGIN", Exchange(), nil, []string{"AUTH LOGIN", "334 VXNlcm5hbWU6", b64([]byte(ann)), "334 UGFzc3dvcmQ6", b64([]byte("good")), "235 "}, ann},
		{"Exchange has no PLAIN", Exchange(), nil, []string{"AUTH PLAIN " + b64([]byte("\x00"+ann+"\x00good")), "504 5.7.4 "}, ""},
		{"Exchange, SMTP AUTH off", Exchange(), off, []string{"AUTH XOAUTH2 " + good, "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant"}, ""},
		{"Gmail explains first", Gmail(), nil, []string{"AUTH XOAUTH2 " + bad, "334 eyJzdGF0dXMiOiI0MDEi", "", "535-5.7.8 Username and Password not accepted", "AUTH XOAUTH2 " + good, "235 "}, ann},
		{"Gmail, good token for an answer", Gmail(), nil, []string{"AUTH XOAUTH2 " + bad, "334 ", good, "535-5.7.8 "}, ""},
		{"Gmail, OAUTHBEARER", Gmail(), nil, []string{"AUTH OAUTHBEARER " + bearerGood, "235 "}, "ann,b@example.com"},
		{"Gmail, PLAIN", Gmail(), nil, []string{"AUTH PLAIN " + b64([]byte("\x00"+ann+"\x00bad")), "535-5.7.8 ", "AUTH PLAIN " + b64([]byte("\x00"+ann+"\x00good")), "235 "}, ann},
		{"rubbish", Gmail(), nil, []string{"AUTH XOAUTH2 !", "535-5.7.8 ", "AUTH XOAUTH2 " + b64([]byte("rubbish")), "535-5.7.8 "}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config, pool := NewCertificate(t)
			v := tt.vendor
			v.TLS, v.Refuses = config, tt.refuses
			v.Accepts = func(_, secret string) bool { return secret == "good" }
			c := connect(t, v)
			c.startTLS(pool)
			for i := 0; i < len(tt.talk); i += 2 {
				c.ask(tt.talk[i], tt.talk[i+1])
			}
			user := ""
			for _, l := range v.Logins() {
				if l.OK {
					user = l.User
				}
			}
			if user != tt.user {
				t.Errorf("let in %q, want %q", user, tt.user)
			}
		})
	}
}

func TestVendorAccepts(t *testing.T) {
	t.Parallel()
	v := Gmail()
	v.Now = func() time.Time { return time.Unix(1700000000, 0) }
	signIn(t, v, ann).mail("other@example.com", 1, "250 2.0.0 OK  1700000000 ")
	e := Exchange()
	signIn(t, e, ann).mail("Ann@example.com", 1, "250 2.0.0 OK <1@example.com> [Hostname=FR0P281MB0001")
	for _, v := range []*Vendor{v, e} {
		if got := v.Messages(); len(got) != 1 || got[0].User != ann || len(got[0].To) != 1 || !strings.HasSuffix(got[0].Data, "\r\n\r\nhello\r\n") {
			t.Errorf("took %+v", got)
		}
	}
}

func TestVendorRefusals(t *testing.T) {
	t.Parallel()
	c := signIn(t, Exchange(), ann)
	c.mail("other@example.com", 1, "554 5.2.252 SendAsDenied; ann@example.com not allowed to send as other@example.com;")
	v := Exchange()
	v.MaySendAs = func(user, from string) bool { return user == ann && from == "other@example.com" }
	signIn(t, v, ann).mail("other@example.com", 1, "250 ")

	v = Exchange()
	v.Size = 40
	c = signIn(t, v, ann)
	c.ask("MAIL FROM:<ann@example.com> SIZE=41 BODY=8BITMIME", "552 5.3.4 ")
	c.mail(ann, 1, "250 ")
	v.Size = 30
	c.mail(ann, 1, "552 5.3.4 ") // though it announced nothing
	if n := len(v.Messages()); n != 1 {
		t.Errorf("took %d", n)
	}

	v = Exchange()
	v.Refuses = refuse("MAIL", ExchangeBusy)
	c = signIn(t, v, ann)
	c.ask("MAIL FROM:<ann@example.com>", "451 4.7.500 Server busy")
	c.ask("RCPT TO:<b@example.net>", "503 ")

	v = Gmail()
	v.Refuses = refuse("RCPT", GmailBusy)
	c = signIn(t, v, ann)
	c.ask("MAIL FROM:<ann@example.com>", "250 ")
	c.ask("RCPT TO:<b@example.net>", "421 4.3.0 ")
	c.want("EOF")

	for _, tt := range []struct {
		v    *Vendor
		want string
	}{{Gmail(), "452-4.5.3 Your message has too many recipients"}, {Exchange(), "452 4.5.3 Too many recipients"}} {
		tt.v.Recipients = 2
		c := signIn(t, tt.v, ann)
		c.ask("MAIL FROM:<ann@example.com>", "250 ")
		for _, want := range []string{"250 ", "250 ", tt.want} {
			c.ask("RCPT TO:<b@example.net>", want)
		}
		c.send("BDAT 3\r\na\r\nBDAT 0 LAST\r\n")
		c.want("250 ")
		c.want("250 2.0.0 OK ")
		if got := tt.v.Messages(); len(got) != 1 || len(got[0].To) != 2 || got[0].Data != "a\r\n" {
			t.Errorf("took %+v", got)
		}
	}
}

func TestVendorLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := Exchange()
		v.PerMinute, v.PerDay = 3, 12
		c, other := signIn(t, v, ann), signIn(t, v, "other@example.com")
		for range 3 {
			c.mail(ann, 2, "250 ")
			time.Sleep(time.Second)
		}
		c.mail(ann, 1, "432 4.3.2 STOREDRV")
		other.mail("other@example.com", 1, "250 ") // limits are per mailbox
		time.Sleep(57*time.Second - 1)             // the refused one does not count
		c.mail(ann, 1, "432 4.3.2 STOREDRV")
		time.Sleep(1)
		c.mail(ann, 3, "250 ")
		time.Sleep(time.Hour)
		c.mail(ann, 4, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException")
		c.mail(ann, 3, "250 ")
		c.mail(ann, 1, "554 5.2.0 ")
		time.Sleep(23 * time.Hour)
		c.mail(ann, 9, "250 ")
		c.mail(ann, 1, "554 5.2.0 ")

		v = Exchange()
		v.PerMinute, v.Slow = 2, time.Sleep
		begin := time.Now()
		done := make(chan struct{})
		for range 3 {
			c := signIn(t, v, ann)
			go func() {
				for range 2 {
					c.mail(ann, 1, "250 ")
				}
				done <- struct{}{}
			}()
		}
		for range 3 {
			<-done
		}
		if took := time.Since(begin); took != 2*time.Minute {
			t.Errorf("6 messages took %v", took)
		}

		g := Gmail()
		g.PerDay = 2
		c = signIn(t, g, ann)
		c.mail(ann, 9, "250 ")
		c.mail(ann, 9, "250 ")
		c.mail(ann, 1, "550-5.4.5 Daily user sending limit exceeded")
	})
}

func TestVendorConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := Exchange()
		var open []*client
		for range 4 {
			open = append(open, signIn(t, v, ann))
		}
		open[3].mail(ann, 1, "432 4.3.2 Concurrent connections limit exceeded")
		for _, c := range open[:3] {
			c.mail(ann, 1, "250 ")
		}
		signIn(t, v, "other@example.com").mail("other@example.com", 1, "250 ")
		open[1].ask("QUIT", "221 ")
		synctest.Wait()
		open[3].mail(ann, 1, "250 ")
		if v.MostSignedIn() != 4 || v.Sessions() != 5 {
			t.Errorf("%d signed in at once, %d sessions", v.MostSignedIn(), v.Sessions())
		}
	})
}

// TestVendorExpiry lets the token end while a session goes on.
func TestVendorExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := Gmail()
		end := time.Now().Add(time.Hour)
		v.Expires = func(string) time.Time { return end }
		c := signIn(t, v, ann)
		time.Sleep(time.Hour - 1)
		c.mail(ann, 1, "250 ")
		time.Sleep(1)
		c.ask("MAIL FROM:<ann@example.com>", "421 4.7.0 Session expired")
		c.want("EOF")
	})
}

// refuse refuses at one step.
func refuse(at, reply string) func(step, line string) string {
	return func(step, _ string) string {
		if step == at {
			return reply
		}
		return ""
	}
}
