//go:build e2e

package e2e

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// arrived is how a message that an SDK has sent is to arrive.
type arrived struct {
	what, id string
	to       []string // of the envelope
	reading
}

// sdkMail is what arrives, of all SDKs: readers are started once.
type sdkMail struct {
	mu   sync.Mutex
	mail []arrived
}

func (m *sdkMail) add(t testing.TB, a arrived) {
	t.Helper()
	if a.id == "" {
		t.Errorf("%s: there is no such message", a.what)
		return
	}
	a.Subject, a.From = "hello world", []person{{"Acme, Inc.", "sender@example.com"}}
	if a.To == nil {
		a.To = []person{{"", "delivered@example.net"}}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mail = append(m.mail, a)
}

func testSDKMail(t *testing.T, s *Stack) {
	var wanted sdkMail
	t.Run("by", func(t *testing.T) {
		for _, sdk := range sdks {
			t.Run(sdk.name, func(t *testing.T) {
				t.Parallel()
				sdk.sendAll(t, s, &wanted)
			})
		}
	})
	slices.SortFunc(wanted.mail, func(a, b arrived) int { return cmp.Compare(a.what, b.what) })
	var files []string
	sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
	for _, w := range wanted.mail {
		d := s.mailbox.find(t, w.id)
		if diff := gocmp.Diff(w.to, d.To, sorted); diff != "" {
			t.Errorf("%s: envelope (-want +got):\n%s", w.what, diff)
		}
		files = append(files, d.File)
	}
	// Nothing else was sent: no message twice, and none that was refused.
	if got := len(s.mailbox.all()); got != len(wanted.mail) {
		t.Errorf("%d messages have arrived, want %d", got, len(wanted.mail))
	}
	for _, r := range readers {
		for i, got := range read(t, r.argv, files) {
			w := wanted.mail[i]
			byName := cmpopts.SortSlices(func(a, b attachment) bool { return a.Filename < b.Filename })
			if diff := gocmp.Diff(w.reading, got, cmpopts.EquateEmpty(), byName, cmpopts.IgnoreFields(reading{}, "MessageID")); diff != "" {
				t.Errorf("%s as %s reads it (-want +got):\n%s", w.what, r.name, diff)
			}
		}
	}
}

// sendAll uses one SDK in all ways, and notes what is to arrive.
func (s *sdk) sendAll(t *testing.T, stack *Stack, wanted *sdkMail) {
	key := stack.keys[onPostfix]
	pdf, png := append([]byte("%PDF-1.4\n"), noise(5000)...), append([]byte("\x89PNG\r\n\x1a\n"), noise(700)...)
	text := reading{Text: "It works!"}
	one := []string{"delivered@example.net"}
	cases := []struct {
		what  string
		email sdkEmail
		to    []string
		want  reading
		// notInGo excludes the SDKs for Go.
		notInGo bool
	}{
		{what: "text", email: sdkMessage(nil), to: one, want: text},
		{
			what: "HTML only", email: sdkMessage(func(e *sdkEmail) { e.Text, e.HTML = "", "<p>It <b>works</b> &amp; more: żółć 日本</p>" }),
			to: one, want: reading{HTML: "<p>It <b>works</b> &amp; more: żółć 日本</p>"},
		},
		{
			what: "several recipients, and all fields",
			email: sdkMessage(func(e *sdkEmail) {
				e.To, e.Cc, e.Bcc = []string{"a@example.net", "Bea <b@example.net>"}, []string{"cc@example.net"}, []string{"bcc@example.net", "bcc2@example.net"}
				e.ReplyTo, e.HTML = "Desk <desk@example.com>", "<p>It <b>works</b>!</p>"
				e.Headers = map[string]string{"X-Entity-Ref-ID": "123456789"}
				e.Tags = []sdkTag{{"category", "confirm_email"}}
			}),
			to: []string{"a@example.net", "b@example.net", "bcc2@example.net", "bcc@example.net", "cc@example.net"},
			want: reading{
				Text: "It works!", HTML: "<p>It <b>works</b>!</p>", To: []person{{"", "a@example.net"}, {"Bea", "b@example.net"}},
				Cc: []person{{"", "cc@example.net"}}, ReplyTo: []person{{"Desk", "desk@example.com"}},
			},
		},
		{
			what: "attachment of bytes", email: sdkMessage(func(e *sdkEmail) { e.Attachments = []sdkAttachment{{Filename: "bytes.pdf", Bytes: pdf}} }),
			to: one, want: reading{Text: "It works!", Attachments: []attachment{attached("bytes.pdf", "application/pdf", "", pdf)}},
		},
		{
			what: "attachment in base64", notInGo: true,
			email: sdkMessage(func(e *sdkEmail) {
				e.Attachments = []sdkAttachment{{Filename: "base64.pdf", Content: base64.StdEncoding.EncodeToString(pdf), ContentType: "application/x-own"}}
			}),
			to: one, want: reading{Text: "It works!", Attachments: []attachment{attached("base64.pdf", "application/x-own", "", pdf)}},
		},
		{
			what: "inline image",
			email: sdkMessage(func(e *sdkEmail) {
				e.Text, e.HTML = "", `<img src="cid:logo"> It works!`
				e.Attachments = []sdkAttachment{
					{Filename: "logo.png", ContentType: "image/png", ContentID: "logo", Bytes: png}, {Filename: "bytes.pdf", Bytes: pdf},
				}
			}),
			to: one, want: reading{HTML: `<img src="cid:logo"> It works!`, Attachments: []attachment{
				attached("logo.png", "image/png", "logo", png), attached("bytes.pdf", "application/pdf", "", pdf),
			}},
		},
	}
	var calls []*sdkCall
	for i, c := range cases {
		if c.notInGo && s.inGo {
			cases[i].to = nil
			continue
		}
		calls = append(calls, &sdkCall{Op: "send", Key: key, Email: c.email})
	}
	for range 2 {
		calls = append(calls, &sdkCall{Op: "send", Key: key, Email: sdkMessage(nil), Idempotency: "again-" + s.argument})
	}
	s.run(t, stack.URL, calls)
	rest := calls
	for _, c := range cases {
		if c.to == nil {
			continue
		}
		wanted.add(t, arrived{what: s.name + ": " + c.what, id: rest[0].id(t), to: c.to, reading: c.want})
		rest = rest[1:]
	}
	wanted.add(t, arrived{what: s.name + ": with an Idempotency-Key", id: rest[0].id(t), to: one, reading: text})
	if first, second := rest[0].result.ID, rest[1].result.ID; first != second {
		t.Errorf("the same request with the same Idempotency-Key: messages %q and %q", first, second)
	}
	for _, base := range s.baseURLs(stack)[1:] {
		c := &sdkCall{Op: "send", Key: key, Email: sdkMessage(nil)}
		s.run(t, base, []*sdkCall{c})
		wanted.add(t, arrived{what: s.name + ": by " + base, id: c.id(t), to: one, reading: text})
	}
	s.sendBatches(t, stack, wanted)
	s.schedule(t, stack, wanted)
}

// schedule has a message go later, looks at it, puts it off and gives it up; and looks at
// one that was sent.
func (s *sdk) schedule(t *testing.T, stack *Stack, wanted *sdkMail) {
	key := stack.keys[onPostfix]
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	later, now := 0, 5
	calls := []*sdkCall{
		{Op: "send", Key: key, Email: sdkMessage(func(e *sdkEmail) { e.ScheduledAt = in(time.Hour) })},
		{Op: "get", Key: key, Of: &later},
		{Op: "update", Key: key, Of: &later, ScheduledAt: in(24 * time.Hour)},
		{Op: "cancel", Key: key, Of: &later},
		{Op: "get", Key: key, Of: &later},
		{Op: "send", Key: key, Email: sdkMessage(nil)},
		{Op: "get", Key: key, Of: &now},
	}
	if s.lists {
		calls = append(calls, &sdkCall{Op: "list", Key: key})
	}
	s.run(t, stack.URL, calls)
	wanted.add(t, arrived{what: s.name + ": one that is looked at", id: calls[now].id(t), to: []string{"delivered@example.net"}, reading: reading{Text: "It works!"}})
	for i, event := range map[int]string{1: "scheduled", 4: "canceled", 6: "sent"} {
		got := calls[i].result
		if d := got.Data; got.Error != nil || d.LastEvent != event || d.Subject != "hello world" || !slices.Equal(d.To, []string{"delivered@example.net"}) {
			t.Errorf("call %d: a message as %+v, error %+v; want it %s", i, d, got.Error, event)
		}
	}
	for _, i := range []int{2, 3} {
		if got := calls[i].result; got.Error != nil || got.Data.Object != "email" || got.Data.ID != calls[later].result.ID {
			t.Errorf("%s: %+v, error %+v", calls[i].Op, got.Data, got.Error)
		}
	}
	if s.lists {
		if ids := calls[7].ids(t); len(ids) == 0 {
			t.Error("the list of messages is empty")
		}
	}
}

// sendBatches sends several messages at once: all or none, the same again, and the good
// ones among others.
func (s *sdk) sendBatches(t *testing.T, stack *Stack, wanted *sdkMail) {
	pdf := append([]byte("%PDF-1.4\n"), noise(3000)...)
	key, one := stack.keys[onPostfix], []string{"delivered@example.net"}
	attach := sdkMessage(func(e *sdkEmail) { e.Attachments = []sdkAttachment{{Filename: "bytes.pdf", Bytes: pdf}} })
	strict := []*sdkCall{
		{Op: "batch", Key: key, Emails: []sdkEmail{sdkMessage(nil), attach}, Idempotency: "batch-" + s.argument},
		{Op: "batch", Key: key, Emails: []sdkEmail{sdkMessage(nil), attach}, Idempotency: "batch-" + s.argument},
	}
	s.run(t, stack.URL, strict)
	ids, again := strict[0].ids(t), strict[1].ids(t)
	if len(ids) != 2 || !slices.Equal(ids, again) {
		t.Fatalf("a batch of two has messages %q, and repeated %q", ids, again)
	}
	wanted.add(t, arrived{what: s.name + ": first of a batch", id: ids[0], to: one, reading: reading{Text: "It works!"}})
	wanted.add(t, arrived{what: s.name + ": second of a batch", id: ids[1], to: one, reading: reading{
		Text: "It works!", Attachments: []attachment{attached("bytes.pdf", "application/pdf", "", pdf)},
	}})
	if !s.permissive {
		return
	}
	bad := sdkMessage(func(e *sdkEmail) { e.To = []string{"nobody"} })
	c := &sdkCall{Op: "batch", Key: key, Emails: []sdkEmail{sdkMessage(nil), bad, sdkMessage(nil)}, Permissive: true}
	s.run(t, stack.URL, []*sdkCall{c})
	if ids = c.ids(t); len(ids) != 2 {
		t.Fatalf("a permissive batch has messages %q", ids)
	}
	for _, id := range ids {
		wanted.add(t, arrived{what: s.name + ": of a permissive batch", id: id, to: one, reading: reading{Text: "It works!"}})
	}
	if e := c.result.Data.Errors; len(e) != 1 || e[0].Index != 1 || !strings.Contains(e[0].Message, "`to[0]`") {
		t.Errorf("a permissive batch has errors %+v", e)
	}
}
