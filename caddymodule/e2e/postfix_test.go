//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// mailServer is a mail server under test. All of them hand everything on to the
// test's mailbox, which nobody but a signed-in user can reach.
type mailServer interface {
	// ports returns where it serves SMTP with STARTTLS, and with TLS from the
	// start.
	ports() (starttls, implicit int)
	start(t testing.TB)
	stop()
	// log is what it has said so far.
	log() string
	// connections is how many clients have come in by a door.
	connections(d *door) int
}

// postfix is an instance of Postfix with a folder of its own.
type postfix struct {
	server
	starttlsPort, implicitPort int
}

// postfixBase is what all of them have in main.cf, each in a folder of its own.
const postfixBase = `
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = /dev/stdout
mail_owner = postfix
setgid_group = postdrop
mydestination =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
biff = no
`

const postfixMain = postfixBase + `
myhostname = mx.example.net
mynetworks =
default_transport = lmtp:inet:127.0.0.1:%[2]d
lmtp_destination_recipient_limit = 200
default_destination_concurrency_limit = 10
message_size_limit = 62914560
mailbox_size_limit = 0
smtputf8_enable = yes
strict_smtputf8 = yes
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = %[3]s
smtpd_tls_key_file = %[4]s
smtp_tls_security_level = none
lmtp_tls_security_level = none
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = %[5]s
smtpd_sasl_security_options = noanonymous
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
smtpd_timeout = %[6]s
smtpd_forbid_bare_newline = reject
header_checks = regexp:%[7]s
`

// strictly is a service that minds pipelining wherever Postfix can, at once, and
// loses patience soon.
const strictly = `
  -o smtpd_forbid_unauth_pipelining=yes
  -o smtpd_delay_reject=no
  -o smtpd_soft_error_limit=8
  -o smtpd_hard_error_limit=%[1]d
  -o smtpd_junk_command_limit=4
  -o smtpd_client_restrictions=reject_unauth_pipelining
  -o smtpd_helo_restrictions=reject_unauth_pipelining
  -o { smtpd_sender_restrictions = reject_unauth_pipelining, check_sender_access inline:{{refused@example.com=553 5.7.1 Not your address}} }
  -o { smtpd_relay_restrictions = %[2]s }
  -o { smtpd_recipient_restrictions = reject_unauth_pipelining,
    check_sender_access inline:{{late@example.com=553 5.7.1 Not your address}},
    check_recipient_access inline:{{refused@example.net=550 5.1.1 No such user} {later@example.net=450 4.2.1 Not now}},
    %[2]s }
  -o { smtpd_data_restrictions = reject_unauth_pipelining, check_sender_access inline:{{nodata@example.com=554 5.7.1 No content from you}} }
  -o smtpd_end_of_data_restrictions=reject_unauth_pipelining
`

// service is the line of master.cf for a door.
func (d *door) service() string {
	may, most := "permit_sasl_authenticated, reject", 9
	if d.open {
		may = "permit_mynetworks, reject"
	}
	if d.impatient {
		most = 4
	}
	s := fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd\n  -o syslog_name=postfix/%s", d.port, d.name) + fmt.Sprintf(strictly, most, may)
	switch d.security {
	case mailer.ImplicitTLS:
		s += "  -o smtpd_tls_wrappermode=yes\n"
	case mailer.Plaintext:
		s += "  -o smtpd_tls_security_level=none\n  -o smtpd_tls_auth_only=no\n"
	case mailer.StartTLS:
	}
	if d.open {
		s += "  -o smtpd_sasl_auth_enable=no\n  -o mynetworks=127.0.0.0/8\n"
	}
	if d.loginOnly {
		s += "  -o smtpd_sasl_mechanism_filter=login\n"
	}
	hidden := []string{"silent-discard"}
	if !d.pipelining {
		hidden = append(hidden, "pipelining")
	}
	if !d.chunking {
		hidden = append(hidden, "chunking")
	}
	return s + "  -o smtpd_discard_ehlo_keywords=" + strings.Join(hidden, ",") + "\n"
}

const postfixMaster = `
127.0.0.1:%[1]d inet n - n - - smtpd
127.0.0.1:%[2]d inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
`

// postfixInside are the services that every Postfix needs.
const postfixInside = `
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
lmtp      unix  - - n - - lmtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
`

// startPostfix starts Postfix. idle is after how long it closes a connection on
// which nothing happens, in its own notation.
func startPostfix(t testing.TB, dir string, a *authority, m *mailbox, sasl *dovecot, idle string, doors ...*door) *postfix {
	t.Helper()
	dir = filepath.Join(dir, "postfix")
	p := &postfix{starttlsPort: reservePort(t), implicitPort: reservePort(t)}
	config := filepath.Join(dir, "config")
	files := map[string]string{
		"main.cf":       fmt.Sprintf(postfixMain, dir, m.Port, a.certFile, a.keyFile, sasl.socket, idle, filepath.Join(config, "header_checks")),
		"master.cf":     fmt.Sprintf(postfixMaster, p.starttlsPort, p.implicitPort) + strings.TrimLeft(postfixInside, "\n"),
		"header_checks": "/^X-Refuse:/ REJECT 5.6.0 Not this\n",
	}
	for _, d := range doors {
		files["master.cf"] += d.service()
	}
	p.name = "Postfix"
	p.ready = listens(p.starttlsPort, p.implicitPort)
	p.startIn(t, dir, files)
	return p
}

// startIn starts an instance of Postfix that has a folder of its own, with the files
// of its configuration.
func (s *server) startIn(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for _, d := range []string{"", "queue", "data", "config"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil { // its own users pass through
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "postfix:", filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("%s is missing or broken: it has no user: %v: %s", s.name, err, out)
	}
	config := filepath.Join(dir, "config")
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(config, name), []byte(strings.TrimLeft(content, "\n")), 0o644); err != nil { // read by its own users
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(program("postfix", "/usr/sbin/postfix"), "-c", config, "check").CombinedOutput(); err != nil { // makes the queue's folders
		t.Fatalf("%s is missing or broken: %v: %s", s.name, err, out)
	}
	// Without the script that usually starts it, to be its parent: signals reach it
	// and, through it, all that it has started.
	s.argv = []string{"/usr/lib/postfix/sbin/master", "-c", config, "-s"}
	s.leads = true
	t.Cleanup(s.stop)
	s.start(t)
}

func (p *postfix) ports() (starttls, implicit int) { return p.starttlsPort, p.implicitPort }
func (p *postfix) log() string                     { return p.output.String() }

func (p *postfix) connections(d *door) int {
	return countLines(p.log(), "postfix/"+d.name+"/smtpd[", "]: connect from")
}
