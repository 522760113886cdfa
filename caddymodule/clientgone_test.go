package caddymodule

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestClientGone: a client that goes away, at whatever point, leaves nothing behind, and
// never has half a message sent. What was accepted is sent all the same, and recorded so.
func TestClientGone(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	spools := func() (n int) {
		dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			to, _ := os.Readlink(filepath.Join(dir, f.Name()))
			if strings.Contains(to, ".spool") {
				n++
			}
		}
		return n
	}
	content := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0123456789", 200_000)))
	body := `{"to":"a@example.net","subject":"s","text":"t","attachments":[{"filename":"f","content":"` + content + `"}]}`
	host := strings.TrimPrefix(p.URL, "http://")
	request := fmt.Sprintf("POST /emails HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, testKey, len(body), body)
	head := len(request) - len(body)
	points := []int{1, head / 2, head, head + 1, head + 10, head + 20, head + 50, head + 90, head + 100, head + 1000}
	for i := range 9 {
		points = append(points, head+len(body)*(i+1)/10)
	}
	points = append(points, len(request)-1, len(request))
	for _, n := range points {
		c, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(request[:n])); err != nil {
			t.Fatal(err)
		}
		if n > head+400_000 && n < len(request) {
			await(t, "the file is being spooled", func() bool { return spools() == 1 })
		}
		_ = c.Close()
		await(t, "nothing is left of it", func() bool { return spools() == 0 })
	}
	accepted(t, p.post(body), 200, "sent")
	await(t, "whole messages are sent", func() bool { return len(script.Contents()) >= 1 })
	for _, m := range script.Contents() {
		if strings.Count(m, "MDEyMzQ1Njc4OT") == 0 || !strings.HasSuffix(m, "--\r\n") || len(m) < len(content) {
			t.Errorf("half a message was sent: %d octets", len(m))
		}
	}
	var list struct{ Messages []messageView }
	await(t, "all that was accepted is recorded as sent", func() bool {
		p.ops(&list, "GET", "/outbox/messages")
		return !slices.ContainsFunc(list.Messages, func(m messageView) bool { return m.State != "sent" })
	})
	// One that the client waited for, and the one whose client went when all was there,
	// if that was read.
	if n := len(script.Contents()); n != len(list.Messages) || n < 1 || n > 2 {
		t.Errorf("%d messages were sent, and %d accepted", n, len(list.Messages))
	}
	if said := grepLines(p.output.String(), "panic", `"level":"error"`); said != "" {
		t.Errorf("the log tells:\n%s", said)
	}
}

func init() {
	caddy.RegisterModule(goneLogger{})
	httpcaddyfile.RegisterHandlerDirective("test_gone", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return new(goneLogger), nil })
	httpcaddyfile.RegisterDirectiveOrder("test_gone", httpcaddyfile.Before, "header")
}

// goneLogger is a handler that logs when the client of a request has gone away, or has
// its answer.
type goneLogger struct{ logger *zap.Logger }

func (goneLogger) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_gone", New: func() caddy.Module { return new(goneLogger) }}
}

func (l *goneLogger) Provision(ctx caddy.Context) error {
	l.logger = ctx.Logger()
	return nil
}

func (l *goneLogger) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	context.AfterFunc(r.Context(), func() { l.logger.Info("gone from " + r.Header.Get("X-Point")) })
	return next.ServeHTTP(w, r)
}

// TestClientGoneInSession: a client that goes away while the mail server answers changes
// nothing once its message is in the outbox, or its content under way: it is sent once,
// and recorded so. Without an outbox, one that goes before that has sent nothing.
func TestClientGoneInSession(t *testing.T) {
	t.Parallel()
	const small, large = "a few words", 300 << 10 // more than goes along with its envelope
	type point struct {
		offer, step string
		size        int
		// early is where a message without an outbox is not sent.
		early bool
	}
	var points []point
	for _, offer := range []string{"", "PIPELINING"} {
		for _, step := range []string{"MAIL", "RCPT", "DATA", mailertest.Content} {
			points = append(points, point{offer, step, len(small), step != mailertest.Content})
		}
	}
	for _, step := range []string{"MAIL", "RCPT", "BDAT"} { // all of a small one goes at once
		points = append(points, point{"PIPELINING CHUNKING", step, len(small), false}, point{"PIPELINING CHUNKING", step, large, step != "BDAT"})
	}
	for _, box := range []string{"", "outbox off\n"} {
		t.Run("outbox "+box, func(t *testing.T) {
			t.Parallel()
			type held struct {
				point
				name, key     string
				script        *mailertest.Script
				reached, free chan struct{}
			}
			var all []*held
			config := box
			for i, at := range points {
				h := &held{point: at, name: fmt.Sprintf("p%d", i), reached: make(chan struct{}), free: make(chan struct{})}
				h.key = testKey + "-" + h.name
				var once sync.Once
				h.script = &mailertest.Script{Offer: strings.Fields(at.offer), Hold: func(step string) {
					if step == at.step {
						once.Do(func() { close(h.reached); <-h.free })
					}
				}}
				host, port := h.script.Listen(t)
				config += fmt.Sprintf("tenant %[1]s {\nserver plaintext://%[2]s:%[3]d\nauth none\nfrom sender@example.com\n}\nkey %[1]s %[4]s %[1]s\n", h.name, host, port, h.key)
				all = append(all, h)
			}
			p := startCaddyWith(t, config, "\ttest_gone\n")
			host := strings.TrimPrefix(p.URL, "http://")
			told := func(h *held, what string) int {
				n := 0
				for line := range strings.Lines(grepLines(p.output.String(), `"msg":"`+what+`"`)) {
					if strings.Contains(line, field("tenant", h.name)) {
						n++
					}
				}
				return n
			}
			for _, h := range all {
				body := fmt.Sprintf(`{"to":"a@example.net","subject":"s","text":%q}`, strings.Repeat("x", h.size))
				c, err := net.Dial("tcp", host)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c, "POST /emails HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nX-Point: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
					host, h.key, h.name, len(body), body)
				<-h.reached
				_ = c.Close()
			}
			for _, h := range all {
				p.awaitLog(`"gone from ` + h.name + `"`)
				close(h.free)
			}
			for _, h := range all {
				what, sent := "message sent", 1
				if box != "" && h.early {
					what, sent = "message not sent", 0
				}
				await(t, fmt.Sprintf("the log says %q of %+v", what, h.point), func() bool { return told(h, what) > 0 })
				if got := told(h, "message sent") + told(h, "message not sent"); got != 1 {
					t.Errorf("%+v: %d outcomes are told", h.point, got)
				}
				if got := len(h.script.Contents()); got != sent {
					t.Errorf("%+v: it was sent %d times, want %d", h.point, got, sent)
				}
			}
			if box != "" {
				return
			}
			var list struct{ Messages []messageView }
			p.ops(&list, "GET", "/outbox/messages")
			for _, m := range list.Messages {
				if m.State != "sent" || m.Attempts != 1 {
					t.Errorf("%s: %s after %d attempts", m.Tenant, m.State, m.Attempts)
				}
			}
			if len(list.Messages) != len(all) {
				t.Errorf("%d messages are recorded, want %d", len(list.Messages), len(all))
			}
		})
	}
}
