package bolt

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/outboxtest"
)

// testSealer seals for real, with a key that all tests share.
type testSealer struct{ aead cipher.AEAD }

var sealer = sync.OnceValue(func() testSealer { return newSealer("0123456789abcdef") })

// newSealer makes a sealer of a key of 16 octets.
func newSealer(key string) testSealer {
	block, err := aes.NewCipher([]byte(key))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return testSealer{aead}
}

func (s testSealer) AppendSeal(dst []byte, name string, plain []byte) ([]byte, error) {
	return s.aead.Seal(dst, nil, plain, []byte(name)), nil
}

func (s testSealer) AppendOpen(dst []byte, name string, sealed []byte) ([]byte, error) {
	return s.aead.Open(dst, nil, sealed, []byte(name))
}

// plug lets commits fail, or wait.
type plug struct {
	mu      sync.Mutex
	err     error        // of all commits
	fail    func() error // asked before a commit
	late    error        // returned by commits that were made
	commits int
}

func (p *plug) commit(write func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if p.fail != nil {
		if err := p.fail(); err != nil {
			return err
		}
	}
	p.commits++
	if err := write(); err != nil {
		return err
	}
	return p.late
}

func (p *plug) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		in, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

var errDead = errors.New("the process is dead")

// TestConformance: the engine does what all engines do.
func TestConformance(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, func(t *testing.T) outboxtest.Harness {
		folder := t.TempDir()
		plugs := map[outbox.Engine]*plug{}
		return outboxtest.Harness{
			Open: func() outbox.Engine {
				p := &plug{}
				e, err := open(folder, Options{Sealer: sealer()}, func(e *Engine) { e.commit = p.commit })
				if err != nil {
					t.Fatal(err)
				}
				plugs[e] = p
				return e
			},
			Crash: func(e outbox.Engine) {
				p := plugs[e]
				old := folder
				folder = t.TempDir()
				p.set(func() {
					p.err = errDead
					copyFolder(t, old, folder)
				})
				t.Cleanup(func() { _ = e.Close() })
			},
		}
	})
}

// letter makes a message that is due, and its content.
func letter(tenant string, octets string) (*outbox.Message, mailer.Content) {
	now := time.Now().UTC()
	m := &outbox.Message{
		ID: mailer.NewID(), Tenant: tenant, Caller: mailer.Caller{Kind: "key", Name: "crm"},
		From:       mailer.Address{Local: "noreply", Domain: "example.com"},
		Recipients: []outbox.Recipient{{Address: mailer.Address{Local: "someone", Domain: "example.org"}}},
		Size:       int64(len(octets)), Accepted: now, Expires: now.Add(48 * time.Hour), State: outbox.StateQueued, Due: now,
	}
	return m, m.Content(mailer.Bytes(octets))
}

var (
	small = "Subject: hello\r\n\r\n" + strings.Repeat("text\r\n", 300)
	// large is kept in a file.
	large = strings.Repeat(small, maxInline/len(small)+1)
)
