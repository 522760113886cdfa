package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// keyRing returns what opens the keys that seal tokens: the configured ones or,
// with file storage, one in a file of its own. Configured keys are read now, so
// that a wrong one fails the configuration. The file is read, and made, when
// the keys are first used: never while a configuration is only checked.
func (a *App) keyRing() (func() (*tokens.KeyRing, error), error) {
	if len(a.EncryptionKeys) > 0 {
		ring, err := a.configuredKeys()
		return func() (*tokens.KeyRing, error) { return ring, nil }, err
	}
	files, ok := a.storage.(*certmagic.FileStorage)
	if !ok {
		return nil, errors.New("encryption_key: missing; tokens in a storage that others can reach are sealed with a key that you give to every instance, such as `openssl rand -base64 32` prints")
	}
	return sync.OnceValues(func() (*tokens.KeyRing, error) { return a.keyFromFile(keyFile(files.Path)) }), nil
}

func (a *App) configuredKeys() (*tokens.KeyRing, error) {
	e := &expander{replacer: caddy.NewReplacer(), logger: a.logger, place: "oauth_mail"}
	var keys [][]byte
	for i, text := range a.EncryptionKeys {
		word := fmt.Sprintf("encryption_key, key %d", i+1)
		if e.secret(word, &text); len(e.errs) > 0 {
			return nil, errors.Join(e.errs...)
		}
		key, err := tokens.ParseKey(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
		keys = append(keys, key)
	}
	return tokens.NewKeyRing(keys...)
}

// keyFile is where the key lies: beside the storage's folder, so that a copy of
// the one is not a copy of both.
func keyFile(root string) string {
	root = filepath.Clean(root)
	return filepath.Join(filepath.Dir(root), filepath.Base(root)+"-oauth_mail.key")
}

func (a *App) keyFromFile(name string) (*tokens.KeyRing, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = a.makeKeyFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("the key that seals tokens: %w", fileError(err))
	}
	key, err := tokens.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("the key that seals tokens, in %s, is broken; a new one opens nothing that this one has sealed: bring the file back from a backup", name)
	}
	return tokens.NewKeyRing(key)
}

// makeKeyFile makes a new key, unless there are tokens or messages that an old one
// sealed.
func (a *App) makeKeyFile(name string) ([]byte, error) {
	sealed, err := a.store.HasRecords(context.Background())
	if err != nil {
		return nil, err
	}
	if sealed {
		return nil, fmt.Errorf("%s is missing, and the storage holds tokens sealed with it, or with an encryption_key that is no longer configured; bring the one back from a backup or the other into the configuration, or delete oauth_mail/tokens in the storage and sign in again", name)
	}
	if sealed, err = a.settingsStore().hasRecords(context.Background()); err != nil {
		return nil, err
	}
	if sealed {
		return nil, fmt.Errorf("%s is missing, and the storage holds settings made at run time that were sealed with it, or with an encryption_key that is no longer configured; bring the one back from a backup or the other into the configuration, or delete oauth_mail/settings in the storage and make them again", name)
	}
	if held, ok := a.engine.(outboxHolder); ok && held.OutboxExists() {
		return nil, fmt.Errorf("%s is missing, and the outbox (%s) was sealed with it, or with an encryption_key that is no longer configured; bring the one back from a backup or the other into the configuration, or move the outbox away and lose the messages in it", name, a.engine.OutboxKey())
	}
	text, err := makeSecretFile(name, tokens.NewKey()+"\n")
	if err != nil {
		return nil, err
	}
	a.logger.Info("made a key that seals tokens; keep a copy of it apart from the storage", "file", name)
	return text, nil
}

// makeSecretFile makes a file that only its owner can read, and returns what is in it.
// It appears under its name whole and once, or not at all: another instance may be
// starting, too, and the file of the first one is that of both.
func makeSecretFile(name, content string) ([]byte, error) {
	fresh := missingFolders(filepath.Dir(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+"-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	text := []byte(content)
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	switch err := os.Link(f.Name(), name); {
	case errors.Is(err, fs.ErrExist):
		return os.ReadFile(name)
	case err != nil: // some file systems have no links; they seldom have two instances
		if err := os.Rename(f.Name(), name); err != nil {
			return nil, err
		}
	}
	// It must outlive a power cut if what it protects does.
	for _, dir := range append(fresh, filepath.Dir(name)) {
		if err := syncFolder(dir); err != nil {
			return nil, err
		}
	}
	return text, nil
}
