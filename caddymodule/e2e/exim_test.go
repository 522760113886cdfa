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

// exim is Exim, which asks the same Dovecot about tokens.
type exim struct {
	server
	starttlsPort, implicitPort int
}

const eximConf = `
exim_path = %[8]s
exim_user = Debian-exim
exim_group = Debian-exim
primary_hostname = mx.example.net
spool_directory = %[1]s/spool
log_file_path = %[1]s/log/%%slog
pid_file_path = %[1]s/exim.pid
daemon_smtp_ports = %[2]d : %[3]d%[9]s
tls_on_connect_ports = %[3]d%[10]s
local_interfaces = 127.0.0.1
tls_advertise_hosts = *
tls_certificate = %[4]s
tls_privatekey = %[5]s
auth_advertise_hosts = ${if inlist{$received_port}{%[11]s}{}{${if or{{!eq{$tls_in_cipher}{}}{inlist{$received_port}{%[12]s}}}{*}{}}}}
pipelining_advertise_hosts = ${if inlist{$received_port}{%[13]s}{}{*}}
chunking_advertise_hosts = ${if inlist{$received_port}{%[14]s}{}{*}}
dsn_advertise_hosts = *
log_selector = +smtp_connection +incoming_interface +smtp_protocol_error
message_size_limit = 60M
recipients_max = 200
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_mail = mail
acl_smtp_predata = predata
acl_smtp_data = data
qualify_domain = example.net
never_users =
deliver_drop_privilege
prod_requires_admin = false
queue_only = false
smtp_accept_max_per_host = 0
smtp_accept_queue_per_connection = 0
host_lookup =
rfc1413_hosts =
keep_environment =

begin acl
mail:
  deny message = 553 5.7.1 Not your address
    senders = refused@example.com
  accept
rcpt:
  deny message = 553 5.7.1 Not your address
    senders = late@example.com
  deny message = 550 5.1.1 No such user
    recipients = refused@example.net
  defer message = 450 4.2.1 Not now
    recipients = later@example.net
  accept authenticated = *
  accept condition = ${if inlist{$received_port}{%[11]s}}
  deny message = sign in first
predata:
  deny message = 554 5.7.1 No content from you
    senders = nodata@example.com
  accept
data:
  deny message = 554 5.6.0 Not this
    condition = ${if def:h_X-Refuse:}
  accept

begin routers
all:
  driver = manualroute
  domains = *
  transport = mailbox
  route_list = * 127.0.0.1
  self = send

begin transports
mailbox:
  driver = smtp
  protocol = lmtp
  port = %[6]d
  allow_localhost
  hosts_avoid_tls = *
  hosts_avoid_pipelining = *
  max_rcpt = 0

begin authenticators
xoauth2:
  driver = dovecot
  public_name = XOAUTH2
  server_advertise_condition = ${if inlist{$received_port}{%[15]s}{no}{yes}}
  server_socket = %[7]s
  server_set_id = $auth1
oauthbearer:
  driver = dovecot
  public_name = OAUTHBEARER
  server_advertise_condition = ${if inlist{$received_port}{%[15]s}{no}{yes}}
  server_socket = %[7]s
  server_set_id = $auth1
plain:
  driver = dovecot
  public_name = PLAIN
  server_advertise_condition = ${if inlist{$received_port}{%[15]s}{no}{yes}}
  server_socket = %[7]s
  server_set_id = $auth1
login:
  driver = dovecot
  public_name = LOGIN
  server_socket = %[7]s
  server_set_id = $auth1
`

func startExim(t testing.TB, dir string, a *authority, m *mailbox, sasl *dovecot, doors ...*door) *exim {
	t.Helper()
	dir = filepath.Join(dir, "exim")
	e := &exim{starttlsPort: reservePort(t), implicitPort: reservePort(t)}
	for _, d := range []string{"", "spool", "log"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil { // its own user passes through
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "-R", "Debian-exim:", dir).CombinedOutput(); err != nil {
		t.Fatalf("Exim is missing or broken: it has no user: %v: %s", err, out)
	}
	conf := filepath.Join(dir, "exim.conf")
	binary, err := filepath.Abs("exim/usr/sbin/exim4")
	if err != nil {
		t.Fatal(err)
	}
	ports := func(is func(*door) bool) string { return portsOf(doors, is) }
	more := func(ports string) string {
		if ports == "" {
			return ""
		}
		return " : " + strings.ReplaceAll(ports, ":", " : ")
	}
	text := fmt.Sprintf(eximConf, dir, e.starttlsPort, e.implicitPort, a.certFile, a.keyFile, m.Port, sasl.socket, binary,
		more(ports(func(*door) bool { return true })),
		more(ports(func(d *door) bool { return d.security == mailer.ImplicitTLS })),
		ports(func(d *door) bool { return d.open }),
		ports(func(d *door) bool { return d.security == mailer.Plaintext }),
		ports(func(d *door) bool { return !d.pipelining }),
		ports(func(d *door) bool { return !d.chunking }),
		ports(func(d *door) bool { return d.loginOnly }))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil { // read by its own user
		t.Fatal(err)
	}
	e.name = "Exim"
	e.argv = []string{program("exim", binary), "-C", conf, "-bdf", "-q1m"}
	e.ready = listens(e.starttlsPort, e.implicitPort)
	t.Cleanup(e.stop)
	e.start(t)
	return e
}

func (e *exim) ports() (starttls, implicit int) { return e.starttlsPort, e.implicitPort }

func (e *exim) log() string {
	text := e.output.String()
	for _, name := range []string{"mainlog", "rejectlog", "paniclog"} {
		content, err := os.ReadFile(filepath.Join(filepath.Dir(e.argv[2]), "log", name))
		if err == nil {
			text += name + ":\n" + string(content)
		}
	}
	return text
}

func (e *exim) connections(d *door) int {
	return countLines(e.log(), "SMTP connection from", fmt.Sprintf("I=[127.0.0.1]:%d ", d.port), "connection count")
}
