package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule/endurance"
)

// What the send route costs beside Caddy's respond handler, without connections: by a
// tenant that delivers nothing, and with a log that goes nowhere.
//
//	go test ./caddymodule -run '^$' -bench SendHandler -benchmem
func BenchmarkSendHandler(b *testing.B) {
	server := serveInside(b, `{
		admin off
		persist_config off
		storage file_system DIR/storage
		log {
			output file /dev/null {
				roll_disabled
			}
		}
		oauth_mail {
			outbox off
			tenant nobody {
				server localhost
				auth none
				from a@example.com
				deliver none
				max_messages 1000000
			}
			key web key-of-the-benchmark-of-the-handler nobody
		}
	}
	http://localhost:0 {
		handle /respond {
			respond "{\"id\":\"0\"}"
		}
		oauth_mail send
	}`)
	body, err := json.Marshal(map[string]any{
		"to": "b@example.net", "subject": "benchmark", "text": strings.Repeat("0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 abcdefghijkl\n", 16),
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range []string{"/respond", "/emails"} {
		b.Run(strings.TrimPrefix(path, "/"), func(b *testing.B) {
			b.ReportAllocs()
			w := &quietWriter{header: make(http.Header)}
			read := bytes.NewReader(nil)
			for b.Loop() {
				read.Reset(body)
				clear(w.header)
				r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://localhost"+path, io.NopCloser(read))
				if err != nil {
					b.Fatal(err)
				}
				r.RemoteAddr, r.ContentLength = "127.0.0.1:1", int64(len(body))
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Authorization", "Bearer key-of-the-benchmark-of-the-handler")
				server.ServeHTTP(w, r)
				if w.status != http.StatusOK {
					b.Fatalf("status %d: %s", w.status, w.body)
				}
			}
		})
	}
}

// serveInside runs Caddy in this process and returns its only server. DIR in its
// configuration is a folder.
func serveInside(b *testing.B, config string) *caddyhttp.Server {
	b.Helper()
	dir := b.TempDir()
	asJSON, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.ReplaceAll(config, "DIR", dir)), nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := caddy.Load(asJSON, true); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = caddy.Stop()
		// What was begun in the background writes to the storage once more.
		endurance.Eventually(b, 10*time.Second, "the folder is left alone", func() bool { return os.RemoveAll(dir) == nil })
	})
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		b.Fatal(err)
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		return server
	}
	b.Fatal("there is no server")
	return nil
}

// quietWriter keeps the last answer.
// SetReadDeadline is for nobody.
func (*quietWriter) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is for nobody.
func (*quietWriter) SetWriteDeadline(time.Time) error { return nil }

type quietWriter struct {
	header http.Header
	status int
	body   []byte
}

func (w *quietWriter) Header() http.Header { return w.header }

func (w *quietWriter) WriteHeader(status int) { w.status, w.body = status, w.body[:0] }

func (w *quietWriter) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return len(b), nil
}
