package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

const goldenSeparator = "\n----------\n"

func adapt(t *testing.T, config string) ([]byte, error) {
	t.Helper()
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return out, err
}

func TestAdapt(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, want, _ := strings.Cut(string(data), goldenSeparator)
			out, err := adapt(t, config+"\n")
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, out, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			if *update {
				if err := os.WriteFile(file, []byte(config+goldenSeparator+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestGoldenFilesUseEveryWord keeps the golden files complete.
func TestGoldenFilesUseEveryWord(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		config, _, _ := strings.Cut(string(data), goldenSeparator)
		for _, w := range strings.Fields(config) {
			seen[w] = true
		}
	}
	for _, word := range grammarWords {
		if !seen[word] {
			t.Errorf("no golden file uses %q", word)
		}
	}
}

// grammarWords are the words of the grammar in the comments of
// UnmarshalCaddyfile and parseDirective.
var grammarWords = []string{
	"redirect_base", "encryption_key", "refresh", "on_use", "provider", "tenant", "key",
	"display_name", "preset", "directory", "issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint",
	"device_authorization_endpoint", "admin_consent_endpoint", "device_code", "grant", "authorization_code", "client_credentials",
	"client_id", "client_secret", "client_secret_expires", "client_certificate", "federated_token", "service_account",
	"client_auth", "scopes", "prompt", "auth_param", "redirect_uri", "servers",
	"rotation", "strict", "margin", "refresh_rate", "proxy",
	"server", "auth", "oauth", "password", "none", "xoauth2", "oauthbearer", "user", "from", "senders", "connections", "ca_file",
	"rate", "recipients_per_day", "max_age", "max_idle", "max_messages", "warm", "recipients", "all", "failover", "deliver", "to",
	"outbox", "off", "bbolt", "max_size", "max_body", "max_in_flight", "keep_sent", "keep_failed", "lifetime", "on_unknown", "hold", "brake",
	"smtp", "hostname", "tls", "starttls", "implicit", "automatic", "internal", "sni", "plaintext_auth", "rewrite_from", "networks", "network",
	"max_recipients", "connections_per_address", "bare_lf", "mend", "refuse",
	"unauthenticated", "tenants", "scopes", "read", "allowed_recipients", "domains", "expires",
	"send", "callback", "admin", "role", "viewer", "operator", "allow_unauthenticated",
}

func TestCaddyfileErrors(t *testing.T) {
	t.Parallel()
	app := func(lines string) string { return "{\n\toauth_mail {\n" + lines + "\n\t}\n}\n" }
	tests := []struct{ name, config, want string }{
		{"unknown word", app("tennant a {\n}"), "unrecognized subdirective tennant: must be one of alert, audit_recipients, encryption_key, keep_failed, keep_sent, key, max_body, max_in_flight, outbox, provider, redirect_base, refresh, smtp, tenant, at Caddyfile:3"},
		{"unknown word in a provider", app("provider a {\nclient a\n}"), "unrecognized subdirective client"},
		{"unknown word in a tenant", app("tenant a {\nsmtp a\n}"), "at Caddyfile:4"},
		{"argument missing", app("redirect_base"), "wrong argument count or unexpected line ending after 'redirect_base', at Caddyfile:3"},
		{"argument too many", app("redirect_base a b"), "at Caddyfile:3"},
		{"argument of the option", "{\n\toauth_mail x {\n\t}\n}\n", "at Caddyfile:2"},
		{"provider without a name", app("provider {\n}"), "at Caddyfile:3"},
		{"provider with two names", app("provider a b {\n}"), "at Caddyfile:3"},
		{"list without items", app("provider a {\nscopes\n}"), "at Caddyfile:4"},
		{"duplicate word", app("redirect_base a\nredirect_base b"), "duplicate redirect_base, at Caddyfile:4"},
		{"duplicate provider", app("provider a {\n}\nprovider a {\n}"), "duplicate provider 'a', at Caddyfile:5"},
		{"duplicate key", app("key a b c\nkey a d e"), "duplicate key 'a', at Caddyfile:4"},
		{"duplicate parameter", app("provider a {\nauth_param x 1\nauth_param x 2\n}"), "duplicate auth_param 'x', at Caddyfile:5"},
		{"key without a name", app("key"), "want key <name> <key> <tenant>, or a block that says more, at Caddyfile:3"},
		{"key with four arguments", app("key a b c d"), "at Caddyfile:3"},
		{"user in its line and its block", app("smtp :587 {\nuser a b c {\npassword d\n}\n}"), "duplicate password: the line above the block has it, at Caddyfile:5"},
		{"tenant of a network twice", app("smtp :587 {\nnetwork a 10.0.0.0/8 {\ntenant b\n}\n}"), "duplicate tenant: the line above the block has it, at Caddyfile:5"},
		{"user with too much", app("smtp :587 {\nuser a b c d\n}"), "want user <name> <password> <tenant>"},
		{"key and user", app("key a b c {\nuser u\n}"), "duplicate user: the line above the block has it, at Caddyfile:4"},
		{"tenant of a key twice", app("key a b c {\ntenant d\n}"), "duplicate tenant: the line above the block has it, at Caddyfile:4"},
		{"unknown word of a key", app("key a b {\nscope send\n}"), "unrecognized subdirective scope: must be one of allowed_recipients, expires, networks, rate, scopes, senders, tenant, tenants, unauthenticated, user, at Caddyfile:4"},
		{"bad number", app("tenant a {\nconnections many\n}"), "bad connections value 'many': must be a whole number above zero, at Caddyfile:4"},
		{"zero", app("tenant a {\nconnections 0\n}"), "at Caddyfile:4"},
		{"outbox without an engine", app("outbox"), "want outbox off, or outbox <engine> with what the engine takes, such as outbox bbolt, at Caddyfile:3"},
		{"outbox unknown", app("outbox redis"), "there is no outbox redis in this program, which has bbolt, off; others, such as river, are modules that Caddy is built with, at Caddyfile:3"},
		{"outbox off with more", app("outbox off now"), "at Caddyfile:3"},
		{"outbox off with a block", app("outbox off {\nmax_size 1GiB\n}"), "unrecognized subdirective max_size: none is taken here, at Caddyfile:4"},
		{"outbox in two folders", app("outbox bbolt /a /b"), "at Caddyfile:3"},
		{"outbox twice", app("outbox off\noutbox bbolt"), "duplicate outbox, at Caddyfile:4"},
		{"outbox of another size", app("outbox bbolt {\nmax_size much\n}"), "bad max_size value 'much': must be a size above zero, such as 2GiB, at Caddyfile:4"},
		{"body of no size", app("max_body 0"), "bad max_body value '0': must be a size above zero, such as 2GiB, at Caddyfile:3"},
		{"body twice", app("max_body 1MiB\nmax_body 2MiB"), "duplicate max_body, at Caddyfile:4"},
		{"requests of no size", app("max_in_flight some"), "bad max_in_flight value 'some'"},
		{"outbox of no size", app("outbox bbolt {\nmax_size 0\n}"), "bad max_size value '0'"},
		{"keep_sent of nothing", app("keep_sent 0s"), "bad keep_sent value '0s'"},
		{"keep_failed in words", app("keep_failed long"), "bad keep_failed value 'long'"},
		{"lifetime in words", app("tenant a {\nlifetime long\n}"), "bad lifetime value 'long'"},
		{"on_unknown unknown", app("tenant a {\non_unknown ask\n}"), "unrecognized on_unknown ask: must be one of retry, hold, at Caddyfile:4"},
		{"brake of zero", app("tenant a {\nbrake 0\n}"), "bad brake value '0': must be a whole number above zero, or off, at Caddyfile:4"},
		{"brake with two arguments", app("tenant a {\nbrake 3 off\n}"), "at Caddyfile:4"},
		{"rate without a window", app("tenant a {\nrate 30\n}"), "want rate <messages> <window>, such as rate 30 1m, at Caddyfile:4"},
		{"rate of nothing", app("tenant a {\nrate 0 1m\n}"), "bad rate value '0 1m': must be a whole number and a duration, both above zero, such as 30 1m, at Caddyfile:4"},
		{"rate in no time", app("tenant a {\nrate 30 0s\n}"), "bad rate value '30 0s'"},
		{"rate in words", app("tenant a {\nrate 30 minute\n}"), "bad rate value '30 minute'"},
		{"recipients unknown", app("tenant a {\nrecipients most\n}"), "unrecognized recipients most: must be one of some, all, at Caddyfile:4"},
		{"deliver somewhere", app("tenant a {\ndeliver a@example.com\n}"), "want deliver none, or deliver to <address>, at Caddyfile:4"},
		{"deliver to two", app("tenant a {\ndeliver to a@example.com b@example.com\n}"), "want deliver none, or deliver to <address>"},
		{"deliver without words", app("tenant a {\ndeliver\n}"), "want deliver none, or deliver to <address>"},
		{"failover to two", app("tenant a {\nfailover b c\n}"), "at Caddyfile:4"},
		{"auth without method", app("tenant a {\nauth\n}"), "at Caddyfile:4"},
		{"auth of unknown method", app("tenant a {\nauth magic\n}"), "unrecognized auth method magic: must be oauth, password or none, at Caddyfile:4"},
		{"auth oauth without provider", app("tenant a {\nauth oauth\n}"), "at Caddyfile:4"},
		{"auth oauth with unknown mechanism", app("tenant a {\nauth oauth p cram-md5\n}"), "unrecognized mechanism cram-md5: must be one of xoauth2, oauthbearer, at Caddyfile:4"},
		{"auth password without password", app("tenant a {\nauth password u\n}"), "at Caddyfile:4"},
		{"auth none with argument", app("tenant a {\nauth none u\n}"), "at Caddyfile:4"},
		{"from with three arguments", app("tenant a {\nfrom a b c\n}"), "at Caddyfile:4"},
		{"client_auth unknown", app("provider a {\nclient_auth digest\n}"), "unrecognized client_auth digest: must be one of basic, post, at Caddyfile:4"},
		{"refresh unknown", app("refresh never"), "unrecognized refresh never: must be one of auto, always, on_use, at Caddyfile:3"},
		{"grant unknown", app("provider a {\ngrant password\n}"), "unrecognized grant password: must be one of authorization_code, client_credentials, service_account, at Caddyfile:4"},
		{"expiry of no secret", app("provider a {\nclient_secret_expires 2027-06-30\n}"), "client_secret_expires must follow the client_secret that it is about, at Caddyfile:4"},
		{"expiry of a certificate", app("provider a {\nclient_certificate a.pem\nclient_secret_expires 2027-06-30\n}"), "client_secret_expires must follow the client_secret that it is about, at Caddyfile:5"},
		{"two expiries of one secret", app("provider a {\nclient_secret a\nclient_secret_expires 2027-06-30\nclient_secret_expires 2027-06-30\n}"), "duplicate client_secret_expires of one client_secret, at Caddyfile:6"},
		{"expiry is no date", app("provider a {\nclient_secret a\nclient_secret_expires 30.6.2027\n}"), "bad client_secret_expires value '30.6.2027': must be a date such as 2027-06-30, at Caddyfile:5"},
		{"client_secret with two arguments", app("provider a {\nclient_secret a b\n}"), "at Caddyfile:4"},
		{"rotation unknown", app("provider a {\nrotation lax\n}"), "unrecognized rotation lax: must be one of strict, none, at Caddyfile:4"},
		{"bad margin", app("provider a {\nmargin soon\n}"), "bad margin value 'soon': must be a duration above zero, such as 15m, at Caddyfile:4"},
		{"margin of zero", app("provider a {\nmargin 0s\n}"), "at Caddyfile:4"},
		{"bad refresh_rate", app("provider a {\nrefresh_rate -1\n}"), "bad refresh_rate value '-1': must be a number above zero, at Caddyfile:4"},
		{"refresh_rate that is no number", app("provider a {\nrefresh_rate NaN\n}"), "at Caddyfile:4"},
		{"device_code with argument", app("provider a {\ndevice_code yes\n}"), "at Caddyfile:4"},
		{"duplicate service_account", app("provider a {\nservice_account a\nservice_account b\n}"), "duplicate service_account, at Caddyfile:5"},
		{"directive without endpoint", ":80 {\n\toauth_mail\n}\n", "at Caddyfile:2"},
		{"directive with unknown endpoint", ":80 {\n\toauth_mail sent\n}\n", "unrecognized endpoint sent: must be one of send, callback, admin, health, at Caddyfile:2"},
		{"directive with two endpoints", ":80 {\n\toauth_mail send admin\n}\n", "at Caddyfile:2"},
		{"word of admin at send", ":80 {\n\toauth_mail send {\n\t\trole x\n\t}\n}\n", "unrecognized subdirective role: must be one of allow_unauthenticated, tenant, user, at Caddyfile:3"},
		{"unknown role", ":80 {\n\toauth_mail admin {\n\t\trole root bob\n\t}\n}\n", "unrecognized role root: must be viewer, operator or admin, at Caddyfile:3"},
		{"role without user", ":80 {\n\toauth_mail admin {\n\t\trole viewer\n\t}\n}\n", "at Caddyfile:3"},
		{"two roles of one user", ":80 {\n\toauth_mail admin {\n\t\trole viewer bob\n\t\trole admin bob\n\t}\n}\n", "duplicate role of user 'bob', at Caddyfile:4"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := adapt(t, tt.config)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestRepeatedOptionMerges(t *testing.T) {
	t.Parallel()
	out, err := adapt(t, "{\n\toauth_mail {\n\t\ttenant a {\n\t\t\tauth none\n\t\t}\n\t}\n\toauth_mail {\n\t\ttenant b {\n\t\t\tauth none\n\t\t}\n\t}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"apps":{"oauth_mail":{"tenants":{"a":{"auth":{"method":"none"}},"b":{"auth":{"method":"none"}}}}}}`; string(out) != want {
		t.Errorf("got %s, want %s", out, want)
	}
	_, err = adapt(t, "{\n\toauth_mail {\n\t\toutbox off\n\t}\n\toauth_mail {\n\t\toutbox bbolt\n\t}\n}\n")
	if err == nil || !strings.Contains(err.Error(), "duplicate outbox: another oauth_mail block has it") {
		t.Errorf("two outboxes in two blocks: error %v", err)
	}
	_, err = adapt(t, "{\n\toauth_mail {\n\t\tredirect_base a\n\t}\n\toauth_mail {\n\t\tredirect_base b\n\t}\n}\n")
	if err == nil || !strings.Contains(err.Error(), "duplicate redirect_base: another oauth_mail block has it, at Caddyfile:6") {
		t.Errorf("got error %v for redirect_base in two blocks", err)
	}
	_, err = adapt(t, "{\n\toauth_mail {\n\t\ttenant a {\n\t\t}\n\t}\n\toauth_mail {\n\t\ttenant a {\n\t\t}\n\t}\n}\n")
	if err == nil || !strings.Contains(err.Error(), "duplicate tenant 'a', at Caddyfile:7") {
		t.Errorf("got error %v for a tenant in two blocks", err)
	}
}

// TestExamples holds every configuration that we hand out against Caddy: it
// adapts, is formatted, and provisions.
func TestExamples(t *testing.T) {
	for _, name := range []string{
		"M365_CLIENT_ID", "M365_CLIENT_SECRET", "GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET", "LAB_CLIENT_SECRET", "SENDGRID_KEY",
		"OUTLOOK_CLIENT_ID", "OUTLOOK_CLIENT_SECRET", "YAHOO_CLIENT_ID", "YAHOO_CLIENT_SECRET", "FASTMAIL_CLIENT_ID",
	} {
		t.Setenv(name, "dummy-"+name)
	}
	for _, name := range []string{"WEBSHOP_KEY", "SHOP_KEY", "REPORTING_KEY", "LAB_KEY", "NEWSLETTER_KEY"} {
		t.Setenv(name, "dummy-key-with-24-characters-"+name)
	}
	t.Setenv("ADMIN_PASSWORD_HASH", "$2a$10$HOdM9z9ZOHxdSzkvNIka0upEG7VxoVvVHpg.tkAMJlUD8x9EKJzy6")
	t.Setenv("LAB_PROXY", "http://user:dummy@proxy.example.net:3128")
	secrets := t.TempDir()
	writeFile(t, filepath.Join(secrets, "m365_secret"), []byte("dummy\n"))
	writeFile(t, filepath.Join(secrets, "app.pem"), certificatePEM(t, time.Now().Add(day)))
	account, err := os.ReadFile(serviceAccount(t))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(secrets, "workspace.json"), account)
	t.Setenv("OAUTH_MAIL_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	t.Setenv("OAUTH_MAIL_OLD_KEY", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
	files, err := filepath.Glob("../examples/*.caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range append(files, "../Caddyfile.example") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if formatted := caddyfile.Format(data); !bytes.Equal(formatted, data) {
				t.Errorf("not formatted:\n%s", cmp.Diff(string(data), string(formatted)))
			}
			out, err := adapt(t, string(data))
			if err != nil {
				t.Fatal(err)
			}
			validate(t, bytes.ReplaceAll(out, []byte("/run/secrets"), []byte(secrets)))
		})
	}
}

// validating keeps Caddy to one configuration at a time, as its own callers do.
var validating sync.Mutex

// validate provisions a configuration and cleans up, as `caddy validate` does.
func validate(t *testing.T, config []byte) {
	t.Helper()
	if err := validateError(t, config); err != nil {
		t.Fatal(err)
	}
}

func validateError(t *testing.T, config []byte) error {
	t.Helper()
	validating.Lock()
	defer validating.Unlock()
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&c)
}

var detailCode = regexp.MustCompile(`p\.code = "([a-z_]+)"|, p\.code = .*, "([a-z_]+)"|refuse\([^"]*"([a-z_]+)"|invalid\("?\w+"?, "([a-z_]+)"|badAttachment\([^"]*(?:"[^"]*"[^"]*)?"([a-z_]+)", "`)

// TestDocsNameCodes: a program can meet no detail_code that the documentation
// does not have.
func TestDocsNameCodes(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range []string{"send.go", "post.go", "email.go", "decode.go", "budget.go", "reply.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range detailCode.FindAllStringSubmatch(string(source), -1) {
			for _, code := range m[1:] {
				if code == "" {
					continue
				}
				found++
				if !strings.Contains(string(docs), "`"+code+"`") {
					t.Errorf("%s: the documentation does not have %s", file, code)
				}
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d codes found in the source: the search is broken", found)
	}
}

var fencedCaddyfile = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")

// TestDocs holds the configurations in the documentation to what Caddy takes. A
// block that is no whole Caddyfile stands for what goes into a site, if it has
// our directive, or into the global option.
func TestDocs(t *testing.T) {
	t.Setenv("M365_CLIENT_ID", "dummy")
	t.Setenv("WEBSHOP_KEY", "dummy-key-with-24-characters")
	t.Setenv("ADMIN_PASSWORD_HASH", "$2a$10$HOdM9z9ZOHxdSzkvNIka0upEG7VxoVvVHpg.tkAMJlUD8x9EKJzy6")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("dummy"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, file := range append(files, "../README.md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fencedCaddyfile.FindAllStringSubmatch(string(data), -1) {
			config := m[1]
			if formatted := string(caddyfile.Format([]byte(config))); formatted != config {
				t.Errorf("%s: not formatted:\n%s", file, cmp.Diff(config, formatted))
			}
			switch {
			case strings.HasPrefix(config, "{"):
				whole++
			case strings.Contains(config, "oauth_mail "):
				config = "http://localhost {\n" + config + "}\n"
			default:
				config = "{\n\toauth_mail {\n" + config + "\n\t}\n}\n"
			}
			out, err := adapt(t, config)
			if err != nil {
				t.Errorf("%s: %v\n%s", file, err, config)
				continue
			}
			if strings.HasPrefix(m[1], "{") {
				validate(t, bytes.ReplaceAll(out, []byte("/run/secrets/m365_secret"), []byte(secret)))
			}
		}
	}
	if whole == 0 {
		t.Error("the documentation has no whole Caddyfile")
	}
}
