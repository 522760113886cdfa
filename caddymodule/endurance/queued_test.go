//go:build endurance

package endurance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/bolt"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

var queued = flag.Int("queued", 20_000, "how many messages wait when Caddy starts; the long suite has a million")

// A tenth of many messages waits for a mailbox whose server takes its time, the rest
// for one that cannot be reached. Caddy starts, tells of them and sends for others as
// if they were not there.
func TestQueued(t *testing.T) {
	gate := make(chan struct{})
	defer close(gate)
	slow := &mailertest.Sink{Pipelining: true, Chunking: true, Take: func(mailertest.Message) { <-gate }}
	_, blocked := slow.Listen(t)
	ledger := new(Ledger)
	sink := &mailertest.Sink{Pipelining: true, Chunking: true, Take: ledger.Arrived}
	_, open := sink.Listen(t)
	key := bytes.Repeat([]byte{7}, tokens.KeySize)
	lines := "encryption_key " + base64.StdEncoding.EncodeToString(key) + "\noutbox bbolt DIR/outbox {\n\tmax_size 50GiB\n}\n"
	caddy := New(t, Site(lines, Tenant{Name: "blocked", Port: blocked, Connections: 4}, Tenant{Name: "parked", Port: nowhere(t), Connections: 4}, Tenant{Name: "open", Port: open, Connections: 4}))

	empty := caddy.Start()
	without, heapWithout := alone(t, caddy, ledger), caddy.Heap()
	caddy.Stop()
	folder := filepath.Join(caddy.Dir, "outbox")
	began := time.Now()
	enqueue(t, folder, key, *queued)
	t.Logf("%d messages stored in %v", *queued, time.Since(began).Round(time.Second))
	started := caddy.Start()
	Eventually(t, time.Minute, "the blocked mailbox is busy", func() bool { return slow.Sessions() >= 1 })
	with := alone(t, caddy, ledger)
	heap := caddy.Heap() - heapWithout

	if n := waiting(t, caddy); n != *queued {
		t.Errorf("%d messages wait, want %d", n, *queued)
	}

	var stats, list []time.Duration
	for range 20 {
		for _, call := range []struct {
			path string
			took *[]time.Duration
		}{{"/admin/outbox", &stats}, {"/admin/outbox/messages?limit=100", &list}} {
			begin := time.Now()
			resp, err := http.Get(caddy.URL + call.path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", call.path, resp.Status)
			}
			*call.took = append(*call.took, time.Since(begin))
		}
	}
	t.Logf("%d queued: start %v (empty: %v), live heap %.1f MB above an empty one's, stats %v and list %v at most, another mailbox's message %v and %v at most (without: %v and %v)",
		*queued, started.Round(time.Millisecond), empty.Round(time.Millisecond), float64(heap)/1e6, slices.Max(stats), slices.Max(list),
		with[len(with)/2], with[len(with)-1], without[len(without)/2], without[len(without)-1])
	if started > 5*time.Second {
		t.Errorf("the start took %v", started)
	}
	if heap > 300e6 {
		t.Errorf("%.1f MB of live heap", float64(heap)/1e6)
	}
	if most := max(slices.Max(stats), slices.Max(list)); most > 100*time.Millisecond {
		t.Errorf("a call took %v", most)
	}
	if more := with[len(with)/2] - without[len(without)/2]; more > 100*time.Millisecond || with[len(with)-1] > time.Second {
		t.Errorf("the message of another mailbox took %v more", more)
	}
}

// waiting is how many messages are not sent yet.
func waiting(t *testing.T, c *Caddy) int {
	t.Helper()
	resp, err := http.Get(c.URL + "/admin/outbox")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Messages struct{ Queued, Sending int } `json:"messages"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Messages.Queued + answer.Messages.Sending
}

// alone sends messages of a mailbox that has nothing else to do, one after the other,
// and returns how long they took, the shortest first.
func alone(t *testing.T, c *Caddy, ledger *Ledger) []time.Duration {
	t.Helper()
	l := Load{Ledger: ledger}
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var took []time.Duration
	for range 50 {
		number, text := ledger.open(1 << 10)
		begin := time.Now()
		status, sent := l.try(client, c.URL+"/emails", map[string]string{
			"Authorization": "Bearer " + Tenant{Name: "open"}.Key(), "Content-Type": "application/json",
		}, email(Sender, number, text))
		took = append(took, time.Since(begin))
		if status != http.StatusOK || !sent {
			t.Fatalf("status %d, sent: %v", status, sent)
		}
	}
	slices.Sort(took)
	return took
}

// enqueue stores messages as a process does that ended at once.
func enqueue(t *testing.T, folder string, key []byte, n int) {
	t.Helper()
	ring, err := tokens.NewKeyRing(key)
	if err != nil {
		t.Fatal(err)
	}
	e, err := bolt.Open(folder, bolt.Options{Sealer: ring, MaxBytes: 50 << 30})
	if err != nil {
		t.Fatal(err)
	}
	from := mailer.Address{Local: "sender", Domain: "example.com"}
	text := contest.NewContent(1 << 10)
	var begun atomic.Int64
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for {
				i := int(begun.Add(1))
				if i > n {
					return
				}
				id, tenant := mailer.NewID(), "parked"
				if i%10 == 0 {
					tenant = "blocked"
				}
				now := time.Now().UTC()
				err := e.Accept(t.Context(), &outbox.Message{
					ID: id, MessageID: "<" + id + "@example.com>", Tenant: tenant, Caller: mailer.Caller{Kind: "key", Name: tenant},
					From: from, Sender: from, Recipients: []outbox.Recipient{{Address: mailer.Address{Local: "b", Domain: "example.net"}}},
					Size: text.Size(), Accepted: now, Expires: now.Add(48 * time.Hour), State: outbox.StateQueued, Due: now,
				}, text)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
