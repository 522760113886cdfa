package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// maxSecretFile is the most that is read of a file with a secret.
const maxSecretFile = 1 << 20

// liveText is a string of the configuration. It can be expanded again: files are
// read anew, and everything else keeps its value of the first time. What an
// expansion brings in is never expanded itself.
type liveText struct {
	text     string
	replacer *caddy.Replacer
	// kept are the values that do not come from files; nil before the first
	// time.
	kept map[string]string
	// live: there are files in it.
	live bool
}

// expand returns the text with its placeholders replaced. An error names the
// placeholder that has no value, and shows no value. Not for concurrent use.
func (t *liveText) expand() (string, error) {
	if !strings.Contains(t.text, "{") {
		return t.text, nil
	}
	first := t.kept == nil
	if first {
		t.kept = make(map[string]string)
	}
	return t.replacer.ReplaceFunc(t.text, func(name string, value any) (any, error) {
		if file, ok := strings.CutPrefix(name, "file."); ok {
			t.live = true
			content, err := readSecretFile(file)
			return strings.TrimRight(string(content), "\r\n"), err // as files end
		}
		if first {
			t.kept[name] = caddy.ToString(value)
		}
		if t.kept[name] == "" {
			if variable, ok := strings.CutPrefix(name, "env."); ok {
				return nil, fmt.Errorf("the environment variable %s is not set, or empty", variable)
			}
			return nil, fmt.Errorf("unrecognized or empty placeholder {%s}", name)
		}
		return t.kept[name], nil
	})
}

// readSecretFile reads a file that must not be empty.
func readSecretFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the file %s does not exist", name)
	}
	if err != nil {
		return nil, unreadableFile(name, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return nil, unreadableFile(name, err)
	case len(content) > maxSecretFile:
		return nil, fmt.Errorf("the file %s is too long for a secret", name)
	case len(bytes.TrimSpace(content)) == 0:
		return nil, fmt.Errorf("the file %s is empty", name)
	}
	return content, nil
}

// unreadableFile tells why a file with a secret cannot be read.
func unreadableFile(name string, err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the file %s cannot be read: %w; Caddy runs as %s, who must be allowed to", name, err, processUser())
	}
	return fmt.Errorf("the file %s cannot be read: %w", name, err)
}

// secretFile is a value made of files that may be replaced while it is in use.
// It is safe for concurrent use.
type secretFile[T any] struct {
	// place names the setting.
	place  string
	read   func() ([]byte, error)
	parse  func([]byte) (T, error)
	logger *slog.Logger

	mu      sync.Mutex
	content []byte // that value was made of
	value   T
	failing bool // and a warning is in the log
}

// load reads the files for the first time. Without it there is no value to go on
// with.
func (f *secretFile[T]) load() error {
	content, err := f.read()
	if err != nil {
		return err
	}
	value, err := f.parse(content)
	if err != nil {
		return err
	}
	f.content, f.value = content, value
	return nil
}

// get returns the value of the files as they are now. While they are away or
// broken, as they can be for a moment when somebody replaces them, it is the
// last good one.
func (f *secretFile[T]) get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	content, err := f.read()
	if err == nil && bytes.Equal(content, f.content) {
		f.failing = false
		return f.value, nil
	}
	var value T
	if err == nil {
		value, err = f.parse(content)
	}
	if err != nil {
		if !f.failing {
			f.logger.Warn("a secret's file can't be used; the last good one goes on being used until it is mended",
				"setting", f.place, "error", err)
		}
		f.failing = true
		return f.value, nil
	}
	f.logger.Info("a secret's file has changed; the new one is used from now on", "setting", f.place)
	f.content, f.value, f.failing = content, value, false
	return value, nil
}
