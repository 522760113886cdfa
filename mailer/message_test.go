package mailer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEnvelope(t *testing.T) {
	t.Parallel()
	m := &Message{
		From: Address{"Ann", "ann", "x.jp"},
		To:   []Address{{"B", "b", "x.jp"}, {"", "B", "x.jp"}},
		Cc:   []Address{{"again", "b", "X.jp"}, {"", "c", "x.jp"}},
		Bcc:  []Address{{"", "d", "x.jp"}, {"", "c", "x.jp"}},
	}
	want := Envelope{
		From: m.From,
		To:   []Address{{"B", "b", "x.jp"}, {"", "B", "x.jp"}, {"", "c", "x.jp"}, {"", "d", "x.jp"}},
	}
	if diff := cmp.Diff(want, m.Envelope()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func plainMessage() *Message {
	return &Message{
		From:      Address{"Ann", "ann", "x.jp"},
		To:        []Address{{"", "b", "y.jp"}},
		Subject:   "Hello",
		Text:      "Hi\n",
		Date:      time.Date(2026, 9, 1, 9, 30, 0, 0, time.FixedZone("", 9*3600)),
		MessageID: "<id@x.jp>",
	}
}

func TestComposeRefuses(t *testing.T) {
	t.Parallel()
	header := func(name, value string) func(*Message) {
		return func(m *Message) { m.Headers = append(m.Headers, HeaderField{name, value}) }
	}
	attach := func(a Attachment) func(*Message) {
		return func(m *Message) {
			if a.Source == nil {
				a.Source = Bytes("x")
			}
			m.Attachments = []Attachment{{Source: Bytes("first")}, a}
		}
	}
	tests := []struct {
		name        string
		change      func(*Message)
		field, code string
	}{
		{"no sender", func(m *Message) { m.From = Address{} }, "from", "missing_from"},
		{"no recipient", func(m *Message) { m.To = nil }, "to", "missing_recipient"},
		{"no body", func(m *Message) { m.Text = "" }, "text", "missing_body"},
		{"bad from", func(m *Message) { m.From.Local = "a b" }, "from", "bad_address"},
		{"null recipient", func(m *Message) { m.To = append(m.To, Address{}) }, "to[1]", "bad_address"},
		{"line break in name", func(m *Message) { m.Cc = []Address{{"A\r\nB", "a", "x.jp"}} }, "cc[0]", "line_break"},
		{"line break in bcc", func(m *Message) { m.Bcc = []Address{{"", "a\r\n", "x.jp"}} }, "bcc[0]", "bad_address"},
		{"bad reply-to", func(m *Message) { m.ReplyTo = []Address{{"", "a", "x.jp>"}} }, "reply_to[0]", "bad_address"},
		{"misleading from", func(m *Message) { m.From.Name = "ceo@bank.com" }, "from", "misleading_name"},

		{"line break in subject", func(m *Message) { m.Subject = "a\nBcc: b@y.jp" }, "subject", "line_break"},
		{"NUL in subject", func(m *Message) { m.Subject = "a\x00" }, "subject", "line_break"},
		{"escape in subject", func(m *Message) { m.Subject = "a\x1b" }, "subject", "control_character"},
		{"subject not UTF-8", func(m *Message) { m.Subject = "a\xff" }, "subject", "bad_encoding"},
		{"subject too long", func(m *Message) { m.Subject = strings.Repeat("a", 999) }, "subject", "too_long"},
		{"text not UTF-8", func(m *Message) { m.Text = "\xff" }, "text", "bad_encoding"},
		{"html not UTF-8", func(m *Message) { m.HTML = "\xff" }, "html", "bad_encoding"},
		{"year 10000", func(m *Message) { m.Date = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "date", "bad_date"},

		{"line break in header name", header("X-A: b\r\nBcc", "x"), "headers", "line_break"},
		{"colon in header name", header("X:", "x"), "headers", "bad_header"},
		{"empty header name", header("", "x"), "headers", "bad_header"},
		{"structural header", header("Bcc", "b@y.jp"), "headers.Bcc", "bad_header"},
		{"line break in header", header("X-A", "a\r\n b"), "headers.X-A", "line_break"},
		{"control in header", header("X-A", "a\x07"), "headers.X-A", "control_character"},
		{"header too long", header("X-A", strings.Repeat("a", 999)), "headers.X-A", "too_long"},
		{"unfoldable header", header("X-A", "a "+strings.Repeat("a", 998)), "headers.X-A", "too_long"},
		{"URL header not ASCII", header("List-Unsubscribe", "<https://例え.jp>"), "headers.List-Unsubscribe", "bad_header"},
		{"header twice", func(m *Message) { header("Priority", "urgent")(m); header("priority", "urgent")(m) }, "headers.priority", "bad_header"},
		{"other message id in header", header("Message-ID", "<other@x.jp>"), "headers.Message-ID", "bad_header"},
		{"references twice", func(m *Message) { m.References = []string{"<a@b>"}; header("References", "<a@b>")(m) }, "headers.References", "bad_header"},

		{"message id without brackets", func(m *Message) { m.MessageID = "a@x.jp" }, "message_id", "bad_message_id"},
		{"message id with break", func(m *Message) { m.MessageID = "<a@x.jp>\r\nBcc: b" }, "message_id", "line_break"},
		{"message id without at sign", func(m *Message) { m.MessageID = "<a>" }, "message_id", "bad_message_id"},
		{"message id with two", func(m *Message) { m.MessageID = "<a@b@c>" }, "message_id", "bad_message_id"},
		{"message id from header", func(m *Message) { m.MessageID = ""; header("Message-ID", "nonsense")(m) }, "message_id", "bad_message_id"},
		{"in-reply-to", func(m *Message) { m.InReplyTo = "<a@b> c" }, "in_reply_to", "bad_message_id"},
		{"in-reply-to with break", func(m *Message) { m.InReplyTo = "<a@b>\r\nBcc: c" }, "in_reply_to", "line_break"},
		{"reference", func(m *Message) { m.References = []string{"<a@b>", "<a b>"} }, "references[1]", "bad_message_id"},
		{"reference too long", func(m *Message) { m.References = []string{"<" + strings.Repeat("a", 511) + ">"} }, "references[0]", "bad_message_id"},

		{"no source", func(m *Message) { m.Attachments = []Attachment{{Filename: "a"}} }, "attachments[0].content", "missing_content"},
		{"line break in file name", attach(Attachment{Filename: "a\r\nb"}), "attachments[1].filename", "line_break"},
		{"control in file name", attach(Attachment{Filename: "a\x1b"}), "attachments[1].filename", "control_character"},
		{"content type without slash", attach(Attachment{ContentType: "pdf"}), "attachments[1].content_type", "bad_content_type"},
		{"content type with wildcard", attach(Attachment{ContentType: "image/*"}), "attachments[1].content_type", "bad_content_type"},
		{"content type with break", attach(Attachment{ContentType: "text/plain;\r\n a=b"}), "attachments[1].content_type", "line_break"},
		{"content type hiding a break", attach(Attachment{ContentType: "text/plain; a*=utf-8''%0D%0ABcc"}), "attachments[1].content_type", "line_break"},
		{"content type too long", attach(Attachment{ContentType: "text/plain; a=" + strings.Repeat("b", 998)}), "attachments[1].content_type", "too_long"},
		{"content id with space", attach(Attachment{ContentID: "a b"}), "attachments[1].content_id", "bad_content_id"},
		{"content id with break", attach(Attachment{ContentID: "a\r\nb"}), "attachments[1].content_id", "line_break"},
		{"content id half in brackets", attach(Attachment{ContentID: "<a"}), "attachments[1].content_id", "bad_content_id"},
		{"content id empty in brackets", attach(Attachment{ContentID: "<>"}), "attachments[1].content_id", "bad_content_id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := plainMessage()
			tt.change(m)
			c, err := m.Compose()
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%v, %v, want an *Error", c, err)
			}
			if e.Field != tt.field || e.Code != tt.code || e.Kind != KindInvalid || e.Stage != StageAccept {
				t.Errorf("%q: field %q, code %q, want %q, %q", e, e.Field, e.Code, tt.field, tt.code)
			}
			if s := e.Error(); len(s) > 400 || strings.ContainsAny(s, "\r\n\x00\x1b\x07") {
				t.Errorf("error echoes too much: %q", s)
			}
		})
	}
}

func TestComposeFillsIn(t *testing.T) {
	t.Parallel()
	m := plainMessage()
	m.Date, m.MessageID = time.Time{}, ""
	c, err := m.Compose()
	if err != nil {
		t.Fatal(err)
	}
	out := string(write(t, c))
	if m.Date.IsZero() || !strings.Contains(out, "Date: "+m.Date.Format(time.RFC1123Z)+"\r\n") {
		t.Errorf("date %v in\n%s", m.Date, out)
	}
	if !strings.HasSuffix(m.MessageID, "@x.jp>") || !strings.Contains(out, "Message-ID: "+m.MessageID+"\r\n") {
		t.Errorf("message id %q in\n%s", m.MessageID, out)
	}
}

func TestComposeTwice(t *testing.T) {
	t.Parallel()
	m := plainMessage()
	m.MessageID = ""
	m.Headers = []HeaderField{{"Message-ID", "<own@x.jp>"}, {"References", "<a@b> <c@d>"}, {"In-Reply-To", "<c@d>"}, {"X-A", "1"}}
	var outs []string
	for range 2 {
		c, err := m.Compose()
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, string(write(t, c)))
	}
	if outs[0] != outs[1] {
		t.Error("composing again gives another message")
	}
	if want := "Message-ID: <own@x.jp>\r\nIn-Reply-To: <c@d>\r\nReferences: <a@b> <c@d>\r\nSubject: Hello\r\nX-A: 1\r\n"; !strings.Contains(outs[0], want) {
		t.Errorf("got\n%s\nwant in it\n%s", outs[0], want)
	}
}
