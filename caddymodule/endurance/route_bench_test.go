//go:build endurance

package endurance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

// BenchmarkRoute sends by POST /emails without an outbox, next to go-smtp's client
// with a connection for each worker and no HTTP, and to an HTTP server in Node with
// nodemailer's pool: all over STARTTLS, signed in by XOAUTH2, to the same fast server
// in another process, over connections that are there. As caddymodule/e2e/install.sh
// has installed nodemailer:
//
//	go test -tags endurance ./caddymodule/endurance -run '^$' -bench Route -benchtime 1x
//
// Rows: route to a server that offers PIPELINING, as does nodemailer; route-bdat to
// one that offers CHUNKING, too, as Gmail and Exchange do. Wall is what a route would
// make that cost no more than Caddy's respond handler for the same request, and the
// least code that can send the message. Least is what the least handler makes of small
// messages that sends them, and least-bdat the same by CHUNKING.
func BenchmarkRoute(b *testing.B) {
	for _, kind := range []struct {
		name                 string
		mails, ofNode, alone int
		message              map[string]any
		size                 int
	}{
		{"1KiB", 6000, 1000, 300, small, 1 << 10},
		{"100KiB", 600, 200, 50, large100, 139 << 10},
	} {
		b.Run(kind.name, func(b *testing.B) {
			b.Run("c=16", func(b *testing.B) {
				s := newRouteSite(b, 16, kind.message, contest.NewContent(kind.size))
				node := s.node(b, kind.ofNode)
				rows := []contest.Row{
					s.library(b, kind.mails), s.route(b, "route", kind.mails, s.plain), s.route(b, "route-bdat", kind.mails, s.chunking), node,
					s.respond(b, kind.mails), s.plain.row(b, s.plain.ByHand(b, "raw", s.content, kind.mails, s.workers, false)),
				}
				rows = append(rows, s.leasts(b, kind.mails)...)
				ratios := contest.Compare(b, 9, rows...)
				each := func(f func(turn int) float64) float64 {
					list := make([]float64, len(ratios[0]))
					for turn := range list {
						list[turn] = f(turn)
					}
					return contest.Median(list)
				}
				for _, i := range []int{1, 2} {
					b.ReportMetric(each(func(turn int) float64 { return ratios[i][turn] / ratios[3][turn] }), rows[i].Name+"_of_"+node.Name)
				}
				b.ReportMetric(each(func(turn int) float64 { return 1 / (1/ratios[4][turn] + 1/ratios[5][turn]) }), "wall_of_gosmtp")
				for _, row := range append(rows[1:3:3], rows[6:]...) {
					s.caddy.profile(b, row.Name+"-"+kind.name, func() { row.Once(b) })
				}
			})
			b.Run("c=1", func(b *testing.B) {
				s := newRouteSite(b, 1, kind.message, contest.NewContent(kind.size))
				rows := []contest.Row{s.library(b, kind.alone), s.route(b, "route", kind.alone, s.plain), s.route(b, "route-bdat", kind.alone, s.chunking), s.node(b, kind.alone)}
				contest.Alone(b, 25, append(rows, s.leasts(b, kind.alone)...)...)
			})
		})
	}
}

var (
	plainText = strings.Repeat("0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 abcdefghijkl\n", 16)
	small     = map[string]any{"to": "b@example.net", "subject": "benchmark", "text": plainText}
	// large100 has 1 KiB of text, 19 of HTML and 80 in an attachment.
	large100 = map[string]any{
		"to": "b@example.net", "subject": "benchmark", "text": plainText, "html": strings.Repeat("<p>"+plainText[:60]+"</p>\n", 280),
		"attachments": []any{map[string]any{"filename": "a.bin", "content": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0123456789", 8<<10)))}},
	}
)

// routeSite is a Caddy with a tenant for each of two servers.
type routeSite struct {
	plain, chunking *fastSink
	caddy           *Caddy
	workers         int
	body            []byte
	content         contest.Content
}

func newRouteSite(b *testing.B, workers int, message map[string]any, content contest.Content) *routeSite {
	b.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		b.Fatal(err)
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"secret-token","token_type":"Bearer","expires_in":3600}`)
	}))
	b.Cleanup(provider.Close)
	s := &routeSite{plain: startSink(b, false), chunking: startSink(b, true), workers: workers, body: body, content: content}
	var tenants strings.Builder
	for _, sink := range []*fastSink{s.plain, s.chunking} {
		fmt.Fprintf(&tenants, routeTenant, sink.Port, sink.ca, workers, routeKey(sink))
	}
	site := strings.NewReplacer("PROVIDER", provider.URL, "TENANTS", tenants.String()).Replace(routeConfig)
	for _, sink := range []*fastSink{s.plain, s.chunking} {
		site = leastSite(site, leastPath(sink), &leastHandler{Port: sink.Port, CA: sink.ca, Chunking: sink == s.chunking})
	}
	s.caddy = New(b, site)
	s.caddy.Start()
	return s
}

func (s *routeSite) library(b *testing.B, mails int) contest.Row {
	b.Helper()
	return s.plain.row(b, s.plain.Library(b, s.content, mails, s.workers))
}

// route posts to Caddy, whose tenant sends to a sink.
func (s *routeSite) route(b *testing.B, name string, mails int, sink *fastSink) contest.Row {
	b.Helper()
	return s.caddyRow(b, name, mails, sink, "/emails", map[string]string{"Authorization": "Bearer " + routeKey(sink)})
}

// caddyRow posts to a path of Caddy, which sends to a sink.
func (s *routeSite) caddyRow(b *testing.B, name string, mails int, sink *fastSink, path string, header map[string]string) contest.Row {
	b.Helper()
	pid := s.caddy.Pid()
	return sink.row(b, contest.Row{
		Name: name, Mails: mails, Workers: s.workers, Send: s.posts(b, s.caddy.URL+path, header),
		Spent: func() time.Duration { return processorTime(b, pid) },
	})
}

func leastPath(sink *fastSink) string { return "/least/" + strconv.Itoa(sink.Port) }

// least posts to the least handler that sends to a sink.
func (s *routeSite) least(b *testing.B, name string, mails int, sink *fastSink) contest.Row {
	b.Helper()
	return s.caddyRow(b, name, mails, sink, leastPath(sink), nil)
}

// leasts are the rows of the least handler, which knows no attachments.
func (s *routeSite) leasts(b *testing.B, mails int) []contest.Row {
	b.Helper()
	if len(s.body) > 4<<10 {
		return nil
	}
	return []contest.Row{s.least(b, "least", mails, s.plain), s.least(b, "least-bdat", mails, s.chunking)}
}

// respond posts to Caddy's respond handler.
func (s *routeSite) respond(b *testing.B, mails int) contest.Row {
	b.Helper()
	return contest.Row{Name: "respond", Mails: mails, Workers: s.workers, Send: s.posts(b, s.caddy.URL+"/respond", nil)}
}

// node posts to Node, which sends to the sink without CHUNKING: nodemailer does not use it.
func (s *routeSite) node(b *testing.B, mails int) contest.Row {
	b.Helper()
	settings, err := json.Marshal(map[string]any{"port": s.plain.Port, "ca": s.plain.ca, "connections": s.workers})
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("node", "route.mjs", string(settings))
	cmd.Dir = filepath.Join("..", "e2e", "node")
	if _, err := os.Stat(filepath.Join(cmd.Dir, "node_modules", "nodemailer")); err != nil {
		b.Fatalf("nodemailer is missing; run caddymodule/e2e/install.sh: %v", err)
	}
	_, said := startChild(b, cmd)
	url := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(readFigure(b, said))) + "/emails"
	send := s.posts(b, url, nil)
	return s.plain.row(b, contest.Row{Name: "nodemailer", Mails: mails, Workers: s.workers, Send: send, Spent: func() time.Duration { return processorTime(b, cmd.Process.Pid) }})
}

// posts posts the message, each worker over a connection of its own.
func (s *routeSite) posts(b *testing.B, url string, header map[string]string) func(int) error {
	b.Helper()
	wires := make([]*wire, s.workers)
	for i := range wires {
		wires[i] = dialWire(b, url, header, s.body, 200)
	}
	return func(worker int) error { return wires[worker].do() }
}

func routeKey(s *fastSink) string { return "key-of-the-route-benchmark-" + strconv.Itoa(s.Port) }

const routeTenant = `
		tenant t%[1]d {
			server localhost:%[1]d
			auth oauth stub xoauth2
			user a@example.com
			from a@example.com
			ca_file %[2]s
			connections %[3]d
			max_messages 1000000
		}
		key k%[1]d %[4]s t%[1]d
`

const routeConfig = `{
	admin ADMIN
	persist_config off
	storage file_system DIR/storage
	oauth_mail {
		outbox off
		provider stub {
			grant client_credentials
			client_id benchmark
			client_secret secret-of-the-client
			token_endpoint PROVIDER/token
			scopes smtp
			servers localhost
		}
TENANTS
	}
}
URL {
	handle /respond {
		respond "{\"id\":\"0\"}"
	}
	oauth_mail send
}
`
