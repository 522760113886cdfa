package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// moveTo makes a Caddy of the same configuration, but for the replacements,
// with its storage in another folder. It is not started.
func (s *oauthSite) moveTo(dir string, replacements ...string) *oauthSite {
	s.t.Helper()
	config, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.NewReplacer(append(replacements, s.dir+"/storage", dir+"/storage")...).Replace(string(config))
	p := *s.caddyProcess
	p.dir, p.config, p.output, p.cmd = dir, filepath.Join(dir, "Caddyfile"), newLogFile(s.t), nil
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.kill)
	return &oauthSite{caddyProcess: &p, idp: s.idp, mail: s.mail}
}

// mustRun runs a command of Caddy's.
func (p *caddyProcess) mustRun(args ...string) {
	p.t.Helper()
	if out, err := p.command(args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// records returns the token records in the storage, by file.
func (p *caddyProcess) records() map[string]string {
	p.t.Helper()
	found := map[string]string{}
	for name, data := range tree(p.t, filepath.Join(p.dir, "storage")) {
		if strings.HasSuffix(name, ".tok") {
			found[strings.TrimPrefix(name, p.dir)] = data
		}
	}
	return found
}

// TestExportImport: a sign-in moves to another storage with Caddy's commands. It
// needs its key there, and stays as it is without.
func TestExportImport(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t, withoutOutbox)
	s.signIn()
	s.kill()
	archive := filepath.Join(t.TempDir(), "storage.tar")
	s.mustRun("storage", "export", "--config", s.config, "--output", archive)
	exported, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(exported); strings.Contains(text, mailbox) || strings.Contains(text, "refresh-") || strings.Contains(text, "access-") {
		t.Error("the archive tells accounts or tokens")
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "storage-oauth_mail.key"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(exported), strings.TrimSpace(string(key))) {
		t.Fatal("the key is in the archive")
	}
	want := s.records()
	if len(want) != 1 {
		t.Fatalf("%d records", len(want))
	}
	imported := func(t *testing.T, replacements ...string) *oauthSite {
		t.Helper()
		m := s.moveTo(t.TempDir(), replacements...)
		m.mustRun("storage", "import", "--config", m.config, "--input", archive)
		if diff := cmp.Diff(want, m.records()); diff != "" {
			t.Fatalf("imported (-want +got):\n%s", diff)
		}
		return m
	}
	unchanged := func(t *testing.T, m *oauthSite) {
		t.Helper()
		if diff := cmp.Diff(want, m.records()); diff != "" {
			t.Errorf("the records were changed (-want +got):\n%s", diff)
		}
	}

	t.Run("without the key", func(t *testing.T) {
		m := imported(t)
		out, err := m.command("run", "--config", m.config, "--adapter", "caddyfile").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "storage-oauth_mail.key is missing, and the storage holds tokens") {
			t.Errorf("started: %v\n%s", err, out)
		}
		unchanged(t, m)
		if _, err := os.Stat(filepath.Join(m.dir, "storage-oauth_mail.key")); err == nil {
			t.Error("a key was made")
		}
	})
	t.Run("with a rubbish key", func(t *testing.T) {
		m := imported(t)
		name := filepath.Join(m.dir, "storage-oauth_mail.key")
		if err := os.WriteFile(name, []byte("garbage-of-a-key\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := m.command("run", "--config", m.config, "--adapter", "caddyfile").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "the key that seals tokens, in "+name) || strings.Contains(string(out), "garbage-of") {
			t.Errorf("started: %v\n%s", err, out)
		}
		unchanged(t, m)
	})
	t.Run("with another key", func(t *testing.T) {
		m := imported(t, "oauth_mail {\n", "oauth_mail {\nencryption_key "+tokens.NewKey()+"\n")
		m.start()
		defer m.kill()
		if got := m.send(mailBody); got.status != 503 || !strings.Contains(got.body, "token_unreadable") {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		unchanged(t, m)
	})
	t.Run("with the key file", func(t *testing.T) {
		m := imported(t)
		if err := os.WriteFile(filepath.Join(m.dir, "storage-oauth_mail.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		m.start()
		defer m.kill()
		if got := m.send(mailBody); got.status != 200 {
			t.Errorf("status %d: %s\n%s", got.status, got.body, m.output)
		}
	})
	t.Run("with the key in the configuration, behind a new one", func(t *testing.T) {
		m := imported(t, "oauth_mail {\n", "oauth_mail {\nencryption_key "+tokens.NewKey()+" "+strings.TrimSpace(string(key))+"\n")
		m.start()
		defer m.kill()
		if got := m.send(mailBody); got.status != 200 {
			t.Errorf("status %d: %s\n%s", got.status, got.body, m.output)
		}
	})
	t.Run("from a newer version", func(t *testing.T) {
		m := imported(t)
		if err := os.WriteFile(filepath.Join(m.dir, "storage-oauth_mail.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		for name, data := range m.records() {
			newer := []byte(data)
			newer[4]++ // the version of the format
			if err := os.WriteFile(filepath.Join(m.dir, name), newer, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := m.records()
		m.start()
		defer m.kill()
		if got := m.send(mailBody); got.status != 503 || !strings.Contains(got.body, "token_unreadable") {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		if diff := cmp.Diff(before, m.records()); diff != "" {
			t.Errorf("a newer version's record was changed:\n%s", diff)
		}
	})
	if n := s.idp.Reused(); n != 0 {
		t.Errorf("%d refresh tokens were presented twice", n)
	}
}
