package mailer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
)

// asFile writes a text in base64 in pieces of n octets.
func asFile(t *testing.T, s *Spool, text string, n int) (*File, error) {
	t.Helper()
	f := s.NewFile()
	t.Cleanup(func() { _ = f.Close() })
	for len(text) > 0 {
		k := min(n, len(text))
		taken, err := f.WriteBase64([]byte(text[:k]))
		if err != nil {
			return f, err
		}
		if taken != k {
			t.Fatalf("took %d of %d octets", taken, k)
		}
		text = text[k:]
	}
	return f, f.End()
}

// checkFile holds a file to the octets that it should have.
func checkFile(t *testing.T, f *File, want []byte) {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) || f.Size() != int64(len(want)) {
		t.Fatalf("%d octets, size %d, %v; want %d octets: %.60q, not %.60q", len(got), f.Size(), err, len(want), got, want)
	}
	var b bytes.Buffer
	n, err := f.Encoded(&b)
	if err != nil || n != base64Size(f.Size()) || b.String() != string(appendBase64(nil, want, true)) {
		t.Fatalf("%d characters, %v: %.200q", n, err, b.String())
	}
}

// TestFile: octets and texts in base64 give the same file, in memory and on the disk,
// in whatever pieces they come.
func TestFile(t *testing.T) {
	t.Parallel()
	s := &Spool{Folder: t.TempDir()}
	for _, size := range []int{0, 1, 2, 3, 56, 57, 58, 114, 115, 1000, 47 << 10, 48 << 10, 49 << 10, 300_001} {
		octets := make([]byte, size)
		for i := range octets {
			octets[i] = byte(i*7 + i>>8)
		}
		for _, n := range []int{1, 3, 57, 1000, 1 << 20} {
			if n == 1 && size > 100_000 {
				continue
			}
			f := s.NewFile()
			for rest := octets; len(rest) > 0; {
				k := min(n, len(rest))
				if _, err := f.Write(rest[:k]); err != nil {
					t.Fatal(err)
				}
				rest = rest[k:]
			}
			if err := f.End(); err != nil {
				t.Fatal(err)
			}
			checkFile(t, f, octets)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
				f, err := asFile(t, s, encoding.EncodeToString(octets), n)
				if err != nil {
					t.Fatal(err)
				}
				checkFile(t, f, octets)
				_ = f.Close()
			}
		}
	}
	if s.Used() != 0 {
		t.Errorf("%d octets are still used", s.Used())
	}
}

// TestFileBroken: what is no base64 is refused, and where it is told.
func TestFileBroken(t *testing.T) {
	t.Parallel()
	s := &Spool{Folder: t.TempDir()}
	for _, text := range []string{"A", "=", "A=", "A===", "AA=", "AA=A", "AA==AA==", "AAA==", "AAAA=", "AA-=A", "AA==_", "A A", "A\x00AA", "ÄÄÄÄ", "AAAAA"} {
		for _, n := range []int{1, 100} {
			if _, err := asFile(t, s, text, n); !errors.Is(err, ErrBadBase64) {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
	f := s.NewFile()
	if n, err := f.WriteBase64([]byte(`QUFB"x`)); n != 4 || !errors.Is(err, ErrBadBase64) {
		t.Errorf("took %d octets: %v", n, err)
	}
	if err := f.End(); err != nil {
		t.Fatal(err)
	}
	checkFile(t, f, []byte("AAA"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFileInMessage: an attachment goes into a message as from any other source.
func TestFileInMessage(t *testing.T) {
	t.Parallel()
	from := Address{Local: "a", Domain: "example.com"}
	octets := bytes.Repeat([]byte("0123456789"), 10_000)
	inner := []byte("Subject: s\r\n\r\ntext\r\n")
	s := &Spool{Folder: t.TempDir()}
	file := func(b []byte) Source {
		f := s.NewFile()
		t.Cleanup(func() { _ = f.Close() })
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := f.End(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	text := func(one, two Source) string {
		t.Helper()
		m := &Message{
			From: from, To: []Address{from}, Subject: "s", MessageID: "<1@example.com>",
			Attachments: []Attachment{{Filename: "a.bin", Source: one}, {ContentType: "message/rfc822", Source: two}},
		}
		c, err := m.compose(strings.NewReader(strings.Repeat("x", 100)))
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if n, err := c.WriteTo(&b); err != nil || n != c.Size() {
			t.Fatalf("%d of %d octets: %v", n, c.Size(), err)
		}
		_, rest, _ := strings.Cut(b.String(), "\r\n") // behind the date
		return rest
	}
	got, want := text(file(octets), file(inner)), text(Bytes(octets), Bytes(inner))
	if got != want {
		t.Errorf("%.500q, not %.500q", got, want)
	}
}

// FuzzFile: what is written as base64 is what encoding/base64 reads.
func FuzzFile(f *testing.F) {
	f.Add("YQ==", 1)
	f.Add("YWI\r\n", 2)
	f.Add("-_8", 3)
	f.Add("YR==YQ", 4)
	f.Fuzz(func(t *testing.T, text string, n int) {
		s := &Spool{Folder: t.TempDir()}
		file, err := asFile(t, s, text, 1+n&0xff)
		plain := strings.NewReplacer("\r", "", "\n", "", "-", "+", "_", "/").Replace(text)
		encoding := base64.RawStdEncoding
		if strings.Contains(plain, "=") {
			encoding = base64.StdEncoding
		}
		want, wrong := encoding.DecodeString(plain)
		if (err == nil) != (wrong == nil) {
			t.Fatalf("%q: %v, and encoding/base64 says %v", text, err, wrong)
		}
		if err == nil {
			checkFile(t, file, want)
		}
	})
}
