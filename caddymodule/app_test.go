package caddymodule

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// option makes a whole configuration of the content of the global option.
func option(t *testing.T, content string) []byte {
	t.Helper()
	out, err := adapt(t, "{\n\tstorage file_system "+t.TempDir()+"\n\toauth_mail {\n"+content+"\n\t}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestConfigErrors: what cannot work is refused when it is loaded, and the
// error names the place.
func TestConfigErrors(t *testing.T) {
	const (
		idp    = "provider p {\nissuer https://idp.example\nclient_id c\nservers smtp.example\n}\n"
		base   = "redirect_base https://a.example/cb\n"
		box    = "tenant r {\nserver smtp.example\nauth password u geheim\nfrom a@example.com\n}\n"
		relay  = "tenant r {\nserver smtp.example\nauth none\nfrom a@example.com\n}\n"
		secret = "a-secret-of-24-characters-or-more"
	)
	other := func(lines string) string {
		return "tenant s {\nserver s.example\nauth none\nfrom a@example.com\n" + lines + "\n}\n"
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	writeFile(t, broken, []byte("neither PEM nor JSON: "+secret))
	certificate := filepath.Join(t.TempDir(), "app.pem")
	writeFile(t, certificate, certificatePEM(t, time.Now().Add(day)))
	account := serviceAccount(t)
	tests := []struct{ name, content, want string }{
		{
			"variable missing", base + "provider p {\nissuer https://idp.example\nclient_id c\nclient_secret {env.NO_SUCH_VARIABLE}\nservers smtp.example\n}\n",
			"provider p, client_secret: the environment variable NO_SUCH_VARIABLE is not set, or empty",
		},
		{
			"file missing", base + "provider p {\nissuer https://idp.example\nclient_id c\nclient_secret {file./no/such/file}\nservers smtp.example\n}\n",
			"provider p, client_secret: the file /no/such/file does not exist",
		},
		{"file empty", relay + "key k {file." + empty + "} r\n", "key k, key: the file " + empty + " is empty"},
		{
			"variable of a password missing", "tenant a {\nserver smtp.example\nauth password u {env.NO_SUCH_VARIABLE}\nfrom a@example.com\n}\n",
			"tenant a, auth: the environment variable NO_SUCH_VARIABLE is not set, or empty",
		},
		{
			"content in place of a file's name", base + "provider p {\npreset microsoft\ndirectory a.example\ngrant client_credentials\nclient_id c\nclient_certificate {file." + broken + "}\n}\n",
			"provider p, client_certificate: it takes the path of a file",
		},
		{
			"content in place of a token's file", base + "provider p {\npreset microsoft\ndirectory a.example\ngrant client_credentials\nclient_id c\nfederated_token {file." + broken + "}\n}\n",
			"provider p, federated_token: it takes the path of a file",
		},
		{"content in place of a key's file", base + "provider p {\npreset google\ngrant service_account\nservice_account {file." + broken + "}\n}\n", "provider p, service_account: it takes the path of a file"},
		{"content in place of ca_file", "tenant a {\nserver smtp.example\nauth none\nfrom a@example.com\nca_file {file." + broken + "}\n}\n", "tenant a, ca_file: it takes the path of a file"},
		{"path in place of a secret", base + "provider p {\npreset google\nclient_id c\nclient_secret " + broken + "\n}\n", "provider p, client_secret: this is the path of a file; write {file."},
		{"ca_file missing", "tenant a {\nserver smtp.example\nauth none\nfrom a@example.com\nca_file /no/such/file\n}\n", "tenant a, ca_file: open /no/such/file"},
		{"ca_file without certificates", "tenant a {\nserver smtp.example\nauth none\nfrom a@example.com\nca_file " + empty + "\n}\n", "tenant a, ca_file: " + empty + " has no certificate"},
		{"no client id", base + "provider p {\nissuer https://idp.example\nservers smtp.example\n}\n", "provider p: client_id is missing"},
		{"no endpoints", base + "provider p {\nclient_id c\nservers smtp.example\n}\n", "provider p: give a preset, an issuer"},
		{"no servers", base + "provider p {\nissuer https://idp.example\nclient_id c\n}\n", "provider p: servers is missing"},
		{"plain issuer", base + "provider p {\nissuer http://idp.example\nclient_id c\nservers smtp.example\n}\n", "provider p: issuer:"},
		{"unknown preset", base + "provider p {\npreset yahoogle\nclient_id c\n}\n", `provider p: unknown preset "yahoogle"`},
		{"microsoft without directory", base + "provider p {\npreset microsoft\nclient_id c\n}\n", "provider p: preset microsoft: directory is missing"},
		{"directory that leads elsewhere", base + "provider p {\npreset microsoft\ndirectory a/../b\nclient_id c\n}\n", "provider p: preset microsoft: directory"},
		{"no redirect_base", idp, "provider p: set redirect_base in the global option oauth_mail"},
		{"plain redirect_base", "redirect_base http://a.example/cb\n", "redirect_base:"},
		{"same redirect URI", base + idp + "provider q {\nissuer https://idp.example\nclient_id c\nservers smtp.example\nredirect_uri https://a.example/cb/p\n}\n", "provider p has the same path"},
		{"no provider of that name", base + "tenant a {\nauth oauth nobody\nuser a@example.com\n}\n", `tenant a, auth: there is no provider "nobody"`},
		{"no user", base + idp + "tenant a {\nauth oauth p\n}\n", "tenant a, user: missing"},
		{"user is no address", base + idp + "tenant a {\nauth oauth p\nuser bob\n}\n", "tenant a, user:"},
		{"server that may not see the token", base + idp + "tenant a {\nserver evil.example\nauth oauth p\nuser a@example.com\n}\n", "tenant a, server: evil.example is not among the servers"},
		{"body without a unit", relay + "max_body 36\n", "max_body: 36 octets are too few; it must be 64KiB or more"},
		{"less than one request", relay + "max_body 40MiB\nmax_in_flight 39MB\n", "max_in_flight: 39000000 octets are less than one request may have (max_body, 40 MiB)"},
		{"less than one request by default", relay + "max_in_flight 35MiB\n", "max_in_flight: 35 MiB are less than one request may have (max_body, 36 MiB)"},
		{"no auth", "tenant a {\nserver smtp.example\n}\n", "tenant a, auth: missing"},
		{"no server", "tenant a {\nauth none\nfrom a@example.com\n}\n", "tenant a, server: missing"},
		{"unknown scheme", "tenant a {\nserver tls://smtp.example\nauth none\nfrom a@example.com\n}\n", "tenant a, server: unknown scheme"},
		{"bad port", "tenant a {\nserver smtp.example:99999\nauth none\nfrom a@example.com\n}\n", "tenant a, server:"},
		{"from outside senders", "tenant a {\nserver smtp.example\nauth none\nfrom a@example.com\nsenders *@example.net\n}\n", "tenant a, from: a@example.com is not among the tenant's senders"},
		{"no senders", "tenant a {\nserver smtp.example\nauth none\n}\n", "tenant a, senders: missing"},
		{"bad sender", "tenant a {\nserver smtp.example\nauth none\nsenders example.com\n}\n", "tenant a, senders:"},
		{"short key", relay + "key k short r\n", "key k: must have at least 24 characters"},
		{"key of no tenant", relay + "key k " + secret + " R\n", `key k: there is no tenant "R"`},
		{"key of nobody", relay + "key k {\ntenant r\n}\n", "key k: needs one of a key, `user` and `unauthenticated`"},
		{"key of two kinds", relay + "key k {\ntenant r\nuser u\nunauthenticated\nscopes send\n}\n", "key k: needs one of a key, `user` and `unauthenticated`"},
		{"key without a tenant", relay + "key k " + secret + "\n", "key k, tenant: missing"},
		{"key of no such tenants", relay + "key k " + secret + " {\ntenants r R\n}\n", `key k, tenants: there is no tenant "R"`},
		{"hash of a key that is too short", relay + "key k sha256:abcd r\n", "key k: after sha256: come 64 hexadecimal digits"},
		{"key and its hash", relay + "key k " + secret + " r\nkey l sha256:267fe6ed7f54da50766191e5faf3b513a38e49757dec5f8548687be4eb1dae1a r\n", "is the same as key"},
		{"scope of no kind", relay + "key k " + secret + " r {\nscopes send admin\n}\n", `key k, scopes: "admin" must be one of send, read`},
		{"bad sender of a key", relay + "key k " + secret + " r {\nsenders example.com\n}\n", "key k, senders: pattern"},
		{"bad recipient of a key", relay + "key k " + secret + " r {\nallowed_recipients a*@example.com\n}\n", "key k, allowed_recipients: pattern"},
		{"bad network of a key", relay + "key k " + secret + " r {\nnetworks 10.0.0.1/8\n}\n", "key k, networks:"},
		{"end of a key in words", relay + "key k " + secret + " r {\nexpires soon\n}\n", "key k, expires:"},
		{"rate of a key of a month", relay + "key k " + secret + " r {\nrate 30 720h\n}\n", "key k, rate: the window may be 24 hours at most"},
		{"anybody may read", relay + "key k {\nunauthenticated\ntenant r\n}\n", "key k, scopes: whoever comes without a key could read what all others have sent"},
		{"two for anybody", relay + "key k {\nunauthenticated\ntenant r\nscopes send\n}\nkey l {\nunauthenticated\ntenant r\nscopes send\n}\n", "key l: key k is for requests without a key, too"},
		{"two for a user", relay + "key k {\nuser u\ntenant r\n}\nkey l {\nuser u\ntenant r\n}\n", "key l, user: is the same as that of key k"},
		{"bad recipient of a tenant", other("allowed_recipients bob"), "tenant s, allowed_recipients: pattern"},
		{"domain of two tenants", relay[:len(relay)-2] + "domains a.example\n}\n" + other("domains A.example"), "tenant s, domains: a.example is that of tenant r, too"},
		{"no domain", other("domains *.example"), `tenant s, domains: "*.example" is no domain`},
		{"same key twice", relay + "key k " + secret + " r\nkey l " + secret + " r\n", "is the same as key"},
		{"redirect_base without path", "redirect_base https://a.example\n", "redirect_base: \"https://a.example\" needs a path"},
		{"redirect_uri elsewhere", base + "provider p {\nissuer https://idp.example\nclient_id c\nservers smtp.example\nredirect_uri https://b.example/cb\n}\n", "must be on the host of redirect_base"},
		{"redirect_uri with a slash at the end", base + "provider p {\nissuer https://idp.example\nclient_id c\nservers smtp.example\nredirect_uri https://a.example/x/\n}\n", "no slash at the end"},
		{"redirect_uri of a start page", base + "provider p {\nissuer https://idp.example\nclient_id c\nservers smtp.example\nredirect_uri https://a.example/cb/p/start\n}\n", "is that of a start page"},
		{"user with a name", base + idp + "tenant a {\nserver smtp.example\nauth oauth p\nuser \"Bob <bob@example.com>\"\n}\n", "must be a plain address"},
		{"plaintext to a public address", "tenant a {\nserver plaintext://8.8.8.8\nauth none\nfrom a@example.com\n}\n", "8.8.8.8 is a public address"},
		{"empty password", "tenant a {\nserver smtp.example\nauth password u \"\"\nfrom a@example.com\n}\n", "tenant a, auth: user name or password is empty"},
		{"two limits for one mailbox", base + idp + "tenant a {\nserver smtp.example\nauth oauth p\nuser a@example.com\n}\ntenant b {\nserver smtp.example\nauth oauth p\nuser A@example.com\nconnections 3\n}\n", "tenant b, connections: tenant a signs in to the same mailbox"},
		{"two rates for one mailbox", box + "tenant s {\nserver smtp.example\nauth password u geheim\nfrom a@example.com\nrate 30 1m\n}\n", "tenant s, rate: tenant r signs in to the same mailbox; both must say the same"},
		{"two daily limits for one mailbox", box + "tenant s {\nserver smtp.example\nauth password u geheim\nfrom a@example.com\nrecipients_per_day 5\n}\n", "tenant s, recipients_per_day: tenant r signs in"},
		{"two proxies for one mailbox", box + "tenant s {\nserver smtp.example\nauth password u geheim\nfrom a@example.com\nproxy socks5://p.example\n}\n", "tenant s, proxy: tenant r signs in"},
		{"rate of a month", other("rate 30 720h"), "tenant s, rate: the window may be 24 hours at most"},
		{"outbox in a folder of no name", relay + "outbox bbolt {env.NO_SUCH_VARIABLE}\n", "path: the environment variable NO_SUCH_VARIABLE is not set, or empty"},
		{"outbox in a file's content", relay + "outbox bbolt {file." + broken + "}\n", "path: it takes the path of a folder"},
		{"deliver to a name", other("deliver to bob"), "tenant s, deliver:"},
		{"proxy of no kind", other("proxy ftp://u:geheim@p.example"), "tenant s, proxy: must begin with http://, https:// or socks5://"},
		{"proxy to a server near by", "tenant s {\nserver plaintext://127.0.0.1\nauth none\nfrom a@example.com\nproxy http://p.example\n}\n", "tenant s, proxy: plaintext:// is for servers near by"},
		{"failover to nobody", other("failover R"), `tenant s, failover: there is no tenant "R"`},
		{"failover to itself", other("failover s"), "tenant s, failover: leads back to tenant s"},
		{"failover in a circle", relay + other("failover t") + "tenant t {\nserver t.example\nauth none\nfrom a@example.com\nfailover s\n}\n", "tenant t, failover: leads back to tenant t"},
		{"failover to the same server without a sign-in", relay + "tenant s {\nserver smtp.example\nauth none\nfrom a@example.com\nfailover r\n}\n", "tenant s, failover: tenant r sends to the same server, where nobody signs in either, and could not send when this one cannot"},
		{"failover to the same mailbox", box + "tenant s {\nserver smtp.example\nauth password u geheim\nfrom a@example.com\nfailover r\n}\n", "tenant s, failover: tenant r signs in to the same mailbox, and could not send either"},
		{"failover with other senders", relay + other("failover r\nsenders *@example.com a@example.com b@example.net"), "tenant s, failover: tenant r must allow the same senders; add *@example.com, b@example.net to its `senders`"},
		{"failover to staging", other("failover t") + "tenant t {\nserver t.example\nauth none\nfrom a@example.com\ndeliver none\n}\n", "tenant s, failover: tenant t has `deliver`"},
		{"key with a space", relay + "key k \"" + secret + " x\" r\n", "key k: has characters"},
		{"bad encryption key", "encryption_key AAAA\n", "encryption_key, key 1:"},
		{"name with a slash", "tenant a/b {\nserver smtp.example\nauth none\nfrom a@example.com\n}\n", "tenant a/b: a name has"},
		{"application at outlook", base + "provider p {\npreset outlook\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\n}\n", "provider p: preset outlook has no grant client_credentials: nobody can permit an application there; each mailbox's owner signs in"},
		{"client credentials at google", "provider p {\npreset google\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\n}\n", "in Google Workspace use grant service_account"},
		{"client credentials of a shared directory", "provider p {\npreset microsoft\ndirectory organizations\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\n}\n", "provider p: grant client_credentials needs the directory of one organization"},
		{"client credentials without any", "provider p {\npreset microsoft\ndirectory contoso.com\ngrant client_credentials\nclient_id c\n}\n", "provider p, grant: client_credentials needs something that proves the client: add client_secret, client_certificate or federated_token"},
		{"client credentials without scopes", "provider p {\nissuer https://idp.example\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\nservers smtp.example\n}\n", "provider p: scopes is missing"},
		{"service account at microsoft", "provider p {\npreset microsoft\ndirectory contoso.com\ngrant service_account\nservice_account " + account + "\n}\n", "service accounts are Google's; here an application signs in with grant client_credentials"},
		{"service account of no preset", "provider p {\ntoken_endpoint https://idp.example/token\ngrant service_account\nservice_account " + account + "\nservers smtp.example\n}\n", "provider p, grant: service accounts are Google's; add `preset google`"},
		{"service account without a file", "provider p {\npreset google\ngrant service_account\n}\n", "provider p, service_account: missing"},
		{"service account's file missing", "provider p {\npreset google\ngrant service_account\nservice_account /no/such/file\n}\n", "provider p, service_account: the file /no/such/file does not exist"},
		{"service account's file broken", "provider p {\npreset google\ngrant service_account\nservice_account " + broken + "\n}\n", "provider p, service_account: the file " + broken + ":"},
		{"service account with a secret", "provider p {\npreset google\ngrant service_account\nservice_account " + account + "\nclient_secret " + secret + "\n}\n", "provider p, client_secret: has no meaning with `grant service_account`"},
		{"service account with a client id", "provider p {\npreset google\ngrant service_account\nservice_account " + account + "\nclient_id c\n}\n", "provider p, client_id: has no meaning with `grant service_account`"},
		{"service account without its grant", base + "provider p {\npreset google\nclient_id c\nservice_account " + account + "\n}\n", "provider p, service_account: has a meaning with `grant service_account` only"},
		{"redirect_uri without a person", "provider p {\npreset google\ngrant service_account\nservice_account " + account + "\nredirect_uri https://a.example/cb\n}\n", "provider p, redirect_uri: has no meaning with `grant service_account`, where nobody signs in; remove it"},
		{"prompt without a person", "provider p {\npreset microsoft\ndirectory contoso.com\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\nprompt login\n}\n", "provider p, prompt: has no meaning with `grant client_credentials`"},
		{"device_code without a person", "provider p {\npreset microsoft\ndirectory contoso.com\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\ndevice_code\n}\n", "provider p, device_code: has no meaning"},
		{"device_code at google", base + "provider p {\npreset google\nclient_id c\ndevice_code\n}\n", "provider p, device_code: google has no sign-in by device code for mail"},
		{"device_code without endpoint", base + "provider p {\nauthorization_endpoint https://idp.example/a\ntoken_endpoint https://idp.example/t\nclient_id c\nservers smtp.example\ndevice_code\n}\n", "provider p, device_code: needs device_authorization_endpoint"},
		{"secret of a public client", base + "provider p {\npreset fastmail\nclient_id c\nclient_secret " + secret + "\n}\n", "provider p: its clients are public ones: remove client_secret"},
		{"certificate of a public client", base + "provider p {\npreset fastmail\nclient_id c\nclient_certificate " + certificate + "\n}\n", "provider p: its clients are public ones"},
		{"certificate missing", base + "provider p {\npreset microsoft\ndirectory contoso.com\nclient_id c\nclient_certificate /no/such/file\n}\n", "provider p, client_certificate: the file /no/such/file does not exist"},
		{"certificate broken", base + "provider p {\npreset microsoft\ndirectory contoso.com\nclient_id c\nclient_certificate " + broken + "\n}\n", "provider p, client_certificate: the file " + broken + ":"},
		{"federated token empty", base + "provider p {\npreset microsoft\ndirectory contoso.com\nclient_id c\nfederated_token " + empty + "\n}\n", "provider p, federated_token: the file " + empty + " is empty"},
		{"second secret missing", base + "provider p {\npreset google\nclient_id c\nclient_secret {env.PATH}\nclient_secret {env.NO_SUCH_VARIABLE}\n}\n", "provider p, client_secret 2: the environment variable NO_SUCH_VARIABLE"},
		{"empty secret", base + "provider p {\npreset google\nclient_id c\nclient_secret \"\"\n}\n", "provider p, credentials: each is exactly one of client_secret"},
		{"expiry is no date", base + "provider p {\npreset google\nclient_id c\nclient_secret {env.PATH}\nclient_secret_expires {env.PATH}\n}\n", "provider p, client_secret_expires:"},
		{"proxy of unknown kind", base + "provider p {\npreset google\nclient_id c\nproxy ftp://u:" + secret + "@proxy.example\n}\n", "provider p, proxy: must begin with http://, https:// or socks5://"},
		{"proxy that is no URL", base + "provider p {\npreset google\nclient_id c\nproxy http://u:" + secret + "%@proxy.example\n}\n", "provider p, proxy: must be"},
		{"proxy with a path", base + "provider p {\npreset google\nclient_id c\nproxy http://u:" + secret + "@proxy.example/x\n}\n", "provider p, proxy: must be"},
		{"provider's ca_file missing", base + "provider p {\npreset google\nclient_id c\nca_file /no/such/file\n}\n", "provider p, ca_file: open /no/such/file"},
		{"provider's ca_file without certificates", base + "provider p {\npreset google\nclient_id c\nca_file " + empty + "\n}\n", "provider p, ca_file: " + empty + " has no certificate"},
		{"tenant of an application without user", "provider p {\npreset microsoft\ndirectory contoso.com\ngrant client_credentials\nclient_id c\nclient_secret {env.PATH}\n}\ntenant a {\nauth oauth p\n}\n", "tenant a, user: missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := validateError(t, option(t, tt.content))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the secret is in the error: %v", err)
			}
		})
	}
}

// serviceAccount makes the key file of a service account.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "mailer@project.iam.gserviceaccount.com", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "account.json")
	writeFile(t, name, content)
	return name
}

// TestSharedStorageNeedsKey: without a key, each instance would make its own.
func TestSharedStorageNeedsKey(t *testing.T) {
	t.Parallel()
	a := &App{storage: nil}
	if _, err := a.keyRing(); err == nil || !strings.Contains(err.Error(), "encryption_key: missing") {
		t.Errorf("got error %v", err)
	}
}

// tree lists the files below a folder with their contents, without those of the
// storage's self-test, which come and go.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || strings.Contains(name, "selftest") {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		files[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestKeyFile: made once, kept, and never replaced while it is needed.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.signIn()
	key := filepath.Join(s.dir, "storage-oauth_mail.key")
	info, err := os.Stat(key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", info.Mode().Perm())
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range tree(t, s.dir) {
		if name != s.config && (strings.Contains(data, "refresh-") || strings.Contains(data, clientSecret)) {
			t.Errorf("a secret lies in clear in %s", name)
		}
	}
	s.kill()
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	out, err := s.command("run", "--config", s.config, "--adapter", "caddyfile").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "storage-oauth_mail.key is missing, and the storage holds tokens sealed with it") {
		t.Errorf("started without the key: %v\n%s", err, out)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a new key was made")
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	s.start()
	if got := s.send(mailBody); got.status != 200 {
		t.Errorf("with the key back: status %d: %s", got.status, got.body)
	}
	if after, _ := os.ReadFile(key); string(after) != string(before) {
		t.Error("the key was replaced")
	}
}

// TestValidateDisturbsNothing: `caddy validate` beside a running server.
func TestValidateDisturbsNothing(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.signIn()
	before, posts := tree(t, s.dir), len(s.idp.Requests())
	out, err := s.command("validate", "--config", s.config, "--adapter", "caddyfile").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Valid configuration") {
		t.Fatalf("%v: %s", err, out)
	}
	if diff := cmp.Diff(before, tree(t, s.dir)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
	if n := len(s.idp.Requests()); n != posts {
		t.Errorf("%d requests went to the provider", n-posts)
	}
	if got := s.send(mailBody); got.status != 200 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
}

// TestValidateMakesNoKey: checking a configuration on another machine leaves
// nothing behind.
func TestValidateMakesNoKey(t *testing.T) {
	t.Parallel()
	p := configureCaddy(t, passwordTenant(t, mailertest.NewServer(t)), "")
	if out, err := p.command("validate", "--config", p.config, "--adapter", "caddyfile").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name := range tree(t, p.dir) {
		if strings.HasSuffix(name, ".key") || strings.Contains(name, "outbox") {
			t.Errorf("%s was made", name)
		}
	}
}

func TestListModules(t *testing.T) {
	t.Parallel()
	p := &caddyProcess{t: t, dir: t.TempDir()}
	out, err := p.command("list-modules").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"\noauth_mail\n", "\nhttp.handlers.oauth_mail\n", "\noauth_mail.outbox.bbolt\n", "\noauth_mail.outbox.off\n"} {
		if !strings.Contains(string(out), id) {
			t.Errorf("no module %s", strings.TrimSpace(id))
		}
	}
}

// TestAdaptKeepsPlaceholders: a secret that is a placeholder stays one in what
// Caddy shows and stores.
func TestAdaptKeepsPlaceholders(t *testing.T) {
	t.Setenv("CANARY", "canary-of-24-characters-or-more")
	out, err := adapt(t, "{\n\toauth_mail {\n\t\tkey k {env.CANARY} t\n\t}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "canary-of") || !strings.Contains(string(out), "{env.CANARY}") {
		t.Errorf("adapted to %s", out)
	}
}

// TestReload: connections and tokens live on when their settings stay, and a
// configuration that is refused leaves the old one at work.
func TestReload(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.signIn()
	send := func(want int) {
		t.Helper()
		got := s.send(mailBody)
		for try := 0; got.status == 0 && try < 3; try++ {
			got = s.send(mailBody) // the kernel resets connections that wait at a listener that closes
		}
		if got.status != want {
			t.Fatalf("status %d, want %d: %s", got.status, want, got.body)
		}
	}
	load := func(want int, replacements ...string) {
		t.Helper()
		if status, body := s.reload(replacements...); status != want {
			t.Fatalf("status %d, want %d: %s", status, want, body)
		}
	}
	send(200)
	sessions, posts := s.mail.Sessions(), len(s.idp.Requests())
	for range 5 {
		load(200)
		send(200)
	}
	if n := s.mail.Sessions() - sessions; n != 0 {
		t.Errorf("%d new sessions after reloads that changed nothing", n)
	}
	if n := len(s.idp.Requests()) - posts; n != 0 {
		t.Errorf("%d requests to the provider after reloads that changed nothing", n)
	}
	if status, body := s.reload("auth oauth idp", "auth oauth nobody"); status != 400 || !strings.Contains(body, "tenant default, auth: there is no provider") {
		t.Errorf("a broken configuration: status %d: %s", status, body)
	}
	send(200)
	if n := s.mail.Sessions() - sessions; n != 0 {
		t.Errorf("%d new sessions after a reload that failed", n)
	}
	load(200, "key web "+testKey, "key web another-key-with-24-characters")
	send(403)
	load(200)
	send(200)
}

// TestOneErrorPerMistake: what follows from a mistake is not reported as well.
func TestOneErrorPerMistake(t *testing.T) {
	t.Parallel()
	err := validateError(t, option(t, "redirect_base https://a.example/cb\nprovider p {\npreset microsoft\nclient_id c\n}\n"+
		"tenant a {\nauth oauth p\nuser a@example.com\n}\nkey k a-secret-of-24-characters-or-more a\n"))
	if err == nil || !strings.Contains(err.Error(), "directory is missing") || strings.Contains(err.Error(), "there is no") {
		t.Errorf("got error %v", err)
	}
}

// TestNullInJSON: JSON can say null where the Caddyfile cannot.
func TestNullInJSON(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"providers", "tenants", "keys"} {
		err := validateError(t, []byte(`{"apps":{"oauth_mail":{"`+kind+`":{"a":null}}}}`))
		if err == nil || !strings.Contains(err.Error(), "a: is null") {
			t.Errorf("%s: got error %v", kind, err)
		}
	}
}

// TestHandlerErrors: handlers that would let anybody in do not load.
func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	const app = "redirect_base https://a.example/cb\ntenant r {\nserver smtp.example\nauth none\nfrom a@example.com\n}\n"
	tests := []struct{ name, app, directive, want string }{
		{"no app", "", "oauth_mail send", "needs the global option oauth_mail"},
		{"callback without redirect_base", "tenant r {\nserver smtp.example\nauth none\nfrom a@example.com\n}\n", "oauth_mail callback", "set redirect_base"},
		{"user around a placeholder", app, "oauth_mail admin {\nuser {http.request.header.X-User}@example.com\n}", "must be one placeholder"},
		{"user without a placeholder", app, "oauth_mail admin {\nuser bob\n}", "must be one placeholder"},
		{"roles and no authentication", app, "oauth_mail admin {\nrole viewer *\nallow_unauthenticated\n}", "contradict each other"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			global := ""
			if tt.app != "" {
				global = "\toauth_mail {\n" + tt.app + "}\n"
			}
			config, err := adapt(t, "{\n\tauto_https off\n\tstorage file_system "+t.TempDir()+"\n"+global+"}\nhttp://127.0.0.1:1 {\n\t"+tt.directive+"\n}\n")
			if err != nil {
				t.Fatal(err)
			}
			if err := validateError(t, config); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}
