package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// storageApp is an app with a storage and keys and nothing else.
func storageApp(t *testing.T, storage certmagic.Storage, log io.Writer, keys ...string) *App {
	t.Helper()
	a := &App{saved: new(savedSettings), storage: storage, EncryptionKeys: keys, logger: slog.New(slog.NewTextHandler(log, nil))}
	ring, err := a.keyRing()
	if err != nil {
		t.Fatal(err)
	}
	a.keys = ring
	a.store = tokens.NewStore(durable(storage), ring)
	a.registry.current.Store(&snapshot{})
	return a
}

// TestSelfTestOfFiles: Caddy's own storage passes. Only its clock is found to
// differ, from that of this test's bubble.
func TestSelfTestOfFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		files := &certmagic.FileStorage{Path: filepath.Join(dir, "storage")}
		a := storageApp(t, files, &log)
		a.testStorage(t.Context())
		v := a.storageReport()
		if v.TestedAt == nil || len(v.Findings) != 1 || !strings.Contains(v.Findings[0], "clock") || len(v.Probes) < 11 {
			t.Errorf("report %+v", v)
		}
		for _, p := range v.Probes {
			if p.Name != "clock" && p.Result != "ok" {
				t.Errorf("%+v", p)
			}
		}
		if v.Shared || v.Storage != "files in "+files.Path {
			t.Errorf("storage %q, shared %v", v.Storage, v.Shared)
		}
		if !strings.Contains(log.String(), "the storage lacks something") {
			t.Errorf("log: %s", &log)
		}
		time.Sleep(10 * time.Second) // certmagic looks after a lock for five seconds more
		for name := range tree(t, dir) {
			if name != keyFile(files.Path) {
				t.Errorf("left behind: %s", name)
			}
		}
		// A reload does not test again.
		var second lockedBuffer
		b := storageApp(t, files, &second)
		b.testStorage(t.Context())
		if again := b.condition.test.Load(); again == nil || !again.Ended.Equal(*v.TestedAt) || second.String() != "" {
			t.Errorf("tested again: %s", &second)
		}
	})
}

// shared is a storage that is not certmagic's file storage.
type shared struct{ certmagic.Storage }

func TestSelfTestOfSharedStorage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		a := storageApp(t, shared{&certmagic.FileStorage{Path: dir}}, &log, tokens.NewKey())
		if v := a.storageReport(); v.TestedAt != nil || v.Findings != nil || v.Records != nil || len(v.Keys) != 1 || !v.Shared {
			t.Errorf("before the test: %+v", v)
		}
		a.testStorage(t.Context())
		v := a.storageReport()
		if v.Storage != "caddymodule.shared" || strings.Contains(v.Storage, dir) {
			t.Errorf("storage %q", v.Storage)
		}
		for _, p := range v.Probes {
			if want := map[string]string{"clock": "lacking", "lock, between instances": "untested"}[p.Name]; p.Result != want && (want != "" || p.Result != "ok") {
				t.Errorf("%+v", p)
			}
		}
		time.Sleep(10 * time.Second)
	})
}

// TestTendStorage: records under an old key are sealed anew some minutes after a
// start, and it shows when the old key may go.
func TestTendStorage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		files := &certmagic.FileStorage{Path: dir}
		oldKey, newKey, lostKey := tokens.NewKey(), tokens.NewKey(), tokens.NewKey()
		save := func(user, key string, life time.Duration) *tokens.Token {
			now := time.Now().UTC()
			token := &tokens.Token{
				Account: tokens.Account{Provider: "p", User: user}, Generation: 1, RefreshToken: tokens.NewSecret("r"),
				AccessToken: tokens.NewSecret("a"), AuthorizedAt: now, IssuedAt: now, Expiry: now.Add(life),
			}
			if err := storageApp(t, files, &log, key).store.Save(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			return token
		}
		token := save("a@example.com", oldKey, 48*time.Hour)
		// This one is about to be renewed at the time of the first pass.
		save("b@example.com", oldKey, 16*time.Minute)
		save("c@example.com", lostKey, 48*time.Hour)
		a := storageApp(t, files, &log, newKey, oldKey)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			a.tendStorage(ctx)
		}()
		time.Sleep(time.Minute)
		if v := a.storageReport(); v.Records != nil || v.TestedAt == nil {
			t.Errorf("after a minute: %+v", v)
		}
		time.Sleep(2 * rewrapDelay)
		v := a.storageReport()
		if v.Records == nil || v.Records.Rewrapped != 1 || v.Records.Left != 1 || len(v.Keys) != 3 {
			t.Fatalf("after the first pass: %+v", v)
		}
		if *v.Keys[0].Records != 1 || *v.Keys[1].Records != 1 || v.Keys[1].Unneeded || *v.Keys[2].Records != 1 || v.Keys[2].Configured {
			t.Errorf("keys %+v", v.Keys)
		}
		if !strings.Contains(log.String(), "sealed with a key that is not configured") {
			t.Errorf("log: %s", &log)
		}
		time.Sleep(150 * time.Minute) // what was left comes within hours, not the next day
		if v = a.storageReport(); !v.Keys[1].Unneeded || v.Keys[0].Unneeded || v.Records.Left != 0 {
			t.Errorf("later: %+v", v)
		}
		if got, err := storageApp(t, files, &log, newKey).store.Load(t.Context(), token.Account); err != nil || got.Generation != 1 {
			t.Errorf("with the new key alone: %v", err)
		}
		counted := v.Records.CountedAt
		time.Sleep(26 * time.Hour)
		if !a.storageReport().Records.CountedAt.After(counted) {
			t.Error("there is no daily pass")
		}
		cancel()
		<-ended
		text, _ := json.Marshal(v)
		for _, key := range []string{oldKey, newKey} {
			if strings.Contains(log.String()+string(text), key) {
				t.Error("a key shows")
			}
		}
		time.Sleep(10 * time.Second)
	})
}

// TestStorageRoute: the administration shows it, while the test still runs.
func TestStorageRoute(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.signIn()
	var v storageView
	for deadline := time.Now().Add(30 * time.Second); len(v.Probes) < 8; {
		if time.Now().After(deadline) {
			t.Fatalf("only %+v", v)
		}
		got := s.admin("GET", "/storage")
		if got.status != 200 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		if err := json.Unmarshal([]byte(got.body), &v); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range v.Probes {
		if p.Result != "ok" || p.Milliseconds < 0 {
			t.Errorf("%+v", p)
		}
	}
	if v.Storage != "files in "+s.dir+"/storage" || len(v.Keys) != 1 || !v.Keys[0].Configured || len(v.Keys[0].ID) != 8 {
		t.Errorf("%+v", v)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "storage", "oauth_mail", "selftest", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSealedStorageNeedsKey: a storage that others can reach needs a key in the
// configuration, and sealed records the one that sealed them.
func TestSealedStorageNeedsKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := &certmagic.FileStorage{Path: filepath.Join(dir, "storage")}
	a := &App{storage: shared{files}}
	if _, err := a.keyRing(); err == nil || !strings.Contains(err.Error(), "encryption_key: missing") {
		t.Errorf("shared storage without a key: %v", err)
	}
	// Something lies in the place of records, and it is not known what.
	if err := os.MkdirAll(filepath.Join(files.Path, "oauth_mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(files.Path, "oauth_mail", "tokens")
	if err := os.Symlink(blocked, blocked); err != nil { // a loop: no error of a file that is missing
		t.Fatal(err)
	}
	if _, err := failing(t, files).keys(); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with a storage that cannot be listed: %v", err)
	}
	if _, err := os.Stat(keyFile(files.Path)); err == nil {
		t.Error("a key was made though it is not known whether there are records")
	}
	// Records of a configured key, which is then left out.
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	account := tokens.Account{Provider: "p", User: "a@example.com"}
	if err := storageApp(t, files, &log, tokens.NewKey()).store.Save(t.Context(), &tokens.Token{Account: account}); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	if _, err := storageApp(t, files, &log).keys(); err == nil || !strings.Contains(err.Error(), "an encryption_key that is no longer configured") {
		t.Errorf("encryption_key left out: %v", err)
	}
	if after := tree(t, dir); len(after) != len(before) {
		t.Errorf("files were made: %v", after)
	}
}

// failing is an app whose storage's List fails.
func failing(t *testing.T, files *certmagic.FileStorage) *App {
	t.Helper()
	a := storageApp(t, files, io.Discard)
	a.store = tokens.NewStore(unlistable{files}, a.keys)
	return a
}

type unlistable struct{ *certmagic.FileStorage }

func (unlistable) List(context.Context, string, bool) ([]string, error) {
	return nil, errors.New("input/output error")
}

// TestSyncFolder: a file system that cannot flush a folder is no reason to lose
// tokens; a folder that is not there is one.
func TestSyncFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syncFolder(dir); err != nil {
		t.Error(err)
	}
	if err := syncFolder(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
	if _, err := os.Stat("/proc/self"); err == nil {
		if err := syncFolder("/proc/self"); err != nil {
			t.Errorf("a file system that cannot: %v", err)
		}
	}
}

// TestDurableDelete: what is not there may be deleted again.
func TestDurableDelete(t *testing.T) {
	t.Parallel()
	s := durable(&certmagic.FileStorage{Path: t.TempDir()})
	if err := s.Store(t.Context(), "a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a/b/c", "a/b/c", "x/y/z"} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}
