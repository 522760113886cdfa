package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// refusedReloads loads a configuration with the replacements, which cannot start since
// an address of its http app is taken, while messages come in. Apps start in any order,
// so it does so often. It returns how many messages were accepted.
func (p *caddyProcess) refusedReloads(replacements ...string) (messages int) {
	p.t.Helper()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	defer taken.Close()
	replacements = append(replacements, "\trespond 404\n}\n", "\trespond 404\n}\nhttp://"+taken.Addr().String()+" {\n\trespond 404\n}\n")
	end := make(chan struct{})
	var mu sync.Mutex
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for {
				got := p.post(mailBody, "Prefer", "respond-async")
				mu.Lock()
				if got.status == 202 {
					messages++
				}
				mu.Unlock()
				select {
				case <-end:
					return
				default:
				}
			}
		})
	}
	for range 40 {
		if status, body := p.reload(replacements...); status != 400 || !strings.Contains(body, "in use") {
			p.t.Errorf("a listener that cannot be: status %d: %s", status, body)
			break
		}
	}
	close(end)
	senders.Wait()
	return messages
}

// TestRefusedReload: a configuration that does not start, since another app refuses,
// says nothing about messages that were accepted before.
func TestRefusedReload(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		replacements []string
	}{
		{"another sender", []string{"from sender@example.com", "from other@example.com"}},
		{"without the tenant", []string{"tenant default", "tenant other", testKey + " default", testKey + " other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := new(mailertest.Script)
			p := startCaddy(t, scripted(t, script))
			n := p.refusedReloads(tt.replacements...)
			if n == 0 {
				t.Fatal("no message was accepted")
			}
			for line := range strings.Lines(grepLines(p.output.String(), `"message not sent"`, "wait until somebody acts")) {
				if !strings.Contains(line, `"message not sent"`) || strings.Contains(line, `"attempts"`) { // else it was not accepted
					t.Fatal(line)
				}
			}
			await(t, "all are sent", func() bool { return len(script.Contents()) >= n })
			if got := len(script.Contents()); got != n {
				t.Errorf("%d contents of %d messages", got, n)
			}
		})
	}
}

func init() { caddy.RegisterModule(new(refusingLoader)) }

// refusingLoader is what Caddy calls last with a configuration, when all apps have
// started. It asks URL and fails.
type refusingLoader struct {
	URL string `json:"url"`
}

func (*refusingLoader) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.config_loaders.test_refusing", New: func() caddy.Module { return new(refusingLoader) }}
}

func (l *refusingLoader) LoadConfig(ctx caddy.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return nil, errors.New("no configuration to load")
}

// adminPost posts to Caddy's own administration.
func (p *caddyProcess) adminPost(path, mediaType, body string) (int, string) {
	p.reloaded.Store(true)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+p.admin+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("Content-Type", mediaType)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(data)
}

// TestWithdrawnSettings: a configuration that fails when it was in force already leaves
// no tenant at rest that it brought there.
func TestWithdrawnSettings(t *testing.T) {
	t.Parallel()
	asked, failed := make(chan struct{}), make(chan struct{})
	waits := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-failed
	}))
	defer waits.Close()
	script := new(mailertest.Script)
	host, port := script.Listen(t)
	address := net.JoinHostPort(host, strconv.Itoa(port))
	p := startCaddy(t, tenantAt(address))
	caddyfile, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	status, body := p.adminPost("/adapt", "text/caddyfile", strings.ReplaceAll(string(caddyfile), address, freeAddress(t)))
	var adapted struct{ Result map[string]any }
	if err := json.Unmarshal([]byte(body), &adapted); err != nil || status != 200 {
		t.Fatalf("adapting: status %d, %v: %s", status, err, body)
	}
	adapted.Result["admin"] = map[string]any{
		"listen": p.admin, "config": map[string]any{"persist": false, "load": map[string]any{"module": "test_refusing", "url": waits.URL}},
	}
	config, err := json.Marshal(adapted.Result)
	if err != nil {
		t.Fatal(err)
	}
	loaded := make(chan string, 1)
	go func() {
		status, body := p.adminPost("/load", "application/json", string(config))
		loaded <- fmt.Sprint(status, body)
	}()
	<-asked
	p.sendAsync()
	p.awaitLog("the messages of a tenant wait for a while")
	await(t, "its try is recorded", func() bool { // else it keeps its own time
		list := p.do("GET", "/admin/outbox/messages?state=queued", map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, "")
		return strings.Contains(list.body, `"attempts":1`)
	})
	close(failed)
	began := time.Now()
	if got := <-loaded; !strings.HasPrefix(got, "400") || !strings.Contains(got, "no configuration to load") {
		t.Fatalf("loading: %s", got)
	}
	await(t, "it is sent", func() bool { return len(script.Contents()) == 1 })
	if took := time.Since(began); took > 7*time.Second { // it rested for 10 s
		t.Errorf("it took %v", took)
	}
}

// TestExitAnswersWaiters: at an exit no content begins any more, those who wait hear at
// once that their messages are queued, and it lasts as long as the message under way.
func TestExitAnswersWaiters(t *testing.T) {
	t.Parallel()
	script, address, open := gate(t)
	p := startCaddy(t, tenantAt(address, "connections 1"))
	const senders = 12
	answers := make(chan answer, senders)
	for range senders {
		go func() { answers <- p.post(mailBody) }()
	}
	began := func() int { return script.Said("BDAT") + script.Said("DATA") }
	await(t, "a content is there, and all are accepted", func() bool {
		return began() >= 1 && strings.Count(p.output.String(), `"message accepted"`) == senders
	})
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	queued := 0
	for queued < senders-2 { // the message under way may have one behind it
		select {
		case a := <-answers:
			accepted(t, a, 200, "queued")
			queued++
		case <-time.After(8 * time.Second): // less than they would wait
			t.Fatalf("%d of %d have an answer while a message is under way", queued, senders)
		}
	}
	before := began()
	close(open)
	released := time.Now()
	p.wait()
	if took := time.Since(released); took > 8*time.Second {
		t.Errorf("it exited %v after the message under way had its end", took)
	}
	states := map[string]int{}
	for range senders - queued {
		a := <-answers
		state := "queued"
		if strings.Contains(a.body, `"sent"`) {
			state = "sent"
		}
		states[accepted(t, a, 200, state).Status]++
	}
	if n := began(); n != before || n != states["sent"] || n > 2 {
		t.Errorf("%d contents began, %d of them after the signal; answers %v", n, n-before, states)
	}
	p.start()
	await(t, "all are sent", func() bool { return len(script.Contents()) == senders })
}
