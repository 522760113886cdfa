package mailer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// onWire submits to a server that agrees to everything and returns what the
// client wrote.
func onWire(t *testing.T, env Envelope, content Content, o Options, offer ...string) ([]byte, error) {
	t.Helper()
	server := mailertest.NewAgreeable(len(env.To), offer...)
	tenant := &Tenant{Name: "lab", Server: Server{Host: "127.0.0.1", Port: 25, Security: Plaintext, Dial: server.Dial}}
	_, err := tenant.Submit(t.Context(), env, content, o)
	return server.Heard(), err
}

// TestSmuggling puts another transaction into everything that a message is made
// of. It is refused, or three servers that differ in what they take for a line
// end see one transaction, with the same recipients, and no words that are no
// command.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	message := func() *Message {
		return &Message{
			From: Address{Name: "A", Local: "a", Domain: "example.com"}, To: []Address{{Name: "B", Local: "b", Domain: "example.net"}},
			Cc: []Address{other}, Subject: "s", Text: "t", Date: time.Unix(1e9, 0).UTC(), MessageID: "<id@example.com>",
		}
	}
	raw := func(format string) func(*Message, string) (Envelope, Content) {
		return func(m *Message, s string) (Envelope, Content) {
			text := fmt.Sprintf(format, s)
			return m.Envelope(), wireContent{text: text, eightBit: true, utf8Header: true}
		}
	}
	long := strings.ReplaceAll(bigger.text, "%", "")
	tests := []struct {
		name string
		set  func(*Message, string)
		// raw makes the content without Compose.
		raw func(*Message, string) (Envelope, Content)
		o   func(*Options, string)
	}{
		{name: "subject", set: func(m *Message, s string) { m.Subject = s }},
		{name: "name of the sender", set: func(m *Message, s string) { m.From.Name = s }},
		{name: "name of a recipient", set: func(m *Message, s string) { m.To[0].Name = s }},
		{name: "local part of the sender", set: func(m *Message, s string) { m.From.Local = s }},
		{name: "local part", set: func(m *Message, s string) { m.To[0].Local = s }},
		{name: "domain", set: func(m *Message, s string) { m.Cc[0].Domain = s }},
		{name: "hidden recipient", set: func(m *Message, s string) { m.Bcc = []Address{{Local: "c", Domain: s}} }},
		{name: "text", set: func(m *Message, s string) { m.Text = s }},
		{name: "HTML", set: func(m *Message, s string) { m.HTML = s }},
		{name: "header value", set: func(m *Message, s string) { m.Headers = []HeaderField{{"X-Note", s}} }},
		{name: "header name", set: func(m *Message, s string) { m.Headers = []HeaderField{{"X-" + s, "v"}} }},
		{name: "message id", set: func(m *Message, s string) { m.MessageID = "<" + s + "@example.com>" }},
		{name: "references", set: func(m *Message, s string) { m.References = []string{"<a@b>", "<" + s + "@example.com>"} }},
		{name: "attachment", set: func(m *Message, s string) { m.Attachments = []Attachment{{Filename: "a.txt", Source: Bytes(s)}} }},
		{name: "file name", set: func(m *Message, s string) { m.Attachments = []Attachment{{Filename: s, Source: Bytes("x")}} }},
		{name: "content type", set: func(m *Message, s string) {
			m.Attachments = []Attachment{{Filename: "a", ContentType: "text/plain; x=" + s, Source: Bytes("x")}}
		}},
		{name: "content id", set: func(m *Message, s string) {
			m.HTML = "<p>"
			m.Attachments = []Attachment{{Filename: "a", Inline: true, ContentID: s, Source: Bytes("x")}}
		}},
		{name: "attached message", set: func(m *Message, s string) {
			m.Attachments = []Attachment{{ContentType: "message/rfc822", Source: Bytes("Subject: x\r\n\r\n" + s)}}
		}},
		{name: "raw body", raw: raw("Subject: x\r\n\r\n%s\r\n")},
		{name: "raw header", raw: raw("Subject: %s\r\n\r\nx\r\n")},
		{name: "raw, as a whole", raw: raw("%s")},
		{name: "raw, far behind", raw: raw(long[:40*72] + "%s\r\n")},
		{name: "envelope without Compose", raw: func(m *Message, s string) (Envelope, Content) {
			return Envelope{From: sender, To: []Address{someone, {Local: s, Domain: "example.net"}}}, hello
		}},
		{name: "envelope id", o: func(o *Options, s string) { o.DSN.EnvelopeID = s }},
	}
	corpus := mailertest.Smuggled(4)
	for _, tt := range tests {
		for _, offer := range [][]string{{"X"}, {"PIPELINING"}, {"CHUNKING"}, {"PIPELINING", "CHUNKING"}} {
			t.Run(tt.name+"/"+strings.Join(offer, " "), func(t *testing.T) {
				t.Parallel()
				refused := 0
				for _, s := range corpus {
					m, o := message(), Options{}
					var env Envelope
					var content Content
					var err error
					switch {
					case tt.raw != nil:
						env, content = tt.raw(m, s)
					case tt.set != nil:
						tt.set(m, s)
						content, err = m.Compose()
						env = m.Envelope()
					default:
						content, err = m.Compose()
						env = m.Envelope()
						tt.o(&o, s)
					}
					var wire []byte
					if err == nil {
						wire, err = onWire(t, env, content, o, offer...)
					}
					want := 1
					if err != nil {
						refused, want = refused+1, 0
						if asError(err).Kind != KindInvalid {
							t.Fatalf("%q: %v", s, err)
						}
					}
					checkOneTransaction(t, s, wire, env, want)
				}
				if tt.raw == nil && tt.set != nil && refused == len(corpus) && (tt.name == "text" || tt.name == "HTML" || strings.HasPrefix(tt.name, "attach")) {
					t.Error("all were refused, which is not what this field is about")
				}
			})
		}
	}
}

// checkOneTransaction has the receivers read what a client wrote. Want is 1, or 0
// where the message was refused.
func checkOneTransaction(t *testing.T, s string, wire []byte, env Envelope, want int) {
	t.Helper()
	var to []string
	for _, a := range env.To {
		to = append(to, "RCPT TO:<"+a.Mailbox()+">")
	}
	for _, r := range mailertest.Receivers {
		seen, named, rubbish := r.Read(wire)
		if len(seen) != want || len(rubbish) > 0 {
			t.Fatalf("%q: the %s server sees %d transactions, and %q\n%q", s, r.Name, len(seen), rubbish, wire)
		}
		for _, line := range named {
			if strings.Contains(line, "victim") || !slices.Contains(to, line) {
				t.Fatalf("%q: the %s server was told %q", s, r.Name, line)
			}
		}
		for _, tr := range seen {
			if !slices.Equal(tr.To, to) {
				t.Fatalf("%q: the %s server sends to %q, not %q", s, r.Name, tr.To, to)
			}
			// What came by BDAT may go on by DATA, where only CRLF is taken for a
			// line end and a dot is doubled accordingly.
			onward := "MAIL\r\nRCPT\r\nDATA\r\n" + strings.ReplaceAll("\r\n"+tr.Content, "\r\n.", "\r\n..")[2:] + ".\r\nQUIT\r\n"
			for _, next := range mailertest.Receivers {
				if again, _, rubbish := next.Read([]byte(onward)); len(again) != 1 || len(rubbish) > 0 {
					t.Fatalf("%q: behind the %s server, the %s one sees %d transactions", s, r.Name, next.Name, len(again))
				}
			}
		}
	}
}

// lying is a content that is longer than it says.
type lying struct {
	wireContent
	size int64
}

func (l lying) Size() int64 { return l.size }

// TestSurplusIsNoCommand: what a content has beyond its size, and a server would
// read as commands behind BDAT, stays here.
func TestSurplusIsNoCommand(t *testing.T) {
	t.Parallel()
	inner := "MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nBDAT 2 LAST\r\n\r\n"
	for _, offer := range [][]string{{"CHUNKING"}, {"PIPELINING", "CHUNKING"}, {"PIPELINING"}} {
		for _, behind := range []string{"", bigger.text} {
			content := lying{wireContent{text: hello.text + inner + behind}, hello.Size()}
			wire, err := onWire(t, letter, content, Options{}, offer...)
			if e := asError(err); err == nil || e.Kind != KindInvalid || e.Code != "not_canonical" {
				t.Errorf("%v: %v", offer, err)
			}
			checkOneTransaction(t, inner, wire, letter, 0)
		}
	}
}

// TestRefusedContentEndsNoChunk refuses content at its very end, where the last
// write has just been made or is about to be.
func TestRefusedContentEndsNoChunk(t *testing.T) {
	t.Parallel()
	for _, offer := range [][]string{{"CHUNKING"}, {"PIPELINING", "CHUNKING"}, {"PIPELINING"}} {
		for size := gatherSize - 200; size < gatherSize+5; size++ {
			content := wireContent{text: bigger.text[:size/72*72] + strings.Repeat("x", size%72+1)}
			wire, err := onWire(t, letter, content, Options{}, offer...)
			if e := asError(err); err == nil || e.Kind != KindInvalid {
				t.Fatalf("%v, %d octets: %v", offer, size, err)
			}
			checkOneTransaction(t, "", wire, letter, 0)
		}
	}
}
