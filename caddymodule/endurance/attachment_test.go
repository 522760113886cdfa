//go:build endurance

package endurance

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

const (
	attachmentSize = 25 << 20
	// heapOfOne is what one request may add to the idle heap.
	heapOfOne = 32 << 20
	// heapOfFlood is what a flood of them may: each has buffers of its own.
	heapOfFlood = 64 << 20
	// limits make room for lists of byte values, which are nearly four times as large as
	// what they stand for.
	limits      = "max_body 100MiB\n"
	maxInFlight = 256 << 20
	// maxFiles is what that takes in files, where all comes as it is: there it is base64
	// in lines.
	maxFiles = maxInFlight * 4 / 3 * 78 / 76
)

// attached is a request with a large attachment.
type attached struct {
	name, path, media string
	header            map[string]string
	body              []byte
}

// allAttached are requests with the same attachment, in each form that it may have.
func allAttached(t *testing.T) (all []attached) {
	t.Helper()
	content := make([]byte, attachmentSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	const before, after = `{"to":"a@example.net","subject":"s","attachments":[{"filename":"a.bin","content":`, `}]}`
	in := func(name, content string) attached {
		return attached{name, "/emails", "application/json", nil, []byte(before + content + after)}
	}
	standard := base64.StdEncoding.EncodeToString(content)
	numbers := make([]byte, 0, 4*len(content))
	for _, b := range content {
		numbers = append(strconv.AppendUint(numbers, uint64(b), 10), ',')
	}
	list := "[" + string(numbers[:len(numbers)-1]) + "]"
	all = append(all,
		in("base64", `"`+standard+`"`),
		in("base64url", `"`+base64.RawURLEncoding.EncodeToString(content)+`"`),
		in("data URL", `"data:application/octet-stream;base64,`+standard+`"`),
		in("list of byte values", list),
		in("Buffer", `{"type":"Buffer","data":`+list+`}`),
	)

	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	for _, field := range [][2]string{{"to", "a@example.net"}, {"subject", "s"}} {
		if err := parts.WriteField(field[0], field[1]); err != nil {
			t.Fatal(err)
		}
	}
	file, err := parts.CreateFormFile("attachment", "a.bin")
	if err == nil {
		_, err = file.Write(content)
	}
	if err == nil {
		err = parts.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, attached{"form", "/emails", parts.FormDataContentType(), nil, form.Bytes()})

	var message strings.Builder
	message.WriteString("From: " + Sender + "\r\nTo: a@example.net\r\nSubject: s\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: application/octet-stream; name=a.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	for rest := standard; rest != ""; {
		n := min(76, len(rest))
		message.WriteString(rest[:n] + "\r\n")
		rest = rest[n:]
	}
	all = append(all, attached{"message", "/emails", "message/rfc822", nil, []byte(message.String())})

	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(all[0].body)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	batch := append(append([]byte("["), all[0].body...), ']')
	return append(all,
		attached{"gzip", "/emails", "application/json", map[string]string{"Content-Encoding": "gzip"}, packed.Bytes()},
		attached{"idempotent", "/emails", "application/json", map[string]string{"Idempotency-Key": "k"}, all[0].body},
		attached{"batch", "/emails/batch", "application/json", nil, batch},
	)
}

// post posts the request. Where asked is set, it is called when the server wants the
// body, and the body is sent when it returns.
func (a attached) post(t *testing.T, c *Caddy, client *http.Client, tenant Tenant, asked func()) (status int, retryAfter, answer string) {
	t.Helper()
	body := io.Reader(bytes.NewReader(a.body))
	if asked != nil {
		body = &gated{asked: asked, Reader: body}
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, c.URL+a.path, body)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	req.ContentLength = int64(len(a.body))
	req.Header.Set("Authorization", "Bearer "+tenant.Key())
	req.Header.Set("Content-Type", a.media)
	for name, value := range a.header {
		req.Header.Set(name, value)
	}
	if asked != nil {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(text)
}

// gated is a body that tells when it is asked for.
type gated struct {
	asked func()
	once  sync.Once
	io.Reader
}

func (g *gated) Read(p []byte) (int, error) {
	g.once.Do(g.asked)
	return g.Reader.Read(p)
}

// TestLargeAttachment: a file of 25 MiB does not take its size of memory, in whatever
// form it comes, and a flood of them is turned away beyond the budget.
func TestLargeAttachment(t *testing.T) {
	requests := allAttached(t)
	for _, outbox := range []string{onBolt, "outbox off"} {
		t.Run(outbox, func(t *testing.T) {
			sink := &mailertest.Sink{Pipelining: true, Chunking: true}
			_, port := sink.Listen(t)
			tenant := Tenant{Name: "a", Port: port, Connections: 4}
			caddy := New(t, Site(limits+outbox, tenant))
			caddy.Start()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, ExpectContinueTimeout: time.Minute}, Timeout: 2 * time.Minute}
			defer client.CloseIdleConnections()
			delivered := func(n int) func() bool { return func() bool { return sink.Taken() >= n } }
			sent := 0
			for _, r := range requests {
				t.Run(r.name, func(t *testing.T) {
					before := sink.Octets()
					peak := heapOf(caddy, func() {
						if status, _, answer := r.post(t, caddy, client, tenant, nil); status != http.StatusOK {
							t.Fatalf("status %d: %.500s", status, answer)
						}
						sent++
						Eventually(t, time.Minute, "it is delivered", delivered(sent))
					})
					if n := sink.Octets() - before; n < attachmentSize*4/3 {
						t.Errorf("%d octets were delivered", n)
					}
					t.Logf("body of %d MiB: the heap grew by %.1f MiB with garbage, %.1f MiB without, from %.1f MiB",
						len(r.body)>>20, mib(peak.Objects-peak.Idle), mib(peak.Live-peak.Idle), mib(peak.Idle))
					if peak.Objects-peak.Idle > heapOfOne {
						t.Errorf("the heap has %d octets more than idle, which may be %d", peak.Objects-peak.Idle, heapOfOne)
					}
				})
			}
			for _, r := range requests {
				if r.header["Idempotency-Key"] == "" {
					t.Run("flood of "+r.name, func(t *testing.T) { flood(t, caddy, client, tenant, r) })
				}
			}
		})
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// flood posts a request by very many clients at once.
func flood(t *testing.T, caddy *Caddy, client *http.Client, tenant Tenant, r attached) {
	const clients = 16
	var admitted, refused, files atomic.Int64
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				files.Store(max(files.Load(), caddy.spooled()))
			}
		}
	})
	peak := heapOf(caddy, func() {
		var group sync.WaitGroup
		gate := make(chan struct{})
		for range clients {
			group.Go(func() {
				status, after, answer := r.post(t, caddy, client, tenant, func() { admitted.Add(1); <-gate })
				switch {
				case status == http.StatusServiceUnavailable && after == "1" && strings.Contains(answer, `"busy"`) && strings.Contains(answer, "256 MiB"):
					refused.Add(1)
				case status != http.StatusOK:
					t.Errorf("status %d, Retry-After %q: %.500s", status, after, answer)
				}
			})
		}
		Eventually(t, 20*time.Second, "all are admitted or refused", func() bool { return admitted.Load()+refused.Load() == clients })
		close(gate)
		// These have the body on its way when they are refused, or find room.
		for range clients / 4 {
			group.Go(func() {
				if status, after, answer := r.post(t, caddy, client, tenant, nil); status != http.StatusOK && (status != http.StatusServiceUnavailable || after != "1") {
					t.Errorf("status %d, Retry-After %q: %.500s", status, after, answer)
				}
			})
		}
		group.Wait()
	})
	close(done)
	watching.Wait()
	each := int64(len(r.body))
	if r.header["Content-Encoding"] != "" {
		each = 100 << 20 // as large as it may be
	}
	t.Logf("%d admitted, %d refused: the heap grew by %.1f MiB with garbage, %.1f MiB without; files of %.0f MiB", admitted.Load(), refused.Load(),
		mib(peak.Objects-peak.Idle), mib(peak.Live-peak.Idle), mib(files.Load()))
	if n := admitted.Load(); n == 0 || n > maxInFlight/each {
		t.Errorf("%d were admitted of %d octets each", n, each)
	}
	if peak.Objects-peak.Idle > heapOfFlood {
		t.Errorf("the heap has %d octets more than idle, which may be %d", peak.Objects-peak.Idle, heapOfFlood)
	}
	if files.Load() > maxFiles || files.Load() == 0 {
		t.Errorf("%d octets lay in files", files.Load())
	}
}
