//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recipe is the next block of code behind a text in docs/listener.md, with the
// reader's own values in the place of the documentation's, which all have to be there.
func recipe(t testing.TB, behind string, values ...string) string {
	t.Helper()
	docs, err := os.ReadFile("../../docs/listener.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(docs), "\n"+behind)
	_, rest, open := strings.Cut(rest, "\n```")
	_, rest, _ = strings.Cut(rest, "\n") // the language
	text, _, closed := strings.Cut(rest, "\n```")
	if !found || !open || !closed {
		t.Fatalf("docs/listener.md has no block of code behind %q", behind)
	}
	for i := 0; i < len(values); i += 2 {
		if !strings.Contains(text, values[i]) {
			t.Fatalf("the recipe behind %q has no %q", behind, values[i])
		}
		text = strings.ReplaceAll(text, values[i], values[i+1])
	}
	return text + "\n"
}

// section is a recipe of the Caddyfile that begins with a word.
func section(t testing.TB, text, word string) string {
	t.Helper()
	_, rest, ok := strings.Cut("\n"+text, "\n"+word+" ")
	rest, _, closed := strings.Cut(rest, "\n}")
	if !ok || !closed {
		t.Fatalf("there is no %q in:\n%s", word, text)
	}
	return word + " " + rest + "\n}\n"
}

// The recipes of docs/listener.md do what they say: their programs run with the very
// text, but for the reader's own values.
func TestRecipes(t *testing.T) {
	t.Parallel()
	e := newEntrances(t, onPostfix)
	e.user = "alerts"
	modern, old := reservePort(t), reservePort(t)
	printers := section(t, recipe(t, "This in the Caddyfile:",
		":587 :465", fmt.Sprintf("127.0.0.1:%d", modern), "smtp.example.com", "localhost", "tenant default", "tenant "+onPostfix,
		"{env.COPIER_PASSWORD_HASH}", operatorHash, "noreply@contoso.com", "noreply@example.com"), "smtp") +
		recipe(t, "| knows servers by", // the last row above it
			"10.0.5.1:587", fmt.Sprintf("127.0.0.1:%d", old), "smtp.example.com", "localhost", "tenant default", "tenant "+onPostfix,
			"{env.OLD_COPIER_PASSWORD_HASH}", operatorHash, "10.0.5.0/24", "127.0.0.0/24", "10.0.5.17 10.0.5.18", "127.0.1.17 127.0.1.18",
			"noreply@contoso.com", "noreply@example.com", "alarms@contoso.com", "alarms@example.com")
	s := Start(t, Options{Outbox: true, Lines: e.lines() + printers})
	s.SignIn(t)
	e.trust(t, s)
	at, port := fmt.Sprintf("localhost:%d", e.ports[startTLS]), fmt.Sprint(e.ports[startTLS])
	file := func(t *testing.T, name, text string) string {
		t.Helper()
		name = filepath.Join(s.dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	secret := file(t, "smtp_password", e.password+"\n")
	// check looks at what arrived, and at how it came.
	check := func(t *testing.T, to, from, subject, text string) {
		t.Helper()
		got := s.mailbox.findTo(t, to)
		r := read(t, readers[0].argv, []string{got.File})[0]
		if got.From != from || len(r.From) != 1 || r.From[0][1] != from || !strings.Contains(r.Subject, subject) || !strings.Contains(r.Text+r.HTML, text) {
			t.Errorf("from %s: %+v", got.From, r)
		}
	}
	t.Run("run", func(t *testing.T) {
		t.Run("printers", func(t *testing.T) {
			t.Parallel()
			scan := file(t, "scan.txt", "From: Scanner <scanner@copier.local>\nTo: %TO_ADDRESS%\nSubject: scan\n\nOne page.\n")
			swaks := func(port int, to string, more ...string) []string {
				return append([]string{"/usr/bin/swaks", "--server", "127.0.0.1", "--port", fmt.Sprint(port), "--from", "scanner@copier.local", "--to", to, "--data", "@" + scan}, more...)
			}
			runProgram(t, swaks(modern, "copier@example.net", "--tls", "--tls-verify", "--tls-ca-path", e.ca, "--auth", "LOGIN", "--auth-user", "Copier-2F", "--auth-password", operatorPassword), "")
			check(t, "copier@example.net", "noreply@example.com", "scan", "One page.")
			runProgram(t, swaks(old, "old-copier@example.net", "--auth", "LOGIN", "--auth-user", "old-copier", "--auth-password", operatorPassword), "")
			check(t, "old-copier@example.net", "noreply@example.com", "scan", "One page.")
			runProgram(t, swaks(old, "alarm@example.net", "--local-interface", "127.0.1.17"), "")
			check(t, "alarm@example.net", "alarms@example.com", "scan", "One page.")
			refused := swaks(old, "nobody@example.net", "--local-interface", "127.0.1.19")
			if out, err := exec.Command(refused[0], refused[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "530 5.7.0") {
				t.Errorf("a device of no network: %v\n%s", err, out)
			}
		})
		t.Run("msmtp", func(t *testing.T) {
			t.Parallel()
			config := file(t, "msmtprc", recipe(t, "msmtp (", "smtp.example.com", "localhost", "587", port, "/etc/msmtp-password", secret, "contoso.com", "example.com")+
				"tls_trust_file "+e.ca+"\ndomain recipe-msmtp\n")
			message := file(t, "msmtp.txt", "To: msmtp@example.net\nSubject: from cron\n\nIt is done.\n")
			runProgram(t, []string{"/usr/bin/msmtp", "--file=" + config, "-t"}, message)
			check(t, "msmtp@example.net", "alerts@example.com", "from cron", "It is done.")
			runProgram(t, []string{
				"/usr/bin/php", "-d", "sendmail_path=/usr/bin/msmtp --file=" + config + " -t",
				"-r", `exit(mail("php@example.net", "from PHP", "One line.\n") ? 0 : 1);`,
			}, "")
			check(t, "php@example.net", "alerts@example.com", "from PHP", "One line.")
		})
		t.Run("Postfix", func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(s.dir, "host")
			trust := filepath.Join(s.dir, "certs")
			if err := os.Mkdir(trust, 0o755); err != nil { // read by Postfix's own user
				t.Fatal(err)
			}
			runProgram(t, []string{"/bin/cp", e.ca, trust}, "")
			runProgram(t, []string{"/usr/bin/openssl", "rehash", trust}, "")
			passwords := filepath.Join(s.dir, "sasl_passwd")
			file(t, "sasl_passwd", recipe(t, "Postfix, ", "smtp.example.com", "localhost", "587", port, "alerts:password", "alerts:"+e.password))
			lines := recipe(t, "and in `main.cf`", "smtp.example.com", "localhost", "587", port, "/etc/postfix/sasl_passwd", passwords, "/etc/ssl/certs", trust)
			h := startSmarthost(t, dir, lines+"smtp_helo_name = recipe-postfix\n", "", nil)
			runProgram(t, []string{"/usr/sbin/postmap", "-c", h.config, passwords}, "")
			message := file(t, "postfix.txt", "From: root@example.com\nTo: postfix@example.net\nSubject: disk\n\nIt is full.\n")
			runProgram(t, []string{"/usr/sbin/sendmail", "-C", h.config, "-f", "root@example.com", "-t"}, message)
			check(t, "postfix@example.net", "root@example.com", "disk", "It is full.")
		})
		t.Run("Alertmanager", func(t *testing.T) {
			t.Parallel()
			config := file(t, "alertmanager.yml", recipe(t, "Alertmanager:", "smtp.example.com:587", at, "/run/secrets/smtp_password", secret, "contoso.com", "example.com")+
				"  smtp_hello: recipe-alertmanager\nroute: {receiver: people, group_wait: 0s}\nreceivers: [{name: people, email_configs: [{to: alertmanager@example.net}]}]\n")
			port := reservePort(t)
			a := &server{
				name: "Alertmanager",
				argv: []string{
					program("alertmanager", "alertmanager/usr/bin/prometheus-alertmanager"), "--config.file=" + config, "--storage.path=" + filepath.Join(s.dir, "alertmanager"),
					fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port), "--cluster.listen-address=",
				},
				env: []string{"SSL_CERT_FILE=" + e.ca}, ready: listens(port),
			}
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the end of Alertmanager's log:\n%s", a.output.tail())
				}
			})
			t.Cleanup(a.stop)
			a.start(t)
			alert := `[{"labels": {"alertname": "DiskFull", "host": "db1"}, "annotations": {"summary": "No space is left."}}]`
			eventually(t, time.Minute, "Alertmanager takes the alert", func() bool { // it listens before it does
				answer, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/api/v2/alerts", port), "application/json", strings.NewReader(alert))
				if err != nil {
					return false
				}
				answer.Body.Close()
				return answer.StatusCode == http.StatusOK
			})
			check(t, "alertmanager@example.net", "alerts@example.com", "DiskFull", "No space is left.")
		})
		t.Run("WordPress", func(t *testing.T) {
			t.Parallel()
			content := filepath.Join(s.dir, "wp-content")
			if err := os.MkdirAll(filepath.Join(content, "mu-plugins"), 0o700); err != nil {
				t.Fatal(err)
			}
			file(t, "wp-content/mu-plugins/mail.php", recipe(t, "WordPress (", "smtp.example.com", "localhost", "587", port, "contoso.com", "example.com")+
				"add_action( 'phpmailer_init', function ( $mail ) { $mail->Helo = 'recipe-wordpress'; } );\n")
			core, err := filepath.Abs("wordpress/usr/share/wordpress")
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/usr/bin/php", "-d", "openssl.cafile="+e.ca, "wordpress.php", "wordpress@example.net", "Neue Bestellung №5", "Grüße vom Laden.")
			cmd.Env = append(os.Environ(), "WP_CORE="+core+"/", "WP_CONTENT="+content, "SMTP_PASSWORD="+e.password)
			if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Fatalf("WordPress: %v: %s", err, out)
			}
			check(t, "wordpress@example.net", "shop@example.com", "Neue Bestellung №5", "Grüße vom Laden.")
		})
	})
	devices := s.devices(t)
	for _, name := range []string{"msmtp", "postfix", "alertmanager", "wordpress"} {
		want := 1
		if name == "msmtp" {
			want = 2 // one of PHP
		}
		if d := devices["recipe-"+name]; d.Name != "alerts" || d.TLS != "TLS 1.3" || d.Mechanism == "" || d.Messages != want {
			t.Errorf("%s came in another way: %+v", name, d)
		}
	}
}
