package caddymodule

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// formPart is a part of a form; a file where it has a file name.
type formPart struct{ name, file, mediaType, text string }

// newForm returns a form and its Content-Type.
func newForm(t *testing.T, parts ...formPart) (body, mediaType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		h := textproto.MIMEHeader{}
		disposition := fmt.Sprintf("form-data; name=%q", p.name)
		if p.file != "" {
			disposition += fmt.Sprintf("; filename=%q", p.file)
		}
		h.Set("Content-Disposition", disposition)
		if p.mediaType != "" {
			h.Set("Content-Type", p.mediaType)
		}
		out, err := w.CreatePart(h)
		if err == nil {
			_, err = io.WriteString(out, p.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestForm: a form is a message, with files of any size.
func TestForm(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, withoutOutbox+scripted(t, script))
	large := strings.Repeat("0123456789", 20_000)
	body, media := newForm(t,
		formPart{name: "to", text: "a@example.net"}, formPart{name: "to", text: "b@example.net"}, formPart{name: "cc[]", text: `"C" <c@example.net>`},
		formPart{name: "subject", text: `with "quotes" and \`}, formPart{name: "text", text: "line\nline\t\"\\"}, formPart{name: "html", text: "<img src=cid:i.png>"},
		formPart{name: "headers", text: `{"X-A":"b"}`}, formPart{name: "future", text: "x"},
		formPart{name: "attachment", file: "large.txt", mediaType: "application/octet-stream", text: large},
		formPart{name: "inline", file: "i.png", mediaType: "image/png", text: "png"})
	for _, packed := range []bool{false, true} {
		more := []string{"Content-Type", media}
		if packed {
			body = zipped(t, body)
			more = append(more, "Content-Encoding", "gzip")
		}
		if v := accepted(t, p.post(body, more...), 200, "sent"); len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "future") {
			t.Errorf("warnings %q", v.Warnings)
		}
	}
	all := script.Contents()
	if len(all) != 2 {
		t.Fatalf("%d messages", len(all))
	}
	for _, got := range all {
		for _, want := range []string{
			"To: a@example.net, b@example.net\r\n", `Cc: C <c@example.net>`, `Subject: with "quotes" and \` + "\r\n", "line\r\nline\t\"\\\r\n", "X-A: b\r\n",
			"Content-Type: text/plain; name=large.txt", "Content-ID: <i.png>", "Content-Disposition: inline",
			"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2\r\nNzg5",
		} {
			if !strings.Contains(strings.ReplaceAll(got, `"large.txt"`, "large.txt"), want) && !strings.Contains(strings.ReplaceAll(got, `"C"`, "C"), want) {
				t.Errorf("%q is not in %.3000s", want, got)
			}
		}
	}
	body, media = newForm(t, formPart{name: "message", text: mailBody}, formPart{name: "file", file: "a.pdf", text: "x"})
	accepted(t, p.post(body, "Content-Type", media), 200, "sent")
	if got := script.Contents()[2]; !strings.Contains(got, "a.pdf") || !strings.Contains(got, "application/pdf") {
		t.Errorf("%s", got)
	}

	simple := []formPart{{name: "to", text: "a@example.net"}, {name: "subject", text: "s"}, {name: "text", text: "t"}}
	for _, tt := range []struct {
		name, code string
		status     int
		parts      []formPart
	}{
		{"nobody", "missing", 422, []formPart{{name: "subject", text: "s"}}},
		{"bad address", "bad_address", 422, []formPart{{name: "to", text: "nobody"}}},
		{"two subjects", "bad_json", 400, append(simple, formPart{name: "subject", text: "s"})},
		{"headers are no JSON", "bad_json", 400, append(simple, formPart{name: "headers", text: "X-A: b"})},
		{"no UTF-8", "bad_json", 400, append(simple, formPart{name: "html", text: "caf\xe9"})},
		{"a NUL", "line_break", 422, []formPart{{name: "to", text: "a@example.net"}, {name: "subject", text: "s\x00"}, {name: "text", text: "t"}}},
		{"fields, then all of them", "twice", 422, append(simple, formPart{name: "message", text: mailBody})},
		{"all of them, then fields", "twice", 422, append([]formPart{{name: "message", text: mailBody}}, simple...)},
		{"51 files", "too_many", 422, manyFiles(51)},
		{"too many parts", "bad_json", 400, append(simple, manyFields(201)...)},
		{"a template", "unsupported", 422, append(simple, formPart{name: "template", text: `{"id":"x"}`})},
		{"scheduled", "unsupported", 422, append(simple, formPart{name: "scheduled_at", text: "in 1 hour"})},
	} {
		body, media := newForm(t, tt.parts...)
		if got := p.post(body, "Content-Type", media); got.status != tt.status || !strings.Contains(got.body, field("detail_code", tt.code)) {
			t.Errorf("%s: status %d: %s", tt.name, got.status, got.body)
		}
	}
	body, media = newForm(t, simple...)
	for _, tt := range []struct {
		name, code, body, media string
		status                  int
	}{
		{"cut", "body", body[:len(body)-10], media, 400},
		{"no boundary", "bad_form", body, "multipart/form-data", 400},
		{"another boundary", "bad_form", body, "multipart/form-data; boundary=x", 400},
		{"encoded file", "bad_content", "--x\r\nContent-Disposition: form-data; name=f; filename=f\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--x--", "multipart/form-data; boundary=x", 422},
		{"cut file", "bad_form", "--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\nYQ==", "multipart/form-data; boundary=x", 400},
		{"cut text", "body", "--x\r\nContent-Disposition: form-data; name=text\r\n\r\nYQ==", "multipart/form-data; boundary=x", 400},
	} {
		if got := p.post(tt.body, "Content-Type", tt.media); got.status != tt.status || !strings.Contains(got.body, field("detail_code", tt.code)) {
			t.Errorf("%s: status %d: %s", tt.name, got.status, got.body)
		}
	}
	if n := len(script.Contents()); n != 3 {
		t.Errorf("%d messages were sent", n)
	}
}

func manyFiles(n int) (parts []formPart) {
	for range n {
		parts = append(parts, formPart{name: "f", file: "f", text: "x"})
	}
	return parts
}

func manyFields(n int) (parts []formPart) {
	for i := range n {
		parts = append(parts, formPart{name: fmt.Sprintf("f%d", i), text: "x"})
	}
	return parts
}

// TestWholeMessage: a message that is ready goes as it is.
func TestWholeMessage(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	send := func(query, body string, more ...string) answer {
		t.Helper()
		h := map[string]string{"Authorization": "Bearer " + testKey, "Content-Type": "message/rfc822"}
		for i := 0; i+1 < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return p.do("POST", "/emails"+query, h, body)
	}
	const signed = "From: sender@example.com\r\nTo: a@example.net,\r\n b@example.net\r\nDKIM-Signature: v=1\r\nDate: Thu, 31 Jan 2027 12:00:00 +0000\r\n" +
		"Message-ID: <1@example.com>\r\nSubject: s\r\n\r\nbody\r\n"
	v := accepted(t, send("", signed), 200, "sent")
	if v.MessageID != "<1@example.com>" || len(v.Warnings) != 0 {
		t.Errorf("answer %+v", v)
	}
	if got := script.Contents()[0]; got != signed {
		t.Errorf("sent %q", got)
	}
	v = accepted(t, send("?to=c@example.net&to=d@example.net", "To: a@example.net\nBcc: secret@example.net\nSubject: s\n\nbody"), 200, "sent")
	if len(v.Warnings) == 0 {
		t.Error("nothing is said of what was mended")
	}
	got := script.Contents()[1]
	if strings.Contains(got, "secret") || !strings.Contains(got, "From: sender@example.com\r\n") || !strings.Contains(got, "Message-ID: "+v.MessageID) || !strings.HasSuffix(got, "\r\n\r\nbody\r\n") {
		t.Errorf("sent %q", got)
	}
	var m messageView
	p.ops(&m, "GET", "/outbox/messages/"+v.ID)
	if len(m.Recipients) != 2 || m.Recipients[0].Address != "c@example.net" || m.Recipients[1].Address != "d@example.net" {
		t.Errorf("recipients %+v", m.Recipients)
	}
	v = accepted(t, send("", "To: a@example.net\nBcc: secret@example.net\nSubject: s\n\nbody", "Idempotency-Key", "k"), 200, "sent")
	p.ops(&m, "GET", "/outbox/messages/"+v.ID)
	if len(m.Recipients) != 2 || m.Recipients[1].Address != "secret@example.net" {
		t.Errorf("recipients %+v", m.Recipients)
	}
	if again := accepted(t, send("", "To: a@example.net\nBcc: secret@example.net\nSubject: s\n\nbody", "Idempotency-Key", "k"), 200, "sent"); again.ID != v.ID {
		t.Errorf("sent twice: %s and %s", v.ID, again.ID)
	}
	if other := send("?to=x@example.net", "To: a@example.net\nBcc: secret@example.net\nSubject: s\n\nbody", "Idempotency-Key", "k"); other.status != 409 {
		t.Errorf("to others: status %d: %s", other.status, other.body)
	}
	for _, tt := range []struct {
		name, query, body string
		status            int
		code              string
	}{
		{"nobody", "", "Subject: s\n\nbody", 422, "missing"},
		{"undisclosed", "", "To: undisclosed-recipients:;\n\nbody", 422, "missing"},
		{"bad recipient", "?to=nobody", "Subject: s\n\nbody", 422, "bad_address"},
		{"bad recipient inside", "", "To: nobody\n\nbody", 422, "bad_address"},
		{"foreign sender", "", "From: a@foreign.example\nTo: a@example.net\n\nbody", 403, "sender_not_allowed"},
		{"foreign envelope", "?from=a@foreign.example", "To: a@example.net\n\nbody", 403, "sender_not_allowed"},
		{"bare CR", "", "To: a@example.net\n\nbo\rdy", 422, ""},
		{"NUL", "", "To: a@example.net\n\nbo\x00dy", 422, ""},
		{"long line", "", "To: a@example.net\n\n" + strings.Repeat("x", 999), 422, "too_long"},
		{"too large", "", "To: a@example.net\n\n" + strings.Repeat("x\n", 19<<20), 413, "too_large"},
		{"101 recipients", "?to=" + strings.Join(many101(), "&to="), "Subject: s\n\nbody", 422, "too_many"},
	} {
		got := send(tt.query, tt.body)
		if got.status != tt.status || tt.code != "" && !strings.Contains(got.body, field("detail_code", tt.code)) {
			t.Errorf("%s: status %d: %s", tt.name, got.status, got.body)
		}
	}
	if n := len(script.Contents()); n != 3 {
		t.Errorf("%d messages were sent", n)
	}
}

// TestGzip: however small a body is packed, it is not larger than others.
func TestGzip(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, withoutOutbox+scripted(t, script))
	good := zipped(t, mailBody)
	accepted(t, p.post(good, "Content-Encoding", "GZIP"), 200, "sent")
	for _, tt := range []struct {
		name, body, code string
		status           int
	}{
		{"a bomb", zipped(t, strings.Repeat(" ", 100<<20)+mailBody), "too_large", 413},
		{"no gzip", mailBody, "bad_gzip", 400},
		{"cut", good[:len(good)-9], "body", 400},
		{"broken", good[:len(good)-6] + "xxxxxx", "bad_gzip", 400},
		{"nothing", "", "body", 400},
	} {
		if got := p.post(tt.body, "Content-Encoding", "gzip"); got.status != tt.status || !strings.Contains(got.body, field("detail_code", tt.code)) {
			t.Errorf("%s: status %d: %s", tt.name, got.status, got.body)
		}
	}
	if n := len(script.Contents()); n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}

// TestExtensions: what Resend's API has not.
func TestExtensions(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script, "senders *@example.com"))
	with := func(extension string) string {
		return strings.Replace(mailBody, "{", `{"oauth_mail":`+extension+`,`, 1)
	}
	v := accepted(t, p.post(with(`{"envelope":{"to":["x@example.net","y@example.net"]},"in_reply_to":"<0@example.net>","references":["<0@example.net>"],"priority":"high","metadata":{"a":"b"},"dry_run":false,"future":1,
		"sender":"Desk <desk@example.com>","ical":{"method":"REQUEST","content":"BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n"}}`)), 200, "sent")
	if len(v.Warnings) != 1 {
		t.Errorf("warnings %q", v.Warnings)
	}
	got := script.Contents()[0]
	for _, want := range []string{"In-Reply-To: <0@example.net>\r\n", "References: <0@example.net>\r\n", "Importance: high\r\n", "X-Priority: 1\r\n", "To: a@example.net\r\n",
		"\r\nSender: Desk <desk@example.com>\r\n", "\r\nContent-Type: text/calendar; charset=utf-8; method=REQUEST\r\n", "\r\nMETHOD:REQUEST\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	var m messageView
	p.ops(&m, "GET", "/outbox/messages/"+v.ID)
	if len(m.Recipients) != 2 || m.Recipients[0].Address != "x@example.net" || m.Sender != "desk@example.com" {
		t.Errorf("sender %s, recipients %+v", m.Sender, m.Recipients)
	}
	var shown email
	p.read(&shown, testKey, "GET", "/emails/"+v.ID, "")
	if want := map[string]string{"a": "b"}; !maps.Equal(shown.Details.Metadata, want) {
		t.Errorf("metadata %v", shown.Details.Metadata)
	}
	for _, body := range []string{with(`{"dry_run":true}`), mailBody} {
		got := p.post(body, "X-Mail-Dry-Run", "1")
		var v sent
		if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != 200 || v.Status != "dry_run" || v.ID == "" {
			t.Errorf("dry run: status %d: %s", got.status, got.body)
		}
	}
	for extension, code := range map[string]string{
		`{"envelope":{}}`: "missing", `{"envelope":{"to":["nobody"]}}`: "bad_address", `{"envelope":{"from":"a@foreign.example","to":["x@example.net"]}}`: "sender_not_allowed",
		`{"priority":"urgent"}`: "bad_priority", `{"in_reply_to":"x"}`: "bad_message_id", `{"connection":"x"}`: "unsupported",
		`{"ical":{}}`: "missing", `{"ical":{"method":"REQUEST","content":"hello"}}`: "bad_calendar", `{"ical":[]}`: "bad_json",
		`{"sender":"nobody"}`: "bad_address", `{"sender":"a@foreign.example"}`: "sender_not_allowed", `{"sender":"\"ceo@bank.example\" <desk@example.com>"}`: "misleading_name",
		`{"sender":"desk@example.com","envelope":{"from":"shop@example.com","to":["x@example.net"]}}`: "contradiction",
		`{"dry_run":"yes"}`: "bad_json", `[]`: "bad_json",
	} {
		if got := p.post(with(extension)); got.status < 400 || got.status > 422 || !strings.Contains(got.body, field("detail_code", code)) {
			t.Errorf("%s: status %d: %s", extension, got.status, got.body)
		}
	}
	if n := len(script.Contents()); n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}
