package caddymodule

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// newTestExpander returns an expander and what it and its values log.
func newTestExpander() (*expander, *lockedBuffer) {
	log := new(lockedBuffer)
	return &expander{replacer: caddy.NewReplacer().WithoutFile(), logger: slog.New(slog.NewTextHandler(log, nil)), place: "provider p"}, log
}

func writeFile(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificatePEM makes a certificate of its own that ends at a given time, with its
// RSA key.
func certificatePEM(t *testing.T, end time.Time) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return certifiedPEM(t, key, end)
}

// certifiedPEM is certificatePEM for a given key.
func certifiedPEM(t *testing.T, key crypto.Signer, end time.Time) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotBefore: end.Add(-1000 * day), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...,
	)
}

// TestSecretFileReplaced: what a file says now is used, and a file that is away
// for a moment ends nothing.
func TestSecretFileReplaced(t *testing.T) {
	t.Setenv("SECRET_PART", "env-1")
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, []byte("file-1\r\n"))
	e, log := newTestExpander()
	get := e.secretFunc("client_secret", "a-{env.SECRET_PART}-{file."+file+"}")
	if len(e.errs) > 0 {
		t.Fatal(e.errs)
	}
	want := func(want string) {
		t.Helper()
		s, err := get()
		if err != nil || s.Reveal() != want {
			t.Errorf("got %q, %v, want %q", s.Reveal(), err, want)
		}
	}
	want("a-env-1-file-1")
	// The environment is that of the start; placeholders in files are none.
	t.Setenv("SECRET_PART", "env-2")
	writeFile(t, file, []byte("file-2 {env.SECRET_PART}\n"))
	want("a-env-1-file-2 {env.SECRET_PART}")
	for _, broken := range []func() error{
		func() error { return os.Remove(file) },
		func() error { return os.WriteFile(file, nil, 0o600) },
		func() error { return os.WriteFile(file, []byte("\n"), 0o600) },
	} {
		if err := broken(); err != nil {
			t.Fatal(err)
		}
		want("a-env-1-file-2 {env.SECRET_PART}")
		want("a-env-1-file-2 {env.SECRET_PART}")
	}
	if n := strings.Count(log.String(), "can't be used"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, log)
	}
	writeFile(t, file, []byte("file-3"))
	want("a-env-1-file-3")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	want("a-env-1-file-3")
	if n := strings.Count(log.String(), "can't be used"); n != 2 {
		t.Errorf("%d warnings, want another for another trouble:\n%s", n, log)
	}
	for _, canary := range []string{"file-1", "file-2", "file-3", "env-1"} {
		if strings.Contains(log.String(), canary) {
			t.Errorf("the secret is in the log:\n%s", log)
		}
	}
}

// TestSecretWithoutFiles: a secret that cannot change is read once.
func TestSecretWithoutFiles(t *testing.T) {
	t.Setenv("SECRET_PART", "{file./etc/passwd}")
	e, log := newTestExpander()
	get := e.secretFunc("client_secret", "{env.SECRET_PART}")
	s, err := get()
	if err != nil || len(e.errs) > 0 || s.Reveal() != "{file./etc/passwd}" {
		t.Errorf("a value was expanded itself: %q, %v, %v", s.Reveal(), err, e.errs)
	}
	if log.String() != "" {
		t.Errorf("logged %s", log)
	}
	e.secretFunc("client_secret", "literal-secret")
	if !strings.Contains(log.String(), "in clear") || strings.Contains(log.String(), "literal-secret") {
		t.Errorf("a literal secret: logged %s", log)
	}
}

// TestCertificateReplaced: a new certificate is used without a reload, and its
// own end counts.
func TestCertificateReplaced(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "app.pem")
	end := time.Date(2027, 6, 30, 12, 0, 0, 0, time.UTC)
	writeFile(t, file, certificatePEM(t, end))
	e, log := newTestExpander()
	list := e.credentials([]Credential{{Certificate: file}})
	if len(e.errs) > 0 || len(list) != 1 || list[0].Name != "client_certificate" {
		t.Fatal(e.errs, list)
	}
	first, err := list[0].Key()
	if err != nil || !list[0].expires().Equal(end) {
		t.Errorf("%v, ends at %s", err, list[0].expires())
	}
	writeFile(t, file, certificatePEM(t, end.AddDate(1, 0, 0)))
	second, err := list[0].Key()
	if err != nil || second == first || !list[0].expires().Equal(end.AddDate(1, 0, 0)) {
		t.Errorf("%v, ends at %s", err, list[0].expires())
	}
	writeFile(t, file, []byte("half a certif"))
	if third, err := list[0].Key(); err != nil || third != second {
		t.Errorf("with a broken file: %v", err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), file) {
		t.Errorf("%d warnings, want one that names the file:\n%s", n, log)
	}
}

// TestFederatedTokenFile: such files change each hour, and end with a line break.
func TestFederatedTokenFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, []byte("header.claims.signature\n"))
	e, _ := newTestExpander()
	list := e.credentials([]Credential{{FederatedToken: file}})
	if len(e.errs) > 0 {
		t.Fatal(e.errs)
	}
	for _, want := range []string{"header.claims.signature", "header.new.signature"} {
		s, err := list[0].Assertion()
		if err != nil || s.Reveal() != want {
			t.Errorf("got %q, %v", s.Reveal(), err)
		}
		writeFile(t, file, []byte("header.new.signature\n"))
	}
}

// TestCredentialOrder: they are tried in the order written, whatever their kinds,
// and operators are told which one is meant.
func TestCredentialOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "app.pem"), certificatePEM(t, time.Now().Add(day)))
	e, _ := newTestExpander()
	list := e.credentials([]Credential{
		{Secret: "{env.PATH}", Expires: "2028-06-30"}, {Certificate: filepath.Join(dir, "app.pem")}, {Secret: "{env.HOME}"},
	})
	if len(e.errs) > 0 {
		t.Fatal(e.errs)
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	if got := strings.Join(names, ", "); got != "client_secret 1, client_certificate, client_secret 2" {
		t.Errorf("got %s", got)
	}
	if at := list[0].expires(); !at.Equal(time.Date(2028, 6, 30, 0, 0, 0, 0, time.UTC)) || !list[2].expires().IsZero() {
		t.Errorf("ends at %s", at)
	}
	p, err := build(settings{
		redirectBase: "https://a.example/cb",
		providers: map[string]providerSettings{"p": {
			Provider:    Provider{Preset: "microsoft", Directory: "contoso.com", ClientID: "c", Grant: "client_credentials"},
			credentials: list,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range p.providers["p"].settings.Credentials {
		order = append(order, c.Name)
	}
	if strings.Join(order, ", ") != strings.Join(names, ", ") || p.providers["p"].settings.Grant != tokens.GrantClientCredentials {
		t.Errorf("built %v", order)
	}
}
