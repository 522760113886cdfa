//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sample is a message as an application posts it, and what its readers have to
// find in it.
type sample struct {
	name     string
	post     map[string]any
	envelope []string
	want     reading
	// large costs many seconds under the race detector.
	large bool
}

// noise is binary content that looks the same in every run.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func samples() []sample {
	sender := []person{{"The Sender", "sender@example.com"}}
	file := func(name, mediaType, contentID string, content []byte) map[string]any {
		m := map[string]any{"filename": name, "content_type": mediaType, "content": base64.StdEncoding.EncodeToString(content)}
		if contentID != "" {
			m["content_id"] = contentID
		}
		return m
	}
	png, pdf, large := append([]byte("\x89PNG\r\n\x1a\n"), noise(2000)...), append([]byte("%PDF-1.7\n"), noise(70000)...), noise(25<<20)
	const (
		text = "Grüße aus dem Süden.\n\n.a line that begins with a dot\n..two\n.\nFrom here on\n" + "bye"
		html = `<p>Your logo: <img src="cid:logo"> — 請求書を添付します。</p>`
	)
	all := []sample{
		{
			name: "ASCII text",
			post: map[string]any{"to": "someone@example.net", "subject": "Hello", "text": "It works.\n.\nReally.", "reply_to": "desk@example.com"},
			want: reading{
				Subject: "Hello", To: []person{{"", "someone@example.net"}}, ReplyTo: []person{{"", "desk@example.com"}},
				Text: "It works.\n.\nReally.",
			},
		},
		{
			name: "Japanese",
			post: map[string]any{
				"from": "送信者 株式会社 <sender@example.com>", "to": []string{"山田 太郎 <taro@example.net>"}, "cc": "\"佐藤, 花子\" <hanako@example.net>",
				"subject": "ご注文の確認と今後のお手続きについてのお知らせ（重要なお知らせですので必ずお読みください）🍣",
				"text":    strings.Repeat("お世話になっております。ご注文ありがとうございました。", 30) + "\n敬具",
			},
			want: reading{
				From: []person{{"送信者 株式会社", "sender@example.com"}}, To: []person{{"山田 太郎", "taro@example.net"}},
				Cc:      []person{{"佐藤, 花子", "hanako@example.net"}},
				Subject: "ご注文の確認と今後のお手続きについてのお知らせ（重要なお知らせですので必ずお読みください）🍣",
				Text:    strings.Repeat("お世話になっております。ご注文ありがとうございました。", 30) + "\n敬具",
			},
		},
		{
			name: "HTML, text, inline image and a Japanese file name",
			post: map[string]any{
				"to": "someone@example.net", "subject": "Invoice", "text": text, "html": html,
				"attachments": []any{file("logo.png", "image/png", "logo", png), file("請求書 2026年11月分（控え）.pdf", "application/pdf", "", pdf)},
			},
			want: reading{
				Subject: "Invoice", To: []person{{"", "someone@example.net"}}, Text: text, HTML: html,
				Attachments: []attachment{
					attached("logo.png", "image/png", "logo", png),
					attached("請求書 2026年11月分（控え）.pdf", "application/pdf", "", pdf),
				},
			},
		},
		{
			name: "25 MiB", large: true,
			post: map[string]any{
				"to": "someone@example.net", "subject": "Large", "text": "See the file.",
				"attachments": []any{file("backup.bin", "application/octet-stream", "", large)},
			},
			want: reading{
				Subject: "Large", To: []person{{"", "someone@example.net"}}, Text: "See the file.",
				Attachments: []attachment{attached("backup.bin", "application/octet-stream", "", large)},
			},
		},
	}
	many := sample{name: "40 recipients", post: map[string]any{"subject": "All of you", "text": "Hello, all."}}
	many.want = reading{Subject: "All of you", Text: "Hello, all."}
	posted := map[string][]string{}
	for i := range 40 {
		field, people := "to", &many.want.To
		switch {
		case i >= 30:
			field, people = "bcc", new([]person) // it must show nowhere
		case i >= 20:
			field, people = "cc", &many.want.Cc
		}
		name, address := fmt.Sprintf("Recipient, No. %d", i), fmt.Sprintf("%s-%d@example.net", field, i)
		posted[field] = append(posted[field], fmt.Sprintf("%q <%s>", name, address))
		*people = append(*people, person{name, address})
		many.envelope = append(many.envelope, address)
	}
	for field, list := range posted {
		many.post[field] = list
	}
	// The large one last: a tap is read from its begin after each message.
	all = slices.Insert(all, len(all)-1, many)
	for i := range all {
		s := &all[i]
		if s.want.From == nil {
			s.want.From = sender
		}
		if s.envelope == nil {
			for _, p := range slices.Concat(s.want.To, s.want.Cc) {
				s.envelope = append(s.envelope, p[1])
			}
		}
	}
	return all
}

// bccField finds what no header may have. The letters alone may stand in a
// boundary or an id.
var bccField = regexp.MustCompile(`(?mi)^(resent-)?bcc:`)

// Messages arrive as they were sent, octet for octet, and mean to others what
// the application meant.
func TestDelivery(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix, onExim, onSMTPServer}, Tapped: true})
	s.SignIn(t)
	type arrival struct {
		way    string
		sample sample
		delivered
	}
	var arrivals []arrival
	all := samples()
	// smtp-server has no OAUTHBEARER.
	for _, way := range []string{onPostfix, onPostfix + "-oauthbearer", onExim, onExim + "-oauthbearer", onSMTPServer} {
		sent := 0
		for _, m := range all {
			if m.large && strings.HasSuffix(way, "-oauthbearer") {
				continue // it shows nothing that the same server does not show without
			}
			a := s.Send(t, way, m.post)
			id, _ := a.json["message_id"].(string)
			got := s.mailbox.find(t, id)
			if got.From != s.user || !cmp.Equal(got.To, m.envelope, cmpopts.SortSlices(strings.Compare)) { // Postfix sorts them
				t.Errorf("%s by %s: envelope from %q to %q, want to %q", m.name, way, got.From, got.To, m.envelope)
			}
			sent++
			written := s.taps[way].contents(t)
			if len(written) != sent {
				t.Fatalf("%s by %s: %d messages were sent, want %d", m.name, way, len(written), sent)
			}
			checkEqual(t, m.name+" by "+way, written[sent-1], got.Data)
			m.want.MessageID = id
			arrivals = append(arrivals, arrival{way, m, got})
		}
	}
	files := make([]string, 0, len(arrivals))
	for _, a := range arrivals {
		files = append(files, a.File)
		header, _, _ := bytes.Cut(a.Data, []byte("\r\n\r\n"))
		if bccField.Match(header) {
			t.Errorf("%s by %s: bcc shows in the header:\n%s", a.sample.name, a.way, header)
		}
	}
	for _, r := range readers {
		for i, got := range read(t, r.argv, files) {
			if diff := cmp.Diff(arrivals[i].sample.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s by %s as %s reads it (-want +got):\n%s", arrivals[i].sample.name, arrivals[i].way, r.name, diff)
			}
		}
	}
}

// traceFields are what mail servers put before a message (RFC 5321, section
// 4.4).
var traceFields = []string{"Received:", "Return-Path:", "Delivered-To:", "Envelope-to:", "Delivery-date:"}

// checkEqual compares a message as it was sent with how it arrived: equal up to
// the trace fields before it.
func checkEqual(t testing.TB, what string, sent, arrived []byte) {
	t.Helper()
	trace, ok := bytes.CutSuffix(arrived, sent)
	if !ok {
		n := 0
		for n < min(len(sent), len(arrived)) && sent[len(sent)-1-n] == arrived[len(arrived)-1-n] {
			n++
		}
		t.Errorf("%s: it was changed on its way, %d octets before its end:\nsent     …%.300q\narrived  …%.300q",
			what, n, sent[max(0, len(sent)-n-200):], arrived[max(0, len(arrived)-n-200):])
		return
	}
	for _, line := range strings.SplitAfter(string(trace), "\r\n") {
		if line == "" || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if !slices.ContainsFunc(traceFields, func(f string) bool { return strings.HasPrefix(line, f) }) {
			t.Errorf("%s: something was put before it: %q", what, line)
		}
	}
}

// A token longer than Postfix's command line reaches it whole.
func TestLongToken(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{TokenBits: 24000})
	s.SignIn(t)
	var longest int
	for value, what := range s.proxy.canaries() {
		if what == "access_token" {
			longest = max(longest, len(value))
		}
	}
	if longest < 3000 {
		t.Fatalf("the access token has %d characters only", longest)
	}
	s.Send(t, onPostfix, note("long token, XOAUTH2"))
	s.Send(t, onPostfix+"-oauthbearer", note("long token, OAUTHBEARER"))
	s.mailbox.wait(t, 2)
}
