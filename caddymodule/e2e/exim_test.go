//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
daemon_smtp_ports = %[2]d : %[3]d
tls_on_connect_ports = %[3]d
local_interfaces = 127.0.0.1
tls_advertise_hosts = *
tls_certificate = %[4]s
tls_privatekey = %[5]s
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
message_size_limit = 60M
recipients_max = 200
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
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
rcpt:
  accept authenticated = *
  deny message = sign in first

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
  server_socket = %[7]s
  server_set_id = $auth1
oauthbearer:
  driver = dovecot
  public_name = OAUTHBEARER
  server_socket = %[7]s
  server_set_id = $auth1
plain:
  driver = dovecot
  public_name = PLAIN
  server_socket = %[7]s
  server_set_id = $auth1
`

func startExim(t testing.TB, dir string, a *authority, m *mailbox, sasl *dovecot) *exim {
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
	text := fmt.Sprintf(eximConf, dir, e.starttlsPort, e.implicitPort, a.certFile, a.keyFile, m.Port, sasl.socket, binary)
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
