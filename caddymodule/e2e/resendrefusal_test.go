//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// sdkRefusal is a call that is refused, and what the SDK's own error is to say.
type sdkRefusal struct {
	what string
	call sdkCall
	// status and name are what the SDKs for Node tell. Those for Go have a message
	// only, with these words, and a type for 429.
	status int
	name   string
	words  string
}

// silentTenant sends by a server that says nothing.
const silentTenant = "silent"

// The keys that may do less than others, which the configuration knows by their digests.
const (
	limitedKey  = "canary-key-that-may-send-one-message"
	sendOnlyKey = "canary-key-that-may-send-and-not-look"
)

func restrictedKeys() string {
	digest := func(key string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(key))) }
	return "key limited " + digest(limitedKey) + " " + onPostfix + " {\nrate 1 1h\n}\n" +
		"key sendOnly " + digest(sendOnlyKey) + " " + onPostfix + " {\nscopes send\n}\n"
}

// silentServer takes connections and says nothing.
type silentServer struct {
	net.Listener
	// came is closed when there is a first one.
	came chan struct{}
}

func newSilentServer(t testing.TB) *silentServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &silentServer{Listener: l, came: make(chan struct{})}
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			if n == 0 {
				close(s.came)
			}
		}
	}()
	return s
}

// sdkMessage is a message that would go.
func sdkMessage(change func(*sdkEmail)) sdkEmail {
	e := sdkEmail{From: "Acme, Inc. <sender@example.com>", To: []string{"delivered@example.net"}, Subject: "hello world", Text: "It works!"}
	if change != nil {
		change(&e)
	}
	return e
}

// testSDKRefusals uses the SDKs in wrong ways, with an outbox.
func testSDKRefusals(t *testing.T, s *Stack, silent *silentServer) {
	key := s.keys[onPostfix]
	send := func(change func(*sdkEmail)) sdkCall { return sdkCall{Op: "send", Key: key, Email: sdkMessage(change)} }
	with := func(c sdkCall, change func(*sdkCall)) sdkCall { change(&c); return c }
	s.keys["limited"], s.keys["sendOnly"] = limitedKey, sendOnlyKey
	go func() {
		// It waits for an answer of the silent server until the test ends.
		r, err := s.newPost(silentTenant, sdkMessage(nil))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Idempotency-Key", "waiting")
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close()
		}
	}()
	<-silent.came
	s.Send(t, "limited", note("the one message that its key may send"))
	runSDKRefusals(t, s, func(sdk *sdk) []sdkRefusal {
		return []sdkRefusal{
			{"no key", with(send(nil), func(c *sdkCall) { c.Key = " " }), 401, "missing_api_key", "Authorization: Bearer"},
			{"wrong key", with(send(nil), func(c *sdkCall) { c.Key = "re_123456789012345678901234" }), 403, "invalid_api_key", "not known here"},
			{"a sender who may not", send(func(e *sdkEmail) { e.From = "ceo@example.org" }), 403, "validation_error", "may not send from"},
			{"a call that is Resend's alone", sdkCall{Op: "domains", Key: key}, 404, "not_found", "no such call"},
			{"the first with an Idempotency-Key", with(send(nil), func(c *sdkCall) { c.Idempotency = "taken-" + sdk.argument }), 200, "", ""},
			{"another message with its Idempotency-Key", with(send(func(e *sdkEmail) { e.Text = "another" }), func(c *sdkCall) { c.Idempotency = "taken-" + sdk.argument }), 409, "invalid_idempotent_request", "another message"},
			{"one that waits already", sdkCall{Op: "send", Key: s.keys[silentTenant], Email: sdkMessage(nil), Idempotency: "waiting"}, 409, "concurrent_idempotent_requests", "still"},
			{"no such Idempotency-Key", with(send(nil), func(c *sdkCall) { c.Idempotency = strings.Repeat("x", 257) }), 400, "invalid_idempotency_key", "256"},
			{"more than its key may send", with(send(nil), func(c *sdkCall) { c.Key = limitedKey }), 429, "rate_limit_exceeded", "as many messages"},
			{"a message of another one", sdkCall{Op: "get", Key: key, ID: "01a20328-f356-7169-a38b-9c63a0dd6b72"}, 404, "not_found", "message"},
			{"to look with a key that may only send", sdkCall{Op: "get", Key: sendOnlyKey, ID: "01a20328-f356-7169-a38b-9c63a0dd6b72"}, 401, "restricted_api_key", "scope"},
			{"no recipient", send(func(e *sdkEmail) { e.To = nil }), 422, "missing_required_field", "`to`"},
			{"no such address", send(func(e *sdkEmail) { e.To = []string{"nobody"} }), 422, "validation_error", "`to[0]`"},
			{"no sender", send(func(e *sdkEmail) { e.From = "no address" }), 422, "invalid_from_address", "`from`"},
			{"no content", send(func(e *sdkEmail) { e.Text = "" }), 422, "missing_required_field", "`text`"},
			{"a header with a line break", send(func(e *sdkEmail) { e.Headers = map[string]string{"X-A": "b\r\nBcc: c@example.net"} }), 422, "validation_error", "X-A"},
			{"an attachment without content", send(func(e *sdkEmail) { e.Attachments = []sdkAttachment{{Filename: "a.txt"}} }), 422, "invalid_attachment", "`content`"},
			{"a time in the past", send(func(e *sdkEmail) { e.ScheduledAt = "2020-01-01T00:00:00Z" }), 422, "validation_error", "`scheduled_at`"},
			{"one bad message of a batch", sdkCall{Op: "batch", Key: key, Emails: []sdkEmail{sdkMessage(nil), sdkMessage(func(e *sdkEmail) { e.To = []string{"nobody"} })}}, 422, "validation_error", "index 1"},
			{"a message that the mail server refuses", send(func(e *sdkEmail) { e.Headers = map[string]string{"X-Refuse": "me"} }), 422, "validation_error", "Not this"},
		}
	})
}

// runSDKRefusals makes the calls by each SDK, at a site where nothing else is: all answers
// are in JSON there.
func runSDKRefusals(t *testing.T, s *Stack, of func(*sdk) []sdkRefusal) {
	t.Run("by", func(t *testing.T) {
		for _, sdk := range sdks {
			t.Run(sdk.name, func(t *testing.T) {
				t.Parallel()
				refusals := of(sdk)
				calls := make([]*sdkCall, len(refusals))
				for i, r := range refusals {
					calls[i] = &r.call
				}
				sdk.run(t, s.SendURL, calls)
				for i, r := range refusals {
					sdk.checkRefusal(t, r, calls[i].result)
				}
			})
		}
	})
}

func (s *sdk) checkRefusal(t testing.TB, want sdkRefusal, got sdkResult) {
	t.Helper()
	e := got.Error
	if want.status == http.StatusOK {
		if e != nil || got.ID == "" {
			t.Errorf("%s: error %+v", want.what, e)
		}
		return
	}
	if e == nil {
		t.Errorf("%s: no error, but message %q", want.what, got.ID)
		return
	}
	if !strings.Contains(e.Message, want.words) {
		t.Errorf("%s: the message is %q, want one with %q", want.what, e.Message, want.words)
	}
	if !s.inGo && (e.StatusCode != want.status || e.Name != want.name) {
		t.Errorf("%s: status %d and name %s, want %d and %s", want.what, e.StatusCode, e.Name, want.status, want.name)
	}
	if limited := want.status == http.StatusTooManyRequests; s.inGo && e.RateLimit != limited {
		t.Errorf("%s: it is the error for a rate: %t, want %t", want.what, e.RateLimit, limited)
	} else if limited && s.tellsRate() {
		figures := map[string]string{"retry-after": e.RetryAfter}
		if want.call.Key == limitedKey {
			figures["limit"], figures["remaining"], figures["reset"] = e.Limit, e.Remaining, e.Reset
		}
		for name, value := range figures {
			if _, err := strconv.Atoi(value); err != nil {
				t.Errorf("%s: the SDK's %s is %q, want a number", want.what, name, value)
			}
		}
	}
}

// tellsRate reports whether the SDK hands on what the server says about rates: the old
// ones for Node don't.
func (s *sdk) tellsRate() bool { return s.inGo || s.argument == "resend" }
