package caddymodule

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestParseSendmail: the ways in which programs call sendmail.
func TestParseSendmail(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args string
		want sendmailCall
		err  string
	}{
		{"PHP", "-t -i", sendmailCall{headers: true, wholeInput: true}, ""},
		{"PHP with a sender", "-t -i -fweb@example.com", sendmailCall{headers: true, wholeInput: true, sender: "web@example.com"}, ""},
		{"together", "-ti", sendmailCall{headers: true, wholeInput: true}, ""},
		{"Debian's cron", "-FCronDaemon -i -B8BITMIME -oem root", sendmailCall{wholeInput: true, name: "CronDaemon", recipients: []string{"root"}}, ""},
		{"cronie", "-FCronDaemon -i -odi -oem -oi -t -f root", sendmailCall{headers: true, wholeInput: true, name: "CronDaemon", sender: "root"}, ""},
		{"git", "-i a@example.com b@example.com -f c@example.com", sendmailCall{wholeInput: true, sender: "c@example.com", recipients: []string{"a@example.com", "b@example.com"}}, ""},
		{"mdadm", "-t", sendmailCall{headers: true}, ""},
		{"mutt", "-oem -oi -f a@example.com -- b@example.com", sendmailCall{wholeInput: true, sender: "a@example.com", recipients: []string{"b@example.com"}}, ""},
		{"DSN", "-N success,failure -R hdrs -V id -O DeliveryMode=b -i a@example.com", sendmailCall{wholeInput: true, recipients: []string{"a@example.com"}}, ""},
		{"mode", "-bm -v a@example.com", sendmailCall{recipients: []string{"a@example.com"}}, ""},
		{"an address that looks like an option", "-i -- -x@example.com", sendmailCall{wholeInput: true, recipients: []string{"-x@example.com"}}, ""},
		{"a daemon", "-bd", sendmailCall{}, "-bd is not known"},
		{"SMTP", "-bs", sendmailCall{}, "-bs is not known"},
		{"unknown", "-Z", sendmailCall{}, "-Z is not known"},
		{"no value", "-t -f", sendmailCall{headers: true}, "-f wants a value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseSendmail(strings.Fields(tt.args))
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(sendmailCall{})); diff != "" && tt.err == "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestSendmail: programs that know sendmail alone send through the server, and keep
// their mail where it cannot be taken.
func TestSendmail(t *testing.T) {
	t.Parallel()
	sink := &mailertest.Sink{Keep: true}
	host, port := sink.Listen(t)
	p := startCaddy(t, tenantAt(net.JoinHostPort(host, fmt.Sprint(port)), "senders *@example.com"))
	p.managementToken()
	settings := filepath.Join(t.TempDir(), "sendmail.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "sendmail")
	if err := os.Symlink(os.Args[0], link); err != nil {
		t.Fatal(err)
	}
	const conf = "# of this machine\ndomain example.com\nalias root ops@example.net\n"
	sendmail := func(mail string, args ...string) ran {
		t.Helper()
		return p.runAs(link, []string{sendmailSettingsVariable + "=" + settings}, mail, args...)
	}
	for _, tt := range []struct {
		name, conf, mail, args string
		code                   int
		says                   string
		from                   string
		to                     []string
		has                    []string
	}{
		{
			name: "PHP", conf: conf, args: "-t -i",
			mail: "To: a@example.org, \"B, b\" <b@example.org>\nSubject: From a form\nBcc: c@example.org\nFrom: shop@example.com\n\nHello.\n.\nStill the same mail.\n",
			from: "shop@example.com", to: []string{"a@example.org", "b@example.org", "c@example.org"}, has: []string{"Still the same mail.", "Subject: From a form"},
		},
		{
			name: "Debian's cron", conf: conf, args: "-FCronDaemon -i -B8BITMIME -oem root",
			mail: "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> run\nContent-Type: text/plain; charset=UTF-8\n\nIt failed.\n",
			from: "root@example.com", to: []string{"ops@example.net"}, has: []string{"It failed.", "From: CronDaemon <root@example.com>"},
		},
		{
			name: "cronie, with the tenant's sender", conf: "alias root ops@example.net\n", args: "-FCronDaemon -i -odi -oem -oi -t -f root",
			mail: "To: root\nSubject: Cron\n\nIt failed.\n",
			from: "sender@example.com", to: []string{"ops@example.net"}, has: []string{"It failed."},
		},
		{
			name: "a dot ends it", conf: conf, args: "-f web@example.com x@example.org",
			mail: "From: web@example.com\nSubject: Dot\n\nFirst.\n.\nNever sent.\n",
			from: "web@example.com", to: []string{"x@example.org"}, has: []string{"First."},
		},
		{name: "an unknown local name", conf: "", mail: "Subject: x\n\nx\n", args: "-i nobody", code: exitNoUser, says: `Nobody is called "nobody"`},
		{name: "no recipient", conf: conf, mail: "Subject: x\n\nx\n", args: "-t", code: exitSysUsage, says: "no recipient"},
		{name: "no mail", conf: conf, mail: "", args: "-i root", code: exitDataErr, says: "no mail on the standard input"},
		{name: "a sender that is not allowed", conf: conf, mail: "From: a@elsewhere.example\nSubject: x\n\nx\n", args: "-i root", code: exitNoPerm, says: "may not send"},
		{name: "a tenant that is not there", conf: conf + "tenant nobody\n", mail: "From: a@example.com\n\nx\n", args: "-i root", code: exitConfig, says: "no tenant"},
		{name: "settings that are wrong", conf: "domian x\n", mail: "x", args: "-i root", code: exitConfig, says: "sendmail.conf:1"},
		{name: "an option that is not there", conf: conf, mail: "x", args: "-bs", code: exitSysUsage, says: "-bs is not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(tt.conf + "address " + p.admin + "\n")
			before := len(sink.Messages())
			r := sendmail(tt.mail, strings.Fields(tt.args)...)
			if r.code != tt.code || !strings.Contains(r.err, tt.says) || tt.code == 0 && r.out+r.err != "" {
				t.Fatalf("%+v, want code %d and %q", r, tt.code, tt.says)
			}
			got := sink.Messages()[before:]
			if tt.code != 0 {
				if len(got) != 0 {
					t.Errorf("%d mails were sent", len(got))
				}
				return
			}
			await(t, "the mail is there", func() bool { return len(sink.Messages()) == before+1 })
			m := sink.Messages()[before]
			if diff := cmp.Diff(tt.to, m.To); diff != "" || m.From != tt.from {
				t.Errorf("from %s, to -want +got:\n%s", m.From, diff)
			}
			for _, s := range tt.has {
				if !strings.Contains(m.Data, s) {
					t.Errorf("no %q in %s", s, m.Data)
				}
			}
			if strings.Contains(m.Data, "Bcc") || strings.Contains(m.Data, "Never sent") {
				t.Errorf("mail: %s", m.Data)
			}
		})
	}
	write(conf + "address " + p.admin + "\n")
	p.kill()
	if r := sendmail("From: a@example.com\n\nx\n", "-i", "root"); r.code != exitTempFail || !strings.Contains(r.err, "No Caddy answers") || !strings.Contains(r.err, "`admin off`") {
		t.Errorf("without the server: %+v", r)
	}
}

// TestSendmailByKey: who may not have the management token sends by the site, with an
// API key.
func TestSendmailByKey(t *testing.T) {
	t.Parallel()
	sink := &mailertest.Sink{Keep: true}
	host, port := sink.Listen(t)
	p := startCaddy(t, tenantAt(net.JoinHostPort(host, fmt.Sprint(port)), "senders *@example.com")+"tenant other {\nserver plaintext://"+host+":1\nauth none\nfrom other@example.com\n}\n")
	link := filepath.Join(t.TempDir(), "sendmail")
	if err := os.Symlink(os.Args[0], link); err != nil {
		t.Fatal(err)
	}
	settings, keyFile := filepath.Join(t.TempDir(), "sendmail.conf"), filepath.Join(t.TempDir(), "key")
	writeFile(t, keyFile, []byte(testKey+"\n"))
	site, key := "site "+p.URL+"\n", "key_file "+keyFile+"\n"
	moved := httptest.NewServer(http.RedirectHandler(p.URL+"/emails", http.StatusPermanentRedirect))
	t.Cleanup(moved.Close)
	const php = "To: a@example.org\nSubject: From a form\nBcc: c@example.org\nFrom: shop@example.com\n\nHello.\n"
	cron := []string{"-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"}
	for _, tt := range []struct {
		name, conf, env, mail string
		args                  []string
		code                  int
		says                  string
		from                  string
		to                    []string
		has                   string
	}{
		{
			name: "PHP", conf: site + key, mail: php, args: []string{"-t", "-i"},
			from: "shop@example.com", to: []string{"a@example.org", "c@example.org"}, has: "Subject: From a form",
		},
		{
			name: "PHP with a sender, and the key in the environment", conf: site, env: keyVariable + "=" + testKey, mail: php, args: []string{"-t", "-i", "-fbounces@example.com"},
			from: "bounces@example.com", to: []string{"a@example.org", "c@example.org"}, has: "From: shop@example.com",
		},
		{
			name: "cron, with the tenant's sender", conf: site + key + "alias root ops@example.net\n", args: cron,
			mail: "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> run\n\nIt failed.\n",
			from: "sender@example.com", to: []string{"ops@example.net"}, has: "It failed.",
		},
		{name: "its tenant by name", conf: site + key + "tenant default\n", mail: php, args: []string{"-t"}, from: "shop@example.com", to: []string{"a@example.org", "c@example.org"}},
		{name: "another tenant", conf: site + key + "tenant other\n", mail: php, args: []string{"-t"}, code: exitNoPerm, says: "may not use"},
		{name: "a wrong key", conf: site, env: keyVariable + "=wrong-key-canary", mail: php, args: []string{"-t"}, code: exitNoPerm, says: "API key"},
		{name: "no key", conf: site, mail: php, args: []string{"-t"}, code: exitNoPerm, says: "API key"},
		{name: "no file with a key", conf: site + "key_file " + keyFile + ".not\n", mail: php, args: []string{"-t"}, code: exitConfig, says: "key.not"},
		{name: "a file with something else", conf: site + "key_file " + settings + "\n", mail: php, args: []string{"-t"}, code: exitConfig, says: "is none"},
		{name: "a sender that is not allowed", conf: site + key, mail: strings.Replace(php, "shop@example.com", "a@elsewhere.example", 1), args: []string{"-t"}, code: exitNoPerm, says: "may not send"},
		{name: "an address that is none", conf: site + key, mail: php, args: []string{"-i", "--", "nobody@"}, code: exitDataErr},
		{name: "no send route", conf: "site " + p.URL + "/nothing\n" + key, mail: php, args: []string{"-t"}, code: exitConfig, says: "not as a send route"},
		{name: "a site that leads elsewhere", conf: "site " + moved.URL + "\n" + key, mail: php, args: []string{"-t"}, code: exitConfig, says: "HTTP 308"},
		{name: "a key in clear", conf: "site http://mail.example.com\n" + key, mail: php, args: []string{"-t"}, code: exitConfig, says: "https://"},
		{name: "no address", conf: "site mail.example.com\n" + key, mail: php, args: []string{"-t"}, code: exitConfig, says: "is no address"},
		{name: "a site that is away", conf: "site http://127.0.0.1:1\n" + key, mail: php, args: []string{"-t"}, code: exitTempFail, says: "No site answers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			writeFile(t, settings, []byte("# nobody is at this address\naddress 127.0.0.1:1\n"+tt.conf))
			env := []string{sendmailSettingsVariable + "=" + settings, keyFileVariable + "=", tt.env}
			before := len(sink.Messages())
			// As PHP does, by the shell.
			r := p.runAs("/bin/sh", env, tt.mail, "-c", link+" "+strings.Join(tt.args, " "))
			if r.code != tt.code || !strings.Contains(r.err, tt.says) || tt.code == 0 && r.out+r.err != "" || strings.Contains(r.out+r.err, "canary") || strings.Contains(r.out+r.err, testKey) {
				t.Fatalf("%+v, want code %d and %q", r, tt.code, tt.says)
			}
			if tt.code != 0 {
				if n := len(sink.Messages()) - before; n != 0 {
					t.Errorf("%d mails were sent", n)
				}
				return
			}
			await(t, "the mail is there", func() bool { return len(sink.Messages()) == before+1 })
			m := sink.Messages()[before]
			if diff := cmp.Diff(tt.to, m.To); diff != "" || m.From != tt.from || !strings.Contains(m.Data, tt.has) || strings.Contains(m.Data, "Bcc") {
				t.Errorf("from %s, to -want +got:\n%s\n%s", m.From, diff, m.Data)
			}
		})
	}
}
