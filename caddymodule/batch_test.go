package caddymodule

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// postBatch sends a batch with more header fields, in pairs.
func (p *caddyProcess) postBatch(body string, more ...string) answer {
	p.t.Helper()
	h := map[string]string{"Authorization": "Bearer " + testKey, "Content-Type": "application/json"}
	for i := 0; i+1 < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return p.do("POST", "/emails/batch", h, body)
}

// mailAbout is a message with a subject.
func mailAbout(subject string) string {
	return fmt.Sprintf(`{"to":"a@example.net","subject":%q,"text":"t"}`, subject)
}

func readBatch(t *testing.T, got answer, status int) batchSent {
	t.Helper()
	var v batchSent
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != status {
		t.Fatalf("status %d, want %d: %v: %s", got.status, status, err, got.body)
	}
	return v
}

// TestBatch: a batch goes as a whole or not at all, unless its good messages are to go
// alone; repeated with its key, it goes once.
func TestBatch(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	subjects := func() (all []string) {
		for _, m := range script.Contents() {
			_, rest, _ := strings.Cut(m, "Subject: ")
			subject, _, _ := strings.Cut(rest, "\r\n")
			all = append(all, subject)
		}
		slices.Sort(all)
		return all
	}
	arrived := func(want ...string) {
		t.Helper()
		await(t, "the messages are sent", func() bool { return len(subjects()) >= len(want) })
		if got := subjects(); !slices.Equal(got, want) {
			t.Fatalf("sent %q, want %q", got, want)
		}
	}
	bad := `{"to":"nobody","subject":"bad","text":"t"}`
	foreign := `{"from":"a@foreign.example","to":"a@example.net","subject":"bad","text":"t"}`
	empty := `{"to":"a@example.net","subject":"bad"}`

	v := readBatch(t, p.postBatch("["+mailAbout("1")+","+mailAbout("2")+"]"), 200)
	if len(v.Data) != 2 || v.Data[0].ID == "" || v.Data[0].ID == v.Data[1].ID || v.Data[0].Status != "queued" || v.Errors != nil {
		t.Errorf("answer %+v", v)
	}
	arrived("1", "2")

	for _, tt := range []struct {
		item, name, code, pointer string
		status                    int
	}{
		{bad, "validation_error", "bad_address", "/1/to", 422},
		{foreign, "validation_error", "sender_not_allowed", "/1/from", 403},
		{empty, "missing_required_field", "missing_body", "/1", 422},
		{"7", "validation_error", "bad_json", "/1", 400},
		{`{"subject":7}`, "validation_error", "bad_json", "/1/subject", 400},
	} {
		got := p.postBatch("[" + mailAbout("never") + "," + tt.item + "]")
		var e struct {
			Name, Message string
			Code          string `json:"detail_code"`
			Errors        []struct{ Pointer string }
		}
		if err := json.Unmarshal([]byte(got.body), &e); err != nil || got.status != tt.status || e.Name != tt.name || e.Code != tt.code ||
			!strings.Contains(e.Message, "index 1") || len(e.Errors) != 1 || !strings.HasPrefix(e.Errors[0].Pointer, tt.pointer) {
			t.Errorf("%s: status %d: %s", tt.item, got.status, got.body)
		}
	}

	v = readBatch(t, p.postBatch("["+bad+","+mailAbout("3")+","+foreign+","+mailAbout("4")+",7]", "x-batch-validation", "permissive"), 200)
	if len(v.Data) != 2 || len(v.Errors) != 3 || v.Errors[0].Index != 0 || v.Errors[1].Index != 2 || v.Errors[1].StatusCode != 403 || v.Errors[2].Index != 4 || v.Errors[2].Message == "" {
		t.Errorf("answer %+v", v)
	}
	arrived("1", "2", "3", "4")

	batch := "[" + mailAbout("5") + "," + mailAbout("6") + "]"
	first := p.postBatch(batch, "Idempotency-Key", "k", "Prefer", "respond-async")
	again := p.postBatch(strings.ReplaceAll(batch, ":", " : "), "Idempotency-Key", "k")
	one, two := readBatch(t, first, 202), readBatch(t, again, 200)
	if one.Data[0].ID != two.Data[0].ID || one.Data[1].ID != two.Data[1].ID || again.header.Get("Idempotent-Replayed") != "true" || first.header.Get("Preference-Applied") != "respond-async" {
		t.Errorf("first %s, again %s", first.body, again.body)
	}
	for _, other := range []string{"[" + mailAbout("5") + "]", "[" + mailAbout("5") + "," + mailAbout("7") + "]", "[" + mailAbout("6") + "," + mailAbout("5") + "]"} {
		if got := p.postBatch(other, "Idempotency-Key", "k"); got.status != 409 || !strings.Contains(got.body, nameInvalidRequest) {
			t.Errorf("another batch: status %d: %s", got.status, got.body)
		}
	}
	arrived("1", "2", "3", "4", "5", "6")

	for _, tt := range []struct {
		body   string
		status int
		more   []string
	}{
		{"[]", 422, nil},
		{"{}", 400, nil},
		{"[" + mailAbout("never") + "] x", 400, nil},
		{"[" + mailAbout("never"), 400, nil},
		{"[" + strings.Repeat(mailAbout("never")+",", 100) + mailAbout("never") + "]", 422, nil},
		{"[" + mailAbout("never") + "]", 422, []string{"x-batch-validation", "lax"}},
		{"[" + mailAbout("never") + "]", 400, []string{"Idempotency-Key", "a b"}},
		{"[" + mailAbout("never") + "]", 415, []string{"Content-Type", "text/plain"}},
	} {
		if got := p.postBatch(tt.body, tt.more...); got.status != tt.status {
			t.Errorf("%.50s: status %d, want %d: %s", tt.body, got.status, tt.status, got.body)
		}
	}
	if v = readBatch(t, p.postBatch("["+strings.Repeat(mailAbout("n")+",", 99)+mailAbout("n")+"]"), 200); len(v.Data) != 100 {
		t.Errorf("%d of 100 were accepted", len(v.Data))
	}
	await(t, "all hundred are sent", func() bool { return len(subjects()) >= 106 })
	if got := subjects(); len(got) != 106 || slices.Contains(got, "never") || slices.Contains(got, "bad") {
		t.Errorf("sent %q", got)
	}
}

// TestLines: each line is a message of its own.
func TestLines(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	body := strings.Join([]string{mailAbout("1"), "", `{"to":`, mailAbout("2") + "\r", `{"subject":"` + strings.Repeat("x", 1<<20) + `"}`, mailAbout("3")}, "\n")
	type line struct {
		Index int
		ID    string
		Error *batchError
	}
	read := func(got answer) (all []line) {
		t.Helper()
		if got.status != 200 || got.header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("status %d, %v: %s", got.status, got.header, got.body)
		}
		for text := range strings.Lines(got.body) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
		return all
	}
	first := read(p.postBatch(body, "Content-Type", "application/x-ndjson", "Idempotency-Key", "k"))
	if len(first) != 5 {
		t.Fatalf("answer %+v", first)
	}
	for i, l := range first {
		bad := i == 1 || i == 3
		if l.Index != i || (l.ID == "") != bad || (l.Error != nil) != bad {
			t.Errorf("line %d: %+v", i, l)
		}
	}
	if first[1].Error.DetailCode != "bad_json" || first[3].Error.StatusCode != 413 {
		t.Errorf("errors %+v, %+v", first[1].Error, first[3].Error)
	}
	again := read(p.postBatch(body+"\n"+mailAbout("4")+"\n", "Content-Type", "application/jsonl", "Idempotency-Key", "k"))
	if len(again) != 6 || again[0].ID != first[0].ID || again[4].ID != first[4].ID || again[5].ID == "" {
		t.Errorf("again %+v", again)
	}
	await(t, "all are sent", func() bool { return len(script.Contents()) >= 4 })
	if n := len(script.Contents()); n != 4 {
		t.Errorf("%d messages were sent", n)
	}
	for _, tt := range []struct {
		body   string
		status int
	}{{"", 422}, {"\n\n", 422}, {"[]\n{}", 400}, {`{"to":"nobody","subject":"","text":"t"}`, 422}} {
		if got := p.postBatch(tt.body, "Content-Type", "application/x-ndjson"); got.status != tt.status {
			t.Errorf("%q: status %d: %s", tt.body, got.status, got.body)
		}
	}
}

// TestBatchWithoutOutbox: a few messages go while their sender waits, and the others
// are refused before the first goes.
func TestBatchWithoutOutbox(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"MAIL": {"", "", "", "550 5.7.1 no", ""}}}
	p := startCaddy(t, withoutOutbox+scripted(t, script, "connections 1"))
	list := func(n int) string { return "[" + strings.Repeat(mailAbout("s")+",", n-1) + mailAbout("s") + "]" }
	if v := readBatch(t, p.postBatch(list(2), "Idempotency-Key", "k"), 200); len(v.Data) != 2 || v.Data[1].Status != "sent" || len(v.Warnings) != 1 {
		t.Errorf("answer %+v", v)
	}
	got := p.postBatch(list(3))
	var e struct {
		Code     string `json:"detail_code"`
		Accepted []sent
	}
	if err := json.Unmarshal([]byte(got.body), &e); err != nil || got.status != 422 || e.Code != "upstream_rejected" || len(e.Accepted) != 2 || e.Accepted[0].Status != "sent" {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if got := p.postBatch(list(11)); got.status != 422 || !strings.Contains(got.body, "outbox") {
		t.Errorf("eleven: status %d: %s", got.status, got.body)
	}
	if got := p.postBatch(mailAbout("s"), "Content-Type", "application/jsonl"); got.status != 422 || !strings.Contains(got.body, "outbox") {
		t.Errorf("a line: status %d: %s", got.status, got.body)
	}
	if n := len(script.Contents()); n != 4 {
		t.Errorf("%d messages were sent", n)
	}
}
