package endurance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load posts messages without end, in all the ways that programs do: it waits for
// the outcome or does not, with an Idempotency-Key or without, small ones and ones
// that are kept as files, and now and then one that is refused.
type Load struct {
	// URLs are the sites, of which each request takes one.
	URLs []string
	// Tenants are those of which each message takes one.
	Tenants []Tenant
	// Producers is how many post at once.
	Producers int
	// Keyed gives every message an Idempotency-Key.
	Keyed bool
	// Async waits for no outcome. Otherwise one in two does.
	Async bool
	// Pause is how long a producer waits after an answer.
	Pause  time.Duration
	Ledger *Ledger

	requests, unanswered atomic.Int64
	// repeats wait until the message of a process that was killed is in other hands.
	// Their producers go on.
	repeats sync.WaitGroup
}

// Requests is how many requests were made, but for repetitions.
func (l *Load) Requests() int { return int(l.requests.Load()) }

// Unanswered is how many requests had no answer. Those with an Idempotency-Key were
// repeated until they had one.
func (l *Load) Unanswered() int { return int(l.unanswered.Load()) }

// Run posts until ctx ends. Requests that are under way then are waited for, and
// repeated as they are before.
func (l *Load) Run(ctx context.Context) { l.run(ctx, l.post) }

// RunAt posts the same to another path, whose answers are only counted: what is
// lost there is lost by Caddy itself.
func (l *Load) RunAt(ctx context.Context, path string) {
	l.run(ctx, func(client *http.Client) { _, _ = l.try(client, l.URLs[0]+path, nil, content(0, 1<<10)) })
}

func (l *Load) run(ctx context.Context, post func(*http.Client)) {
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: l.Producers, IdleConnTimeout: 30 * time.Second},
		Timeout:   time.Minute,
	}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range l.Producers {
		wg.Go(func() {
			for ctx.Err() == nil {
				post(client)
				l.requests.Add(1)
				if l.Pause > 0 {
					<-time.After(l.Pause)
				}
			}
		})
	}
	wg.Wait()
	l.repeats.Wait()
}

// large is the size of content that is kept as a file.
const large = 300 << 10

// patience is how long a producer repeats a request that has no answer.
const patience = time.Minute

func (l *Load) post(client *http.Client) {
	size, from := 1<<10, Sender
	if rand.IntN(20) == 0 {
		size = large
	}
	if rand.IntN(40) == 0 {
		from = "somebody-else@example.org"
	}
	number, text := l.Ledger.open(size)
	body := email(from, number, text)
	header := map[string]string{"Authorization": "Bearer " + l.Tenants[rand.IntN(len(l.Tenants))].Key(), "Content-Type": "application/json"}
	if l.Async || rand.IntN(2) == 0 {
		header["Prefer"] = "respond-async"
	}
	keyed := l.Keyed || rand.IntN(2) == 0
	if keyed {
		header["Idempotency-Key"] = fmt.Sprintf("%p-%d", l.Ledger, number)
	}
	r := request{number: number, keyed: keyed, header: header, body: body, deadline: time.Now().Add(patience)}
	if !l.repeat(client, r, false) {
		l.repeats.Go(func() { l.repeat(client, r, true) })
	}
}

// request is one to send a message.
type request struct {
	number   int
	keyed    bool
	header   map[string]string
	body     string
	deadline time.Time
}

// repeat makes a request until it is answered, and enters the answer. With 409 an
// earlier request with the key is still at work; unless patient it returns false then.
func (l *Load) repeat(client *http.Client, r request, patient bool) bool {
	for {
		url := l.URLs[rand.IntN(len(l.URLs))] + "/emails"
		status, sent := l.try(client, url, r.header, r.body)
		again := status == 0 || status == http.StatusConflict || status >= http.StatusInternalServerError
		if !r.keyed || !again || time.Now().After(r.deadline) {
			l.Ledger.answered(r.number, status, sent)
			if r.keyed && status != 0 && rand.IntN(20) == 0 { // as if the answer had not come
				_, _ = l.try(client, url, r.header, r.body)
			}
			if status == 0 {
				<-time.After(10 * time.Millisecond) // Caddy is not there
			}
			return true
		}
		wait := 10 * time.Millisecond
		if status == http.StatusConflict {
			if !patient {
				return false
			}
			wait = 250 * time.Millisecond
		}
		<-time.After(wait)
	}
}

// email is the request to send a message.
func email(from string, number int, text string) string {
	body, err := json.Marshal(map[string]any{
		"from": from, "to": "someone@example.net", "subject": fmt.Sprintf("message %d", number), "text": text,
	})
	if err != nil {
		panic(err)
	}
	return string(body)
}

func (l *Load) try(client *http.Client, url string, header map[string]string, body string) (status int, sent bool) {
	// The client must not repeat by itself: what it hides is not counted.
	req, err := http.NewRequest(http.MethodPost, url, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		panic(err)
	}
	req.ContentLength = int64(len(body))
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		l.unanswered.Add(1)
		return 0, false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		l.unanswered.Add(1)
		return 0, false
	}
	var answer struct {
		Status string `json:"status"`
	}
	_ = json.Unmarshal(text, &answer)
	return resp.StatusCode, answer.Status == "sent"
}
