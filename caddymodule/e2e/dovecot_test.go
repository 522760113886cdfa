//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dovecot decides for Postfix and Exim who may sign in (SASL): by asking the
// authorization server about tokens (RFC 7662), or by a password.
type dovecot struct {
	server
	// socket is where mail servers ask.
	socket string
}

const dovecotConf = `
protocols =
base_dir = %[1]s/run
state_dir = %[1]s/state
instance_name = %[2]s
log_path = /dev/stderr
ssl = no
listen = 127.0.0.1
auth_debug = no
auth_verbose = yes
auth_mechanisms = xoauth2 oauthbearer plain login
auth_failure_delay = 0 secs
disable_plaintext_auth = no
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = %[1]s/oauth2.conf
}
passdb {
  driver = passwd-file
  mechanisms = plain login
  args = scheme=PLAIN username_format=%%u %[1]s/passwd
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
service auth {
  unix_listener %[1]s/sasl {
    mode = 0666
  }
}
# No pause after a refusal: all clients have one address here.
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
`

const dovecotOAuth2 = `
introspection_mode = post
introspection_url = %s
username_attribute = username
active_attribute = active
active_value = true
timeout_msecs = 3000
`

func startDovecot(t testing.TB, dir string, introspection *url.URL, secret, user, password string) *dovecot {
	t.Helper()
	dir = filepath.Join(dir, "dovecot")
	if err := os.Mkdir(dir, 0o755); err != nil { // its own users pass through
		t.Fatal(err)
	}
	with := *introspection
	with.User = url.UserPassword("mailserver", secret)
	files := map[string]string{
		"dovecot.conf": fmt.Sprintf(dovecotConf, dir, filepath.Base(filepath.Dir(dir))),
		"oauth2.conf":  fmt.Sprintf(dovecotOAuth2, with.String()),
		"passwd":       user + ":" + password + "\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil { // read by its own users
			t.Fatal(err)
		}
	}
	d := &dovecot{socket: filepath.Join(dir, "sasl")}
	d.name = "Dovecot"
	d.argv = []string{program("dovecot", "/usr/sbin/dovecot"), "-F", "-c", filepath.Join(dir, "dovecot.conf")}
	d.ready = func(string) bool { return d.offers("OAUTHBEARER") }
	t.Cleanup(d.stop)
	d.start(t)
	return d
}

// stop also removes the socket, so that starting again waits for a new one.
func (d *dovecot) stop() {
	d.server.stop()
	_ = os.Remove(d.socket)
}

// offers reports whether Dovecot answers and knows a mechanism. That the socket
// is there shows nothing: the process behind it starts with the first question.
func (d *dovecot) offers(mechanism string) bool {
	c, err := net.DialTimeout("unix", d.socket, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintf(c, "VERSION\t1\t1\nCPID\t%d\n", os.Getpid())
	for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != "DONE"; {
		if strings.HasPrefix(lines.Text(), "MECH\t"+mechanism) {
			return true
		}
	}
	return false
}
