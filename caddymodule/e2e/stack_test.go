//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The mail servers that a Stack can have.
const (
	onPostfix    = "postfix"
	onExim       = "exim"
	onSMTPServer = "smtp-server"
)

// Options say what a Stack is to be like.
type Options struct {
	// Servers are the mail servers; none means Postfix.
	Servers []string
	// TokenLife is how long access tokens live; zero means an hour.
	TokenLife time.Duration
	// TokenBits is the randomness of tokens; zero means oidc-provider's own
	// choice, 43 characters.
	TokenBits int
	// Idle is after how long Postfix closes an idle connection; empty means its
	// own choice, five minutes.
	Idle string
	// Tapped puts a tap before each mail server.
	Tapped bool
	// Apps adds tenants that send without a person's sign-in; see [apps].
	Apps bool
	// Outbox keeps messages until they are sent. Without it answers tell at once how
	// the mail server took them.
	Outbox bool
	// Tenants are more tenants by their names, each with what its block in the Caddyfile
	// says. Each has a key.
	Tenants map[string]string
	// Lines are put into the app's block, and Global beside it.
	Lines, Global string
}

// Stack is one Caddy with all that it needs. It has these tenants for each mail
// server, each with an API key:
//
//	<server>              XOAUTH2 over STARTTLS
//	<server>-oauthbearer  OAUTHBEARER over implicit TLS (not smtp-server)
//	<server>-password     PLAIN over STARTTLS
type Stack struct {
	// URL is where Caddy's site is, without a slash at the end.
	URL string
	// SendURL is where a site is that has the send route and nothing else.
	SendURL string
	// AdminURL is where Caddy's own administration is.
	AdminURL string

	dir       string
	user      string // the mailbox that signs in
	authority *authority
	proxy     *proxy
	idp       *server
	dovecot   *dovecot
	mail      map[string]mailServer
	taps      map[string]*tap // by tenant
	mailbox   *mailbox
	caddy     *server
	keys      map[string]string // by tenant
	// clientSecret and password are in Caddy's environment.
	clientSecret, password string
	apps                   *apps // nil without
	caddyfile              string
	// answers and pages are what clients have been shown.
	answers, pages []string
}

const site = `{
	admin %[1]s
	persist_config off
	storage file_system %[2]s/storage
	skip_install_trust
%[7]s
	log {
		level DEBUG
	}
	oauth_mail {
		redirect_base %[3]s/oauth/callback
		provider idp {
			display_name "The provider"
			issuer %[4]s
			client_id mailer
			client_secret {env.E2E_CLIENT_SECRET}
			client_secret_expires 2099-12-31
			client_auth basic
			scopes openid email offline_access smtp.send
			servers localhost
			device_code
		}
%[5]s
	}
}
%[3]s {
	log
	@send path /emails /emails/*
	oauth_mail @send send
	oauth_mail /oauth/* callback
	handle_path /prefix/* {
		oauth_mail send
	}
	handle_path /admin/* {
		basic_auth {
			ops %[8]s
		}
		oauth_mail admin {
			role admin ops
		}
	}
	respond 404
}
%[6]s {
	oauth_mail send
}
`

// The operator of the site above.
const (
	operator         = "ops"
	operatorPassword = "operator-password"
	operatorHash     = "$2a$04$0Cir8j4ndXT4sZOEfTay1OCpv.6q67K/wbd9Fr3sCX62JUKlFGdjy"
)

// Start starts a Stack. It ends with the test.
func Start(t testing.TB, o Options) *Stack {
	t.Helper()
	dir, err := os.MkdirTemp(suiteDir, "")
	if err == nil {
		err = os.Chmod(dir, 0o755) // see suiteDir
	}
	if err != nil {
		t.Fatal(err)
	}
	// Characters that every way of encoding has to deal with.
	s := &Stack{
		dir: dir, user: "sender@example.com", mail: map[string]mailServer{}, taps: map[string]*tap{}, keys: map[string]string{},
		clientSecret: "canary+client/secret=%&: " + rand.Text(), password: "canary-password-" + rand.Text(),
		authority: newAuthority(t, dir), mailbox: newMailbox(t, dir),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Caddy's log:\n%s", s.tail())
			for name, m := range s.mail {
				t.Logf("the end of the log of %s:\n%s", name, tail(m.log()))
			}
			if s.dovecot != nil {
				t.Logf("the end of Dovecot's log:\n%s", s.dovecot.output.tail())
			}
			if s.idp != nil {
				t.Logf("the end of oidc-provider's log:\n%s", s.idp.output.tail())
			}
		}
	})
	s.URL = fmt.Sprintf("http://localhost:%d", reservePort(t))
	s.SendURL = fmt.Sprintf("http://localhost:%d", reservePort(t))
	s.AdminURL = fmt.Sprintf("http://localhost:%d", reservePort(t))
	introspectionSecret := "introspection-" + rand.Text()
	if o.Apps {
		s.apps = newApps(t, dir)
	}
	s.startProvider(t, o, introspectionSecret)
	introspection := s.proxy.URL.JoinPath("/token/introspection")

	servers := o.Servers
	if len(servers) == 0 {
		servers = []string{onPostfix}
	}
	idle := o.Idle
	if idle == "" {
		idle = "300s"
	}
	const passwordUser = "relay-user"
	var tenants strings.Builder
	env := []string{"E2E_CLIENT_SECRET=" + s.clientSecret, "E2E_PASSWORD=" + s.password, "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	for _, name := range servers {
		if name != onSMTPServer && s.dovecot == nil {
			s.dovecot = startDovecot(t, dir, introspection, introspectionSecret, passwordUser, s.password)
		}
		switch name {
		case onPostfix:
			s.mail[name] = startPostfix(t, dir, s.authority, s.mailbox, s.dovecot, idle)
		case onExim:
			s.mail[name] = startExim(t, dir, s.authority, s.mailbox, s.dovecot)
		case onSMTPServer:
			s.mail[name] = startSMTPServer(t, dir, s.authority, s.mailbox, introspection.String(), introspectionSecret, passwordUser, s.password)
		default:
			t.Fatalf("no mail server %q", name)
		}
		starttls, implicit := s.mail[name].ports()
		for _, kind := range []struct{ name, auth, scheme string }{
			{name, "auth oauth idp xoauth2", ""},
			{name + "-oauthbearer", "auth oauth idp oauthbearer", "smtps://"},
			{name + "-password", "auth password " + passwordUser + " {env.E2E_PASSWORD}", ""},
		} {
			if name == onSMTPServer && strings.HasSuffix(kind.name, "oauthbearer") {
				continue // it does not know it
			}
			port := starttls
			if kind.scheme != "" {
				port = implicit
			}
			if o.Tapped {
				s.taps[kind.name] = newTap(t, s.authority, port, kind.scheme != "")
				port = s.taps[kind.name].port
			}
			user := ""
			if strings.Contains(kind.auth, "oauth ") {
				user = "user " + s.user
			}
			variable := fmt.Sprintf("E2E_KEY_%d", len(s.keys))
			s.keys[kind.name] = "canary-key-" + rand.Text()
			env = append(env, variable+"="+s.keys[kind.name])
			fmt.Fprintf(&tenants, `
		tenant %[1]s {
			server %[2]slocalhost:%[3]d
			%[4]s
			%[5]s
			from "The Sender" <%[6]s>
			senders *@example.com
			ca_file %[7]s
		}
		key %[1]s {env.%[8]s} %[1]s
`, kind.name, kind.scheme, port, kind.auth, user, s.user, s.authority.caFile, variable)
		}
	}
	for name, settings := range o.Tenants {
		variable := fmt.Sprintf("E2E_KEY_%d", len(s.keys))
		s.keys[name] = "canary-key-" + rand.Text()
		env = append(env, variable+"="+s.keys[name])
		fmt.Fprintf(&tenants, "tenant %[1]s {\n%[2]s\n}\nkey %[1]s {env.%[3]s} %[1]s\n", name, settings, variable)
	}
	if s.apps != nil {
		starttls, _ := s.mail[servers[0]].ports()
		tenants.WriteString(s.apps.config(t, s, starttls))
		for _, name := range appTenants {
			s.keys[name] = "canary-key-" + rand.Text()
			env = append(env, "E2E_KEY_"+name+"="+s.keys[name])
		}
	}
	if !o.Outbox {
		tenants.WriteString("outbox off\n")
	}
	tenants.WriteString(o.Lines)
	s.startCaddy(t, fmt.Sprintf(site, strings.TrimPrefix(s.AdminURL, "http://"), dir, s.URL, s.proxy.URL, tenants.String(), s.SendURL, o.Global, operatorHash), env)
	return s
}

// startCaddy starts Caddy with a Caddyfile and variables.
func (s *Stack) startCaddy(t testing.TB, text string, env []string) {
	t.Helper()
	s.caddyfile = filepath.Join(s.dir, "Caddyfile")
	if err := os.WriteFile(s.caddyfile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.caddy = &server{
		name: "Caddy", argv: []string{caddyBinary, "run", "--config", s.caddyfile, "--adapter", "caddyfile"}, env: env,
		ready: says("serving initial configuration"),
	}
	t.Cleanup(func() {
		s.caddy.stop()
		if _, race, found := strings.Cut(s.log(), "WARNING: DATA RACE"); found {
			t.Errorf("the race detector has found something in Caddy:\n%.6000s", race)
		}
	})
	s.caddy.start(t)
}

// startProvider starts the authorization server behind its proxy.
func (s *Stack) startProvider(t testing.TB, o Options, introspectionSecret string) {
	t.Helper()
	port := reservePort(t)
	s.proxy = newProxy(t, port)
	life := o.TokenLife
	if life == 0 {
		life = time.Hour
	}
	options := map[string]any{
		"port": port, "issuer": s.proxy.URL.String(), "redirectURI": s.URL + "/oauth/callback/idp",
		"clientID": "mailer", "clientSecret": s.clientSecret, "introspectionSecret": introspectionSecret,
		"tokenLife": int(life.Seconds()), "tokenBits": o.TokenBits,
	}
	if s.apps != nil {
		options["appKey"] = s.apps.publicKey()
	}
	s.idp = &server{
		name:  "oidc-provider",
		argv:  nodeProgram("oidc-provider", "oidc.mjs", options),
		ready: says("ready\n"),
	}
	t.Cleanup(s.idp.stop)
	s.idp.start(t)
}

// log is what Caddy has logged.
func (s *Stack) log() string { return s.caddy.output.String() }

func (s *Stack) tail() string {
	if s.caddy == nil {
		return "(Caddy was not started)"
	}
	return s.caddy.output.tail()
}

func tail(text string) string {
	b := new(lockedBuffer)
	_, _ = io.WriteString(b, text)
	return b.tail()
}

// note is a short message.
func note(subject string) map[string]any {
	return map[string]any{"to": "someone@example.net", "subject": subject, "text": "A few words.\n"}
}
