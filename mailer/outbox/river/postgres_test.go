package river

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/river/postgrestest"
)

// dsn is that of the server that the tests share.
var dsn string

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	flag.Parse()
	var stop func()
	var err error
	dsn, stop, err = postgrestest.Start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "these tests need PostgreSQL (initdb and postgres, found by pg_config or in /usr/lib/postgresql): %v\n", err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

var schemas atomic.Int64

// newSchema names a schema that no other test uses.
func newSchema() string { return fmt.Sprintf("t%d", schemas.Add(1)) }

// sealer binds ciphertexts to names, as the real one does.
type sealer struct{ aead cipher.AEAD }

func newSealer() sealer {
	b, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return sealer{aead}
}

func (s sealer) AppendSeal(dst []byte, name string, plain []byte) ([]byte, error) {
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce)
	return s.aead.Seal(append(dst, nonce...), nonce, plain, []byte(name)), nil
}

func (s sealer) AppendOpen(dst []byte, name string, sealed []byte) ([]byte, error) {
	if len(sealed) < s.aead.NonceSize() {
		return nil, errors.New("too short")
	}
	return s.aead.Open(dst, sealed[:s.aead.NonceSize()], sealed[s.aead.NonceSize():], []byte(name))
}

// quick are intervals for tests.
func quick() timing {
	t := usualTiming()
	t.beat, t.dead, t.poll, t.probe = 100*time.Millisecond, 800*time.Millisecond, 300*time.Millisecond, 2*time.Second
	t.end = 300 * time.Millisecond
	return t
}

// wire is the way of an engine to the database. It can be cut for good, as by the
// death of the process, or for a while.
type wire struct {
	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		if err == nil {
			c.Close()
		}
		return nil, errors.New("the wire is cut")
	}
	if err == nil {
		if w.conns == nil {
			w.conns = make(map[net.Conn]bool)
		}
		w.conns[c] = true
	}
	return c, err
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.conns {
			c.Close()
		}
		w.conns = nil
	}
}

// openTest opens an engine whose wire can be cut.
func openTest(t testing.TB, schema string, tm timing) (*Engine, *wire) {
	t.Helper()
	w := new(wire)
	e, err := open(context.Background(), Config{
		DSN: dsn, Schema: schema, MaxConnections: 8, Sealer: newSealer(), Logger: logger(t), dial: w.dial,
	}, tm)
	if err != nil {
		t.Fatal(err)
	}
	return e, w
}

// logger writes to the test's log until the test is over.
func logger(t testing.TB) *slog.Logger {
	w := &testLog{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testLog struct {
	mu sync.Mutex
	t  testing.TB
	b  strings.Builder
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil && testing.Verbose() {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return l.b.Write(p)
}
