package caddymodule

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// TestPreferences: what a request wishes for (RFC 7240), and what it is told of it.
func TestPreferences(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		prefer   []string
		async    bool
		patience time.Duration
		applied  string // to a message that is queued
		status   int
	}{
		{nil, false, maxWait, "", 200},
		{[]string{"respond-async"}, true, maxWait, "respond-async", 202},
		{[]string{"Respond-Async; foo"}, true, maxWait, "respond-async", 202},
		{[]string{"wait=5"}, false, 5 * time.Second, "wait=5", 200},
		{[]string{`wait="5"`}, false, 5 * time.Second, "wait=5", 200},
		{[]string{"wait=600"}, false, maxWait, "wait=25", 200},
		{[]string{"wait=0"}, true, 0, "wait=0", 200},
		{[]string{"respond-async, wait=5"}, false, 5 * time.Second, "respond-async, wait=5", 202},
		{[]string{"wait=5", "wait=9, respond-async"}, false, 5 * time.Second, "respond-async, wait=5", 202},
		{[]string{"wait=-1, wait=soon, return=minimal"}, false, maxWait, "", 200},
	} {
		p := readPreferences(http.Header{"Prefer": tt.prefer})
		h := http.Header{}
		status := p.apply(h, mailer.Receipt{Status: mailer.StatusQueued})
		if p.async() != tt.async || p.patience() != tt.patience || h.Get("Preference-Applied") != tt.applied || status != tt.status {
			t.Errorf("%q: async %v, patience %v, applied %q, status %d", tt.prefer, p.async(), p.patience(), h.Get("Preference-Applied"), status)
		}
		if status := p.apply(http.Header{}, mailer.Receipt{Status: mailer.StatusSent}); status != 200 {
			t.Errorf("%q: status %d of a message that was sent", tt.prefer, status)
		}
	}
}

// TestSchedule: when a message is to go.
func TestSchedule(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"in 1 min": time.Minute, "in 30 minutes": 30 * time.Minute, "In 2 hours": 2 * time.Hour, "in 1 hour": time.Hour, "in 3 days": 72 * time.Hour, "in 30 days": 30 * 24 * time.Hour,
		"2027-01-31T22:00:00+09:00": time.Hour, "2027-01-31T12:00:01Z": time.Second, "2027-01-31T11:58:00Z": -2 * time.Minute,
	} {
		if at, err := readSchedule("scheduled_at", text, now); err != nil || at.Sub(now) != want {
			t.Errorf("%s: %v, %v", text, at.Sub(now), err)
		}
	}
	for _, text := range []string{"tomorrow", "in 31 days", "in 99999 hours", "in -1 min", "2026-01-31T12:00:00Z", "2027-01-31", "2028-01-31T12:00:00Z", ""} {
		if at, err := readSchedule("scheduled_at", text, now); err == nil {
			t.Errorf("%s: %v", text, at)
		}
	}
}

// TestFingerprint: the same message has the same fingerprint, however it is written.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	of := func(tenant, body string) []byte {
		t.Helper()
		r, err := parseEmail([]byte(body), true)
		if err != nil {
			t.Fatal(err)
		}
		f, err := r.fingerprint(tenant)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const base = `{"to":"x@example.net","subject":"ü","text":"t","headers":{"X-A":"1","X-B":"2"},"scheduled_at":"in 2 hours","attachments":[{"filename":"f","content":"YQ=="}]}`
	one := of("a", base)
	replaced := func(pairs ...string) string {
		body := strings.NewReplacer(pairs...).Replace(base)
		if body == base {
			t.Fatalf("%q is not there", pairs)
		}
		return body
	}
	for _, same := range []string{
		replaced(`":"`, `" : "`), replaced("ü", `\u00fc`), replaced(`"x@example.net"`, `["x@example.net"]`),
		replaced(`"text"`, `"html":null,"text"`), replaced(`"X-A":"1","X-B":"2"`, `"X-B":"2","X-A":"1"`), replaced(`"YQ=="`, `[97]`), replaced(`"YQ=="`, `"data:text/plain;base64,YQ"`),
	} {
		if !bytes.Equal(one, of("a", same)) {
			t.Errorf("%s differs", same)
		}
	}
	for _, other := range []string{
		replaced("x@example.net", "y@example.net"), replaced(`"to"`, `"cc":"z@example.net","to"`), replaced(`"to"`, `"bcc":"z@example.net","to"`),
		replaced(`"to"`, `"from":"f@example.net","to"`), replaced(`"to"`, `"reply_to":"f@example.net","to"`),
		replaced("ü", "u"), replaced(`"text":"t"`, `"text":"u"`), replaced(`"text":"t"`, `"text":"t","html":"t"`), replaced(`"1"`, `"3"`),
		replaced("2 hours", "3 hours"), replaced("YQ==", "Yg=="), replaced(`"f"`, `"g"`), replaced(`"filename"`, `"content_type":"text/plain","filename"`),
	} {
		if bytes.Equal(one, of("a", other)) {
			t.Errorf("%s does not differ", other)
		}
	}
	if bytes.Equal(one, of("b", base)) {
		t.Error("the tenant does not count")
	}
}
