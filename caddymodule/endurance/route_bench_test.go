//go:build endurance

package endurance

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

// BenchmarkRoute sends by POST /emails without an outbox, next to go-smtp's client
// with a connection for each worker and no HTTP:
//
//	go test -tags endurance ./caddymodule/endurance -run '^$' -bench Route -benchtime 1x
func BenchmarkRoute(b *testing.B) {
	text := strings.Repeat("0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 abcdefghijkl\n", 16)
	attachment := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0123456789", 8<<10)))
	for _, kind := range []struct {
		name           string
		workers, mails int
		message        map[string]any
		size           int
	}{
		{"1k c=16", 16, 3000, map[string]any{"to": "b@example.net", "subject": "benchmark", "text": text}, 1 << 10},
		{"1k c=1", 1, 1500, map[string]any{"to": "b@example.net", "subject": "benchmark", "text": text}, 1 << 10},
		{"100k c=16", 16, 1000, map[string]any{
			"to": "b@example.net", "subject": "benchmark", "text": text, "html": strings.Repeat("<p>"+text[:60]+"</p>\n", 280),
			"attachments": []any{map[string]any{"filename": "a.bin", "content": attachment}},
		}, 139 << 10},
	} {
		b.Run(kind.name, func(b *testing.B) {
			sink := contest.NewSink(b, false)
			body, err := json.Marshal(kind.message)
			if err != nil {
				b.Fatal(err)
			}
			ca := filepath.Join(b.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sink.TLS.Certificates[0].Certificate[1]}), 0o600); err != nil {
				b.Fatal(err)
			}
			c := New(b, fmt.Sprintf(routeSite, sink.Port, ca, kind.workers))
			c.Start()
			wires := make([]*wire, kind.workers)
			for i := range wires {
				wires[i] = dialWire(b, c, "/emails", map[string]string{"Authorization": "Bearer " + routeKey}, body, 200)
			}
			contest.Compare(b, 9,
				sink.Library(b, contest.NewContent(kind.size), kind.mails, kind.workers),
				contest.Row{Name: "route", Mails: kind.mails, Workers: kind.workers, Send: func(w int) error { return wires[w].do() }})
		})
	}
}

const routeKey = "key-of-the-route-benchmark"

const routeSite = `{
	admin ADMIN
	persist_config off
	storage file_system DIR/storage
	oauth_mail {
		outbox off
		tenant default {
			server localhost:%d
			auth password u secret-password
			from a@example.com
			ca_file %s
			connections %d
			max_messages 1000000
		}
		key web ` + routeKey + ` default
	}
}
URL {
	oauth_mail send
}
`
