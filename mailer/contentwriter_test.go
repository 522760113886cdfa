package mailer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/textproto"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

func TestContentWriter(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxTextLine)
	tests := []struct {
		name     string
		in       string
		eightBit bool
		want     string
		bad      string // part of the error
	}{
		{name: "empty", in: "", want: ".\r\n"},
		{name: "line", in: "a\r\n", want: "a\r\n.\r\n"},
		{name: "dot", in: ".\r\n", want: "..\r\n.\r\n"},
		{name: "dots", in: "..\r\n.a\r\na.\r\n", want: "...\r\n..a\r\na.\r\n.\r\n"},
		{name: "empty lines", in: "\r\n\r\n", want: "\r\n\r\n.\r\n"},
		{name: "longest line", in: long + "\r\n", want: long + "\r\n.\r\n"},
		{name: "longest line with a dot", in: "." + long[1:] + "\r\n", want: ".." + long[1:] + "\r\n.\r\n"},
		{name: "eight bits", in: "\xe9\r\n", eightBit: true, want: "\xe9\r\n.\r\n"},
		{name: "eight bits unannounced", in: "\xe9\r\n", bad: "above 127"},
		{name: "line too long", in: long + "x\r\n", bad: "over 998"},
		{name: "no end", in: "a", bad: "without CRLF"},
		{name: "ends in CR", in: "a\r", bad: "bare CR"},
		{name: "bare LF", in: "a\nb\r\n", bad: "bare LF"},
		{name: "LF first", in: "\n.\r\n", bad: "bare LF"},
		{name: "bare CR", in: "a\rb\r\n", bad: "bare CR"},
		{name: "two CR", in: "a\r\r\n", bad: "bare CR"},
		{name: "NUL", in: "a\x00\r\n", bad: "NUL"},
		{name: "smuggled by LF", in: "a\n.\r\nMAIL FROM:<x>\r\n", bad: "bare LF"},
		{name: "smuggled by CR", in: "a\r.\r\nMAIL FROM:<x>\r\n", bad: "bare CR"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for size := 1; size <= len(tt.in)+1; size += 1 + len(tt.in)/5 {
				var wire bytes.Buffer
				err := dotWrite(&wire, tt.in, size, tt.eightBit)
				if tt.bad != "" {
					if !errors.Is(err, errNotCanonical) || !strings.Contains(err.Error(), tt.bad) {
						t.Fatalf("pieces of %d: error %v, want %q", size, err, tt.bad)
					}
					if wire.Len() > 0 {
						t.Fatalf("pieces of %d: %q on the wire", size, wire.String())
					}
					continue
				}
				if err != nil || wire.String() != tt.want {
					t.Fatalf("pieces of %d: %q, %v; want %q", size, wire.String(), err, tt.want)
				}
			}
		})
	}
}

// dotWrite writes in pieces of size octets.
func dotWrite(to io.Writer, in string, size int, eightBit bool) error {
	out := &gather{w: to}
	w := &contentWriter{out: out, eightBit: eightBit, lines: true, size: int64(len(in))}
	for len(in) > 0 {
		n := min(size, len(in))
		if _, err := w.Write([]byte(in[:n])); err != nil {
			return err
		}
		in = in[n:]
	}
	if err := w.end(); err != nil {
		return err
	}
	w.close()
	return out.flush()
}

// FuzzContentWriter has a plain definition of what is canonical, and as referees
// the standard library and three servers that differ in what they take for a
// line end: of the content, and of as much of it as was written before it was
// refused.
func FuzzContentWriter(f *testing.F) {
	for _, s := range []string{
		"", "a\r\n", ".\r\n", "\r\n.\r\n", "a\n", "a\r", "\r\r\n", "x\x00\r\n", "\xff\r\n", strings.Repeat("x", 999) + "\r\n", strings.Repeat(".\r\n", 9),
		"a\r\n.\rb\r\n", "a\r\n.\nb\r\n", ".\r", "\r\n.", "a\n.\r\nMAIL FROM:<e@x>\r\n", "a\r.\r\nMAIL FROM:<e@x>\r\n", "\r\n.\r\nDATA\r\n.\r\n",
	} {
		f.Add([]byte(s), 3, true)
		f.Add([]byte(s), 1, false)
	}
	f.Fuzz(checkContentWriter)
}

func checkContentWriter(t *testing.T, in []byte, size int, lines bool) {
	wire, err := written(string(in), max(size, 1), lines)
	if (err == nil) != wasCanonical(string(in)) {
		t.Fatalf("%q: %v", in, err)
	}
	if err != nil {
		if !lines && !strings.HasPrefix(string(in), wire) {
			t.Fatalf("%q was written as %q", in, wire)
		}
		for _, r := range mailertest.Receivers {
			if content, _, ok := r.Data([]byte(wire)); ok && lines {
				t.Fatalf("%q, refused: the %s server took %q of %q", in, r.Name, content, wire)
			}
		}
		return
	}
	if !lines {
		if wire != string(in) {
			t.Fatalf("%q was written as %q", in, wire)
		}
		return
	}
	for _, r := range mailertest.Receivers {
		content, rest, ok := r.Data([]byte(wire + "QUIT\r\n"))
		if !ok || content != string(in) || string(rest) != "QUIT\r\n" {
			t.Fatalf("%q: the %s server took %q and left %q", in, r.Name, content, rest)
		}
	}
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(wire + "QUIT\r\n")))
	got, err := io.ReadAll(r.DotReader())
	if err != nil || string(got) != strings.ReplaceAll(string(in), "\r\n", "\n") {
		t.Fatalf("%q came out as %q, %v", in, got, err)
	}
	if l, _ := r.ReadLine(); l != "QUIT" {
		t.Fatalf("%q left %q", in, l)
	}
}

// written is all that leaves for content in pieces of size octets, also where it
// is refused: as if there were no buffer that keeps it back.
func written(in string, size int, lines bool) (string, error) {
	var wire bytes.Buffer
	out := &gather{w: &wire}
	w := &contentWriter{out: out, size: int64(len(in)), eightBit: true, lines: lines}
	err := error(nil)
	for len(in) > 0 && err == nil {
		n := min(size, len(in))
		_, err = w.Write([]byte(in[:n]))
		in = in[n:]
	}
	if err == nil {
		err = w.end()
	}
	if err == nil {
		w.close()
	}
	_ = out.flush()
	return wire.String(), err
}

func wasCanonical(s string) bool {
	if s == "" {
		return true
	}
	body, ok := strings.CutSuffix(s, "\r\n")
	for _, line := range strings.Split(body, "\r\n") {
		if strings.ContainsAny(line, "\r\n\x00") || len(line) > maxTextLine {
			return false
		}
	}
	return ok
}
