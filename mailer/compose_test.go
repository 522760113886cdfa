package mailer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// counting is a source of randomness that is none.
type counting struct{ n byte }

func (c *counting) Read(p []byte) (int, error) {
	c.n++
	for i := range p {
		p[i] = c.n
	}
	return len(p), nil
}

const goldenMessage = `Date: Tue, 01 Sep 2026 09:30:00 +0900
From: =?UTF-8?B?5bGx55SwLCDlpKrpg44=?= <ann@x.jp>
Reply-To: reply@x.jp
To: b@y.jp, Bob <bob@y.jp>, "foo."@docomo.ne.jp,
 =?UTF-8?B?5qCq5byP5Lya56S+44OG44K544OI?= <c@xn--r8jz45g.jp>
Cc: d@y.jp
Message-ID: <id@x.jp>
In-Reply-To: <two@y.jp>
References: <one@y.jp> <two@y.jp>
Subject: Re: =?UTF-8?B?6KuL5rGC5pu4?= 42
X-Campaign: autumn
List-Unsubscribe: <https://x.jp/u>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="030303030303030303030303030303"

--030303030303030303030303030303
Content-Type: multipart/related; type="multipart/alternative";
 boundary="020202020202020202020202020202"

--020202020202020202020202020202
Content-Type: multipart/alternative; boundary="010101010101010101010101010101"

--010101010101010101010101010101
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 7bit

.
Hello
--010101010101010101010101010101
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<p>Hello, Ann Lee. Caf=C3=A9?</p><img src=3D"cid:logo">
--010101010101010101010101010101--
--020202020202020202020202020202
Content-Type: image/png; name="logo.png"
Content-Transfer-Encoding: base64
Content-ID: <logo>
Content-Disposition: inline; filename="logo.png"

iVBORw==
--020202020202020202020202020202--
--030303030303030303030303030303
Content-Type: application/pdf; name*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8.pdf
Content-Transfer-Encoding: base64
Content-Disposition: attachment;
 filename*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8.pdf

eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4
eHh4
--030303030303030303030303030303
Content-Type: message/rfc822; name="old.eml"
Content-Transfer-Encoding: 7bit
Content-Disposition: attachment; filename="old.eml"

Subject: old

Old.

--030303030303030303030303030303--
`

func fullMessage() *Message {
	m := plainMessage()
	m.From.Name = "山田, 太郎"
	m.ReplyTo = []Address{{"", "reply", "x.jp"}}
	m.To = []Address{{"", "b", "y.jp"}, {"Bob", "bob", "y.jp"}, {"", "foo.", "docomo.ne.jp"}, {"株式会社テスト", "c", "xn--r8jz45g.jp"}}
	m.Cc = []Address{{"", "d", "y.jp"}}
	m.Bcc = []Address{{"Hidden", "hidden", "y.jp"}}
	m.Subject = "Re: 請求書 42"
	m.Text = ".\rHello"
	m.HTML = `<p>Hello, Ann Lee. Café?</p><img src="cid:logo">`
	m.InReplyTo = "<two@y.jp>"
	m.References = []string{"<one@y.jp>", "<two@y.jp>"}
	m.Headers = []HeaderField{{"X-Campaign", " autumn "}, {"List-Unsubscribe", "<https://x.jp/u>"}}
	m.Attachments = []Attachment{
		{Filename: "請求書.pdf", Source: Bytes(strings.Repeat("x", 60))},
		{Filename: "logo.png", Inline: true, ContentID: "logo", Source: Bytes("\x89PNG")},
		{Filename: "old.eml", Source: Bytes("Subject: old\r\n\r\nOld.\r\n")},
	}
	return m
}

func TestComposeGolden(t *testing.T) {
	t.Parallel()
	c, err := fullMessage().compose(&counting{})
	if err != nil {
		t.Fatal(err)
	}
	out := write(t, c)
	checkCanonical(t, out)
	if diff := cmp.Diff(strings.ReplaceAll(goldenMessage, "\n", "\r\n"), string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if bytes.Contains(bytes.ToLower(out), []byte("hidden")) || bytes.Contains(out, []byte("Bcc")) {
		t.Error("a blind copy shows")
	}
	if c.EightBit() {
		t.Error("EightBit")
	}
}

func TestBoundariesDiffer(t *testing.T) {
	t.Parallel()
	m := fullMessage()
	seen := map[string]bool{}
	for range 10 {
		c, err := m.Compose()
		if err != nil {
			t.Fatal(err)
		}
		out := write(t, c)
		for _, p := range strings.Split(string(out), `boundary="`)[1:] {
			b, _, _ := strings.Cut(p, `"`)
			if seen[b] || len(b) != 30 {
				t.Errorf("boundary %q", b)
			}
			seen[b] = true
		}
	}
}

func TestComposeTree(t *testing.T) {
	t.Parallel()
	inline := Attachment{Filename: "i.png", Inline: true, ContentID: "i", Source: Bytes("x")}
	file := Attachment{Filename: "f.pdf", Source: Bytes("x")}
	noID := Attachment{Filename: "n.png", Inline: true, Source: Bytes("x")}
	tests := []struct {
		name       string
		text, html string
		files      []Attachment
		want       string
	}{
		{"text", "t", "", nil, "text/plain"},
		{"html", "", "h", nil, "text/html"},
		{"both", "t", "h", nil, "alternative(text/plain text/html)"},
		{"html and inline", "", "h", []Attachment{inline}, "related(text/html image/png)"},
		{"both and inline", "t", "h", []Attachment{inline, inline}, "related(alternative(text/plain text/html) image/png image/png)"},
		{"everything", "t", "h", []Attachment{file, inline}, "mixed(related(alternative(text/plain text/html) image/png) application/pdf)"},
		{"text and file", "t", "", []Attachment{file}, "mixed(text/plain application/pdf)"},
		{"inline without html", "t", "", []Attachment{inline}, "mixed(text/plain image/png)"},
		{"inline without id", "t", "h", []Attachment{noID}, "mixed(alternative(text/plain text/html) image/png)"},
		{"one file", "", "", []Attachment{file}, "application/pdf"},
		{"two files", "", "", []Attachment{file, noID}, "mixed(application/pdf image/png)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := plainMessage()
			m.Text, m.HTML, m.Attachments = tt.text, tt.html, tt.files
			c, err := m.Compose()
			if err != nil {
				t.Fatal(err)
			}
			out := write(t, c)
			checkCanonical(t, out)
			msg, err := mail.ReadMessage(bytes.NewReader(out))
			if err != nil {
				t.Fatal(err)
			}
			shape, _ := readPart(t, msg.Header, msg.Body)
			if shape != tt.want {
				t.Errorf("got %s, want %s\n%s", shape, tt.want, out)
			}
		})
	}
}

type getter interface{ Get(string) string }

// readPart reads a part with the standard library and returns its shape, and
// the decoded leaves by file name or type.
func readPart(t *testing.T, h getter, r io.Reader) (shape string, leaves map[string]string) {
	t.Helper()
	leaves = map[string]string{}
	mt, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	if sub, ok := strings.CutPrefix(mt, "multipart/"); ok {
		var shapes []string
		mr := multipart.NewReader(r, params["boundary"])
		for {
			p, err := mr.NextRawPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			s, l := readPart(t, p.Header, p)
			shapes = append(shapes, s)
			for k, v := range l {
				leaves[k] = v
			}
			if sub == "related" && len(shapes) == 1 && params["type"] != strings.Split("multipart/"+s, "(")[0] && params["type"] != s {
				t.Errorf("related has type %q, its root is %s", params["type"], s)
			}
		}
		return sub + "(" + strings.Join(shapes, " ") + ")", leaves
	}
	switch e := h.Get("Content-Transfer-Encoding"); e {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	case "7bit":
	default:
		t.Errorf("encoding %q", e)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	key := mt
	if d := h.Get("Content-Disposition"); d != "" {
		_, params, err := mime.ParseMediaType(d)
		if err != nil {
			t.Fatal(err)
		}
		key = params["filename"]
	}
	leaves[key] = string(b)
	return mt, leaves
}

func TestComposeRoundTrip(t *testing.T) {
	t.Parallel()
	m := fullMessage()
	m.Subject = "件名 " + strings.Repeat("長い件名です🍣", 20) + "  end"
	m.Text = strings.Repeat("本文です。\n", 500)
	m.HTML = strings.Repeat("<p>x ", 1000) + "é \n\tend \n"
	long := strings.Repeat("長い名前", 18) + ".bin"
	data := strings.Repeat("\x00\xff\r\n.\r\n", 10000)
	m.Attachments = append(m.Attachments, Attachment{Filename: long, Source: Bytes(data)}, Attachment{Filename: "empty", Source: Bytes("")})
	m.To = nil
	for i := range 40 {
		m.To = append(m.To, Address{fmt.Sprintf("山田 太郎, 株式会社テスト %d", i), fmt.Sprintf("r%d", i), "x.jp"})
	}
	c, err := m.Compose()
	if err != nil {
		t.Fatal(err)
	}
	out := write(t, c)
	checkCanonical(t, out)
	header, _, _ := strings.Cut(string(out), "\r\n\r\n")
	for _, line := range strings.Split(header, "\r\n") {
		if len(line) > 78 {
			t.Errorf("line of %d octets: %s", len(line), line)
		}
	}
	msg, err := mail.ReadMessage(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil || s != m.Subject {
		t.Errorf("subject %q, %v", s, err)
	}
	to, err := msg.Header.AddressList("To")
	if err != nil || len(to) != len(m.To) {
		t.Fatalf("%d recipients, %v", len(to), err)
	}
	for i, a := range to {
		if want := m.To[i]; a.Name != want.Name || a.Address != want.Mailbox() {
			t.Errorf("recipient %+v, want %+v", a, want)
		}
	}
	if d, err := msg.Header.Date(); err != nil || !d.Equal(m.Date) {
		t.Errorf("date %v, %v", d, err)
	}
	_, leaves := readPart(t, msg.Header, msg.Body)
	want := map[string]string{
		"text/plain": strings.ReplaceAll(m.Text, "\n", "\r\n"),
		"text/html":  strings.ReplaceAll(m.HTML, "\n", "\r\n"),
		"請求書.pdf":    strings.Repeat("x", 60),
		"logo.png":   "\x89PNG",
		"old.eml":    "Subject: old\r\n\r\nOld.\r\n",
		long:         data,
		"empty":      "",
	}
	if diff := cmp.Diff(want, leaves); diff != "" {
		t.Errorf("(-want +got):\n%.2000s", diff)
	}
}

func TestComposeText(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, encoding, decoded string }{
		{"ascii", "Hi\n", "7bit", "Hi\r\n"},
		{"no break at the end", "Hi", "7bit", "Hi\r\n"},
		{"CR, LF and CRLF", "a\rb\nc\r\nd\n\re", "7bit", "a\r\nb\r\nc\r\nd\r\n\r\ne\r\n"},
		{"dots and from", ".\n..\nFrom me\n", "7bit", ".\r\n..\r\nFrom me\r\n"},
		{"longest line", strings.Repeat("a", 998) + "\n", "7bit", strings.Repeat("a", 998) + "\r\n"},
		{"line too long", strings.Repeat("a", 999) + "\n", "quoted-printable", strings.Repeat("a", 999) + "\r\n"},
		{"tab", "a\tb\n", "7bit", "a\tb\r\n"},
		{"longest line with tabs", strings.Repeat("a\t", 499) + "\n", "7bit", strings.Repeat("a\t", 499) + "\r\n"},
		{"longest lines that end in CR", strings.Repeat(strings.Repeat("a", 998)+"\r", 2), "7bit", strings.Repeat(strings.Repeat("a", 998)+"\r\n", 2)},
		{"delete", "some \x7f text\n", "quoted-printable", "some \x7f text\r\n"},
		{"NUL", "some text with a\x00\n", "quoted-printable", "some text with a\x00\r\n"},
		{"escape", "some text with a \x1b\n", "quoted-printable", "some text with a \x1b\r\n"},
		{"western", "Un café, s'il vous plaît\n", "quoted-printable", "Un café, s'il vous plaît\r\n"},
		{"trailing white space", "Un café, s'il vous plaît, et l'addition \t\n \n", "quoted-printable", "Un café, s'il vous plaît, et l'addition \t\r\n \r\n"},
		{"japanese", "こんにちは\n", "base64", "こんにちは\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := plainMessage()
			m.Text = tt.text
			c, err := m.Compose()
			if err != nil {
				t.Fatal(err)
			}
			out := write(t, c)
			checkCanonical(t, out)
			msg, err := mail.ReadMessage(bytes.NewReader(out))
			if err != nil {
				t.Fatal(err)
			}
			if e := msg.Header.Get("Content-Transfer-Encoding"); e != tt.encoding {
				t.Errorf("encoding %s, want %s", e, tt.encoding)
			}
			_, leaves := readPart(t, msg.Header, msg.Body)
			if got := leaves["text/plain"]; got != tt.decoded {
				t.Errorf("read back as %q, want %q", got, tt.decoded)
			}
		})
	}
}

func TestComposeSMTPUTF8(t *testing.T) {
	t.Parallel()
	utf8 := Address{"用", "用户", "xn--r8jz45g.jp"}
	for name, tt := range map[string]struct {
		change func(*Message)
		want   bool
	}{
		"none":     {func(*Message) {}, false},
		"to":       {func(m *Message) { m.To = append(m.To, utf8) }, true},
		"reply-to": {func(m *Message) { m.ReplyTo = []Address{utf8} }, true},
		"bcc":      {func(m *Message) { m.Bcc = []Address{utf8} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := plainMessage()
			tt.change(m)
			c, err := m.Compose()
			if err != nil {
				t.Fatal(err)
			}
			out := write(t, c)
			if c.EightBit() != tt.want || isASCII(string(out)) == tt.want {
				t.Errorf("EightBit %v, ASCII %v", c.EightBit(), isASCII(string(out)))
			}
			if tt.want && !bytes.Contains(out, []byte("=?UTF-8?B?55So?= <用户@xn--r8jz45g.jp>\r\n")) {
				t.Errorf("not in the header:\n%s", out)
			}
		})
	}
}

func TestContentConcurrently(t *testing.T) {
	t.Parallel()
	c, err := fullMessage().Compose()
	if err != nil {
		t.Fatal(err)
	}
	want := write(t, c)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var b bytes.Buffer
			if _, err := c.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), want) {
				t.Errorf("another message, %v", err)
			}
		})
	}
	wg.Wait()
}

func TestWriteToFails(t *testing.T) {
	t.Parallel()
	c, err := fullMessage().Compose()
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{0, 1, 700, c.Size() - 1} {
		n, err := c.WriteTo(&shortWriter{left: limit})
		var e *Error
		if !errors.Is(err, io.ErrShortWrite) || errors.As(err, &e) || n != limit {
			t.Errorf("limit %d: wrote %d, %v", limit, n, err)
		}
	}
}

type shortWriter struct{ left int64 }

func (w *shortWriter) Write(p []byte) (int, error) {
	n := min(int64(len(p)), w.left)
	w.left -= n
	if n < int64(len(p)) {
		return int(n), io.ErrShortWrite
	}
	return len(p), nil
}

func BenchmarkCompose(b *testing.B) {
	m := plainMessage()
	m.Text = strings.Repeat(strings.Repeat("x", 62)+"\r\n", 16)
	b.ReportAllocs()
	b.SetBytes(int64(len(m.Text)))
	for b.Loop() {
		c, err := m.Compose()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkComposeAttachment(b *testing.B) {
	m := plainMessage()
	m.Attachments = []Attachment{{Filename: "a.bin", Source: Bytes(make([]byte, 1<<20))}}
	b.ReportAllocs()
	b.SetBytes(1 << 20)
	for b.Loop() {
		c, err := m.Compose()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDateZones: RFC 5322 knows zones of whole minutes within a day.
func TestDateZones(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		offset int
		want   string
	}{
		{9 * 3600, "Date: Sat, 21 Nov 2026 21:00:00 +0900"},
		{9*3600 + 18*60 + 59, "Date: Sat, 21 Nov 2026 12:00:00 +0000"},
		{100 * 3600, "Date: Sat, 21 Nov 2026 12:00:00 +0000"},
	} {
		m := &Message{From: sender, To: []Address{someone}, Text: "t", Date: at.In(time.FixedZone("", tt.offset))}
		content, err := m.Compose()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(write(t, content)); !strings.HasPrefix(got, tt.want+"\r\n") {
			t.Errorf("offset %d: got %.60q, want %q", tt.offset, got, tt.want)
		}
	}
}
