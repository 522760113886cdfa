package mailer

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCleanFilename(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"plain", "report.pdf", "report.pdf"},
		{"path", "../../etc/passwd", "passwd"},
		{"windows path", `C:\Users\a\report.pdf`, "report.pdf"},
		{"only a path", "dir/", ""},
		{"dots", "..", ""},
		{"dots after path", "a/. .", ""},
		{"right to left override", "invoice\u202efdp.exe", "invoicefdp.exe"},
		{"isolates and marks", "\u2066a\u2069\u200e\u200f\u061c.txt", "a.txt"},
		{"bidi hiding a slash", "a\u202e/\u202db", "b"},
		{"tab", "a\tb.txt", "a b.txt"},
		{"white space around", " a.txt ", "a.txt"},
		{"longest", strings.Repeat("a", 251) + ".pdf", strings.Repeat("a", 251) + ".pdf"},
		{"too long keeps extension", strings.Repeat("a", 300) + ".pdf", strings.Repeat("a", 251) + ".pdf"},
		{"too long is cut between characters", strings.Repeat("名", 100) + ".pdf", strings.Repeat("名", 83) + ".pdf"},
		{"too long an extension", "a." + strings.Repeat("b", 300), "a." + strings.Repeat("b", 253)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := cleanFilename(tt.in); got != tt.want || len(got) > 255 || !utf8.ValidString(got) {
				t.Errorf("cleanFilename(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestAttachmentHeader(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		a    Attachment
		want string
	}{
		{
			"type from the name",
			Attachment{Filename: "a.PDF"},
			"Content-Type: application/pdf; name=\"a.PDF\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"a.PDF\"\n",
		},
		{
			"name from the type",
			Attachment{ContentType: "image/jpeg"},
			"Content-Type: image/jpeg; name=\"attachment.jpg\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"attachment.jpg\"\n",
		},
		{
			"nothing known",
			Attachment{},
			"Content-Type: application/octet-stream; name=\"attachment.bin\"\nContent-Transfer-Encoding: base64\n" +
				"Content-Disposition: attachment; filename=\"attachment.bin\"\n",
		},
		{
			"inline",
			Attachment{Filename: "l.png", Inline: true, ContentID: "<logo@x.jp>"},
			"Content-Type: image/png; name=\"l.png\"\nContent-Transfer-Encoding: base64\nContent-ID: <logo@x.jp>\nContent-Disposition: inline; filename=\"l.png\"\n",
		},
		{
			"content id without brackets",
			Attachment{Filename: "l.png", ContentID: "logo"},
			"Content-Type: image/png; name=\"l.png\"\nContent-Transfer-Encoding: base64\nContent-ID: <logo>\nContent-Disposition: attachment; filename=\"l.png\"\n",
		},
		{
			"parameters",
			Attachment{Filename: "a.csv", ContentType: `Text/CSV; Header=present; charset="utf-8"; name=x; boundary=y`},
			"Content-Type: text/csv; charset=\"utf-8\"; header=\"present\"; name=\"a.csv\"\nContent-Transfer-Encoding: base64\n" +
				"Content-Disposition: attachment; filename=\"a.csv\"\n",
		},
		{
			"quotes in the name",
			Attachment{Filename: `a "b";.txt`},
			"Content-Type: text/plain; name=\"a \\\"b\\\";.txt\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"a \\\"b\\\";.txt\"\n",
		},
		{
			"short japanese name",
			Attachment{Filename: "請求書.pdf"},
			"Content-Type: application/pdf; name*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8.pdf\nContent-Transfer-Encoding: base64\n" +
				"Content-Disposition: attachment;\n filename*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8.pdf\n",
		},
		{
			"long japanese name",
			Attachment{Filename: "請求書 2026年9月分 株式会社テスト御中.pdf"},
			"Content-Type: application/pdf;\n name*0*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8%202026%E5%B9%B49%E6%9C%88;\n name*1*=%E5%88%86%20%E6%A0%AA%E5%BC%8F%E4%BC%9A%E7%A4%BE%E3%83%86%E3%82%B9;\n" +
				" name*2*=%E3%83%88%E5%BE%A1%E4%B8%AD.pdf\nContent-Transfer-Encoding: base64\n" +
				"Content-Disposition: attachment;\n" +
				" filename*0*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8%202026%E5%B9%B49%E6%9C%88;\n" +
				" filename*1*=%E5%88%86%20%E6%A0%AA%E5%BC%8F%E4%BC%9A%E7%A4%BE%E3%83%86;\n" +
				" filename*2*=%E3%82%B9%E3%83%88%E5%BE%A1%E4%B8%AD.pdf\n",
		},
		{
			"clean message",
			Attachment{Filename: "m.eml", Source: Bytes("From: a@x.jp\r\n\r\nHi\r\n")},
			"Content-Type: message/rfc822; name=\"m.eml\"\nContent-Transfer-Encoding: 7bit\nContent-Disposition: attachment; filename=\"m.eml\"\n",
		},
		{
			"8-bit message",
			Attachment{Filename: "m.eml", Source: Bytes("From: a@x.jp\r\n\r\n\xe9\r\n")},
			"Content-Type: application/octet-stream; name=\"m.eml\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"m.eml\"\n",
		},
		{
			"multipart",
			Attachment{Filename: "m", ContentType: "multipart/mixed; boundary=b"},
			"Content-Type: application/octet-stream; name=\"m\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"m\"\n",
		},
		{
			"reference to a body elsewhere",
			Attachment{Filename: "m", ContentType: "message/external-body; access-type=URL"},
			"Content-Type: application/octet-stream; name=\"m\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"m\"\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.a.Source == nil {
				tt.a.Source = Bytes("x")
			}
			c, err := tt.a.check("attachments[0]")
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.header(nil)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(string(b), "\r\n", "\n")
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			for _, line := range strings.Split(got, "\n") {
				if len(line) > 78 && strings.Contains(line, "*") {
					t.Errorf("line of %d octets: %s", len(line), line)
				}
				if v, ok := strings.CutPrefix(line, "Content-Disposition: "); ok {
					_, rest, _ := strings.Cut(got, "Content-Disposition: "+v)
					_, params, err := mime.ParseMediaType(v + rest)
					if err != nil || params["filename"] != c.filename {
						t.Errorf("read back as %q, %v", params, err)
					}
				}
			}
		})
	}
}

func TestFilenameParam(t *testing.T) {
	t.Parallel()
	for n := range 60 {
		for _, name := range []string{
			strings.Repeat("a", n) + strings.Repeat("é", 60),
			strings.Repeat("🍣", n+1) + ".pdf",
			strings.Repeat("a名", n+1) + "'%*\".pdf",
		} {
			f := startField(nil, "Content-Disposition")
			f.word("attachment;")
			f.nameParam("filename", name)
			b, _ := f.end()
			for _, line := range strings.Split(string(b), "\r\n") {
				if len(line) > 78 {
					t.Errorf("%s: line of %d octets: %s", name, len(line), line)
				}
				if _, section, ok := strings.Cut(line, "*="); ok {
					section, _ = url.PathUnescape(strings.TrimSuffix(section, ";"))
					if !utf8.ValidString(section) {
						t.Errorf("%s: a character is split: %s", name, line)
					}
				}
			}
			_, params, err := mime.ParseMediaType(strings.TrimPrefix(string(b), "Content-Disposition:"))
			if err != nil || params["filename"] != name {
				t.Errorf("%s: read back as %q, %v", name, params, err)
			}
		}
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     bool
	}{
		{"nothing", "", true},
		{"lines", "a\r\nb\r\n", true},
		{"no break at the end", "a\r\nb", true},
		{"bare LF", "a\nb", false},
		{"LF first", "\na", false},
		{"bare CR", "a\rb", false},
		{"CR CR LF", "a\r\r\n", false},
		{"CR at the end", "a\r", false},
		{"LF after CRLF", "a\r\n\n", false},
		{"NUL", "a\x00", false},
		{"8 bit", "a\x80", false},
		{"longest line", strings.Repeat("a", 998) + "\r\n", true},
		{"line too long", strings.Repeat("a", 999) + "\r\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, src := range []Source{Bytes(tt.in), byOctet(tt.in)} {
				if got, err := isCanonical(src); got != tt.want || err != nil {
					t.Errorf("isCanonical = %v, %v", got, err)
				}
			}
		})
	}
}

func TestBase64(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 3, 56, 57, 58, 114, 115, chunk - 1, chunk, chunk + 1, 3*chunk + 5} {
		src := Bytes(bytes.Repeat([]byte{0, 0xff, 'a', '\n'}, n/4+1)[:n])
		whole := appendBase64(nil, src, true)
		for _, s := range []Source{src, byOctet(src)} {
			e := encoded{&attachment{source: s, octets: int64(n)}}
			var b bytes.Buffer
			if err := e.writeTo(&b); err != nil {
				t.Fatal(err)
			}
			if e.size() != int64(b.Len()) || !bytes.Equal(b.Bytes(), whole) {
				t.Errorf("%d octets: size %d, wrote %d, in one piece %d", n, e.size(), b.Len(), len(whole))
			}
		}
		for i, line := range strings.Split(string(whole), "\r\n") {
			if len(line) > 76 || n > 0 && line == "" {
				t.Errorf("%d octets: line %d has %d characters", n, i, len(line))
			}
		}
	}
}

// source is a Source that can misbehave.
type source struct {
	size int64
	open func() (io.ReadCloser, error)
}

func (s source) Size() int64                  { return s.size }
func (s source) Open() (io.ReadCloser, error) { return s.open() }

func sourceOf(size int64, r func() io.Reader) Source {
	return source{size, func() (io.ReadCloser, error) { return io.NopCloser(r()), nil }}
}

// byOctet is a Source whose reader yields one octet at a time.
func byOctet[T string | Bytes](s T) Source {
	return sourceOf(int64(len(s)), func() io.Reader { return oneByteReader{bytes.NewReader([]byte(s))} })
}

type oneByteReader struct{ r io.Reader }

func (o oneByteReader) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

func TestSourceThatMisbehaves(t *testing.T) {
	t.Parallel()
	disk := errors.New("disk is gone")
	failing := func(n int) func() io.Reader {
		return func() io.Reader {
			return io.MultiReader(strings.NewReader(strings.Repeat("x", n)), errReader{disk})
		}
	}
	text := func(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }
	opened := 0
	tests := []struct {
		name        string
		contentType string
		source      Source
		kind        Kind
		code        string
		wraps       error
	}{
		{"shorter", "", sourceOf(100, text("x")), KindInvalid, "attachment_changed", nil},
		{"empty", "", sourceOf(100, text("")), KindInvalid, "attachment_changed", nil},
		{"shorter by a chunk", "", sourceOf(2*chunk, text(strings.Repeat("x", chunk))), KindInvalid, "attachment_changed", nil},
		{"longer", "", sourceOf(3, text("xxxx")), KindInvalid, "attachment_changed", nil},
		{"longer than nothing", "", sourceOf(0, text("x")), KindInvalid, "attachment_changed", nil},
		{"fails to open", "", source{1, func() (io.ReadCloser, error) { return nil, disk }}, KindTemporary, "attachment_unreadable", disk},
		{"fails in the middle", "", sourceOf(2*chunk, failing(chunk+5)), KindTemporary, "attachment_unreadable", disk},
		{"fails at the end", "", sourceOf(5, failing(5)), KindTemporary, "attachment_unreadable", disk},
		{"message changes", "message/rfc822", sourceOf(4, func() io.Reader {
			opened++
			return strings.NewReader(map[bool]string{true: "a\r\nb", false: "a\n.\n"}[opened == 1])
		}), KindInvalid, "attachment_changed", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := plainMessage()
			m.Attachments = []Attachment{{ContentType: tt.contentType, Source: tt.source}}
			c, err := m.Compose()
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.WriteTo(io.Discard)
			var e *Error
			if !errors.As(err, &e) || e.Kind != tt.kind || e.Code != tt.code || e.Field != "attachments[0]" || e.Stage != StageData {
				t.Fatalf("%v, want kind %s, code %s", err, tt.kind, tt.code)
			}
			if tt.wraps != nil && !errors.Is(err, tt.wraps) {
				t.Errorf("%v does not wrap %v", err, tt.wraps)
			}
		})
	}
}

func TestComposeUnreadableMessage(t *testing.T) {
	t.Parallel()
	m := plainMessage()
	m.Attachments = []Attachment{{ContentType: "message/rfc822", Source: source{1, func() (io.ReadCloser, error) { return nil, io.ErrClosedPipe }}}}
	_, err := m.Compose()
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindTemporary || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// An attachment is streamed: what writing it costs does not grow with its size.
func TestWriteToMemory(t *testing.T) { // not parallel: it measures the heap
	const size = 25 << 20
	m := plainMessage()
	m.Attachments = []Attachment{{Source: sourceOf(size, func() io.Reader { return io.LimitReader(zeros{}, size) })}}
	c, err := m.Compose()
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := c.WriteTo(io.Discard)
	runtime.ReadMemStats(&after)
	if err != nil || n != c.Size() {
		t.Fatalf("wrote %d of %d: %v", n, c.Size(), err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 256<<10 {
		t.Errorf("writing 25 MiB allocates %d KiB", got>>10)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
