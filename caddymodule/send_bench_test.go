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

// What the send route costs beside Caddy's respond handler, without connections and with
// a log that goes nowhere: by a tenant that delivers nothing, and, with accept, up to
// where the message is in the outbox of one that is paused.
//
//	go test ./caddymodule -run '^$' -bench SendHandler -benchmem
func BenchmarkSendHandler(b *testing.B) {
	const site = `{
		admin off
		persist_config off
		storage file_system DIR/storage
		log {
			output file /dev/null {
				roll_disabled
			}
		}
		oauth_mail {
			OUTBOX
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
	}`
	body, err := json.Marshal(map[string]any{
		"to": "b@example.net", "subject": "benchmark", "text": strings.Repeat("0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 abcdefghijkl\n", 16),
	})
	if err != nil {
		b.Fatal(err)
	}
	run := func(name, path, outbox string, want int) {
		b.Run(name, func(b *testing.B) {
			server := serveInside(b, strings.Replace(site, "OUTBOX", outbox, 1))
			if want == http.StatusAccepted {
				pauseInside(b, "nobody")
			}
			w := &quietWriter{header: make(http.Header)}
			read := bytes.NewReader(nil)
			b.ReportAllocs()
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
				r.Header.Set("Prefer", "respond-async")
				server.ServeHTTP(w, r)
				if w.status != want {
					b.Fatalf("status %d: %s", w.status, w.body)
				}
			}
		})
	}
	run("respond", "/respond", "outbox off", http.StatusOK)
	run("emails", "/emails", "outbox off", http.StatusOK)
	run("accept", "/emails", "outbox bbolt DIR/outbox", http.StatusAccepted)
}

// pauseInside pauses a tenant in the outbox of the Caddy that serveInside runs.
func pauseInside(b *testing.B, tenant string) {
	b.Helper()
	app, err := caddy.ActiveContext().App("oauth_mail")
	if err != nil {
		b.Fatal(err)
	}
	box, release, err := app.(*App).useOutbox()
	if err != nil {
		b.Fatal(err)
	}
	defer release()
	if err := box.Pause(b.Context(), tenant, "benchmark"); err != nil {
		b.Fatal(err)
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
type quietWriter struct {
	header http.Header
	status int
	body   []byte
}

// SetReadDeadline is for nobody.
func (*quietWriter) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is for nobody.
func (*quietWriter) SetWriteDeadline(time.Time) error { return nil }

func (w *quietWriter) Header() http.Header { return w.header }

func (w *quietWriter) WriteHeader(status int) { w.status, w.body = status, w.body[:0] }

func (w *quietWriter) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return len(b), nil
}
