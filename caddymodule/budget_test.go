package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestBudget: requests beyond it are sent away, and room that was given back
// serves again.
func TestBudget(t *testing.T) {
	t.Parallel()
	const largest, all = 36 << 20, 128 << 20
	b := newBudget(largest, all)
	request := func(length int64, packed ...string) *http.Request {
		r := httptest.NewRequest("POST", "/emails", nil)
		r.ContentLength = length
		r.Header["Content-Encoding"] = packed
		return r
	}
	fill := func(r *http.Request) (shares []*share) {
		t.Helper()
		for {
			s, err := b.acquire(r)
			if err != nil {
				if p := toProblem(err); p.status != 503 || p.code != "busy" || p.retryAfter == 0 {
					t.Fatalf("beyond the budget: %+v", p)
				}
				return shares
			}
			shares = append(shares, s)
		}
	}
	for _, r := range []*http.Request{request(1, "gzip"), request(-1)} { // as large as it may be
		shares := fill(r)
		if len(shares) != all/largest {
			t.Errorf("%d requests of unknown length", len(shares))
		}
		for _, s := range shares {
			s.release()
			s.release()
		}
	}
	shares := fill(request(-1))
	if p := toProblem(second(b.acquire(request(largest + 1)))); p.status != 413 || !strings.Contains(p.message, "36 MiB") {
		t.Errorf("larger than any may be: %+v", p)
	}
	shares[0].read(1)
	shares[1].read(20 << 20)
	shares[1].read(30 << 20) // never grows
	closed := 0
	shares[2].untilAccepted("2", func() { closed++ })
	b.accepted("another")
	if got := all - left(b.bodies, all); got != 1+20<<20+largest || closed != 0 {
		t.Errorf("%d octets of bodies are taken", got)
	}
	if err := shares[2].hold(10 << 20); err != nil {
		t.Fatal(err)
	}
	_ = shares[2].hold(1)
	if got := maxMemory - left(b.memory, maxMemory); got != 2*leastShare+textCost*10<<20 {
		t.Errorf("%d octets of memory are taken", got)
	}
	if err := shares[1].hold(maxMemory/textCost - 9<<20); err == nil {
		t.Error("two texts took more memory than there is")
	}
	b.accepted("2")
	b.accepted("2")
	if got := all - left(b.bodies, all); got != 1+20<<20 || closed != 1 {
		t.Errorf("after one was accepted: %d octets are taken, closed %d times", got, closed)
	}
	if got := maxMemory - left(b.memory, maxMemory); got != 3*leastShare {
		t.Errorf("after one was accepted: %d octets of memory are taken", got)
	}
	for _, s := range shares {
		s.release()
	}
	if shares = fill(request(0)); len(shares) != maxMemory/leastShare {
		t.Errorf("%d requests without a body", len(shares))
	}
	shares[0].untilAccepted("0", func() {})
	for _, s := range shares {
		s.release()
	}
	b.accepted("0")
	if left(b.bodies, all) != all || left(b.memory, maxMemory) != maxMemory {
		t.Error("not all is given back")
	}
}

// left counts what is left of all, where nobody else takes any.
func left(of *semaphore.Weighted, all int) (n int) {
	for step := all; step > 0; step /= 2 {
		for of.TryAcquire(int64(step)) {
			n += step
		}
	}
	of.Release(int64(n))
	return n
}

// TestWaitingTakesNoRoom: requests that wait for a mail server leave room to others.
func TestWaitingTakesNoRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, global, body string
		known              bool
	}{
		{"small ones of unknown length, without an outbox", withoutOutbox, mailBody, false},
		{"large ones in the outbox", "", member2(`"content":"` + strings.Repeat("AAAA", 1<<20) + `"`), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var connected atomic.Int32
			host, port := mailertest.Listen(t, func(nc net.Conn) {
				connected.Add(1)
				_, _ = io.Copy(io.Discard, nc) // and never says a word
			})
			p := startCaddy(t, tt.global+tenantAt(net.JoinHostPort(host, fmt.Sprint(port)), "connections 3"))
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer cancel()
			for range 3 {
				group.Go(func() { p.postOf(ctx, tt.body, tt.known) })
			}
			await(t, "all wait", func() bool { return connected.Load() == 3 })
			await(t, "there is room for another", func() bool { // a try may begin before its sender hears that the message is accepted
				status, body := p.postOf(t.Context(), `{"subject":"nobody"}`, false)
				if status != 422 && status != 503 {
					t.Fatalf("status %d: %s", status, body)
				}
				return status == 422
			})
		})
	}
}

// postOf sends a mail with a body of known length, or not. A request that fails has
// status 0.
func (p *caddyProcess) postOf(ctx context.Context, body string, known bool) (status int, answer string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+"/emails", strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	if !known {
		r.ContentLength = -1
	}
	r.Header.Set("Authorization", "Bearer "+testKey)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data)
}

// TestFingerprintMemory: an Idempotency-Key takes next to no memory, whatever the body
// is made of.
func TestFingerprintMemory(t *testing.T) { //nolint:paralleltest // it counts what the process allocates
	const size = 4 << 20
	filled := func(before, unit, after string) []byte {
		return []byte(before + strings.TrimSuffix(strings.Repeat(unit, (size-len(before)-len(after))/len(unit)), ",") + after)
	}
	const to = `{"to":"a@example.net","subject":"s",`
	for name, body := range map[string][]byte{
		"numbers":  filled(to+`"attachments":[{"content":[`, "1,", `]}]}`),
		"objects":  filled(to+`"unknown":[`, "{},", `]}`),
		"brackets": filled(to+`"text":"`, "<", `"}`),
		"base64":   filled(to+`"attachments":[{"content":"`, "AAAA", `"}]}`),
	} {
		r, err := parseEmail(body, true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var o mailer.Options
		if n := allocated(func() { err = makeIdempotent(&o, http.Header{"Idempotency-Key": {"k"}}, "t", r) }); err != nil || n > 64<<10 {
			t.Errorf("%s: the fingerprint takes %d KiB: %v", name, n>>10, err)
		}
	}
}

// allocated counts the octets that the process allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestConfiguredLimits: what the configuration allows requests counts, and errors name
// it. A request that began before a reload keeps to what was allowed when it began.
func TestConfiguredLimits(t *testing.T) {
	t.Parallel()
	const before, after = "max_body 1MiB\nmax_in_flight 1536KiB\n", "max_body 64KiB\nmax_in_flight 100KB\n"
	p := startCaddy(t, before+scripted(t, new(mailertest.Script)))
	large := member2(`"content":"` + strings.Repeat("A", 1000<<10) + `"`)
	refused := func(got answer, status int, text string) {
		t.Helper()
		if got.status != status || !strings.Contains(got.body, text) {
			t.Errorf("status %d, want %d with %q: %.300s", got.status, status, text, got.body)
		}
	}
	if got := p.post(large); got.status != 200 {
		t.Errorf("within the limit: %d %s", got.status, got.body)
	}
	larger := strings.Replace(large, "AAAA", strings.Repeat("A", 24<<10), 1)
	refused(p.post(larger), 413, "larger than the 1 MiB")
	refused(p.post(zipped(t, larger), "Content-Encoding", "gzip"), 413, "larger than the 1 MiB")
	refused(p.post(larger, "Content-Type", "message/rfc822"), 413, "larger than the 1 MiB")
	if code, out := p.operatorSends("To: a@example.net\n\n" + strings.Repeat("x\n", 513<<10)); code != 422 || !strings.Contains(out, "over 1048576 octets") {
		t.Errorf("an operator's message: %d %s", code, out)
	}

	first := p.begin(t, large)
	refused(p.post(large), 503, "This server has 1.5 MiB of requests under way")
	if got := p.post(large); got.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	if _, asked := p.ask(t, large); asked.StatusCode != 503 || !asked.Close {
		t.Errorf("a client that asks whether its body is wanted: %+v", asked)
	}
	p.mustReload(before, after)
	refused(p.post(large), 413, "larger than the 64 KiB")
	second := p.begin(t, member2(`"content":"`+strings.Repeat("A", 60<<10)+`"`))
	refused(p.post(member2(`"content":"`+strings.Repeat("A", 50<<10)+`"`)), 503, "This server has 100000 octets of requests under way")
	for _, r := range []*begun{first, second} {
		if status, body := r.end(); status != 200 {
			t.Errorf("a request that had begun: %d %s", status, body)
		}
	}
	if got := p.post(mailBody); got.status != 200 {
		t.Errorf("when all have ended: %d %s", got.status, got.body)
	}
}

// begun is a request whose body the server waits for.
type begun struct {
	t    *testing.T
	nc   net.Conn
	r    *bufio.Reader
	body string
}

// begin begins a request, and returns when the server reads its body.
func (p *caddyProcess) begin(t *testing.T, body string) *begun {
	t.Helper()
	b, asked := p.ask(t, body)
	if asked.StatusCode != http.StatusContinue {
		t.Fatalf("the server does not want the body: %+v", asked)
	}
	return b
}

// ask sends the header of a request, and returns what the server says to that.
func (p *caddyProcess) ask(t *testing.T, body string) (*begun, *http.Response) {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(nc, "POST /emails HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		strings.TrimPrefix(p.URL, "http://"), testKey, len(body))
	b := &begun{t, nc, bufio.NewReader(nc), body}
	resp, err := http.ReadResponse(b.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return b, resp
}

// end sends the body and returns the answer.
func (b *begun) end() (status int, body string) {
	b.t.Helper()
	if _, err := io.WriteString(b.nc, b.body); err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.ReadResponse(b.r, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// operatorSends hands in a message as an operator does.
func (p *caddyProcess) operatorSends(message string) (status int, body string) {
	p.t.Helper()
	got := p.do("POST", "/admin/tenants/default/send", map[string]string{
		"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "message/rfc822", "Envelope-To": "a@example.net",
	}, message)
	return got.status, got.body
}
