package mailer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"
)

// TestIntakeLongLines: what a part holds comes out of its decoder as it went in,
// wherever in the message the part is.
func TestIntakeLongLines(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("日本語, and more = less -- b\t.", 300)
	var qp strings.Builder
	for i := range len(text) { // without the soft line breaks of package quotedprintable
		if c := text[i]; c == '=' || c > 126 {
			fmt.Fprintf(&qp, "=%02X", c)
		} else {
			qp.WriteByte(c)
		}
	}
	bodies := []struct{ name, encoding, encoded, text string }{
		{"base64", "base64", base64.StdEncoding.EncodeToString([]byte(text)), text},
		{"base64 in capitals", "BASE64", base64.StdEncoding.EncodeToString([]byte(text)), text},
		{"quoted-printable", "Quoted-Printable ", qp.String(), text},
		{"hyphens", "quoted-printable", "x" + strings.Repeat("--b", 700), "x" + strings.Repeat("--b", 700)},
	}
	for n := 70; n < 80; n++ {
		bodies = append(bodies, struct{ name, encoding, encoded, text string }{
			fmt.Sprintf("%d hyphens", n), "quoted-printable",
			strings.Repeat("=2D"+strings.Repeat("-", n), 20), strings.Repeat("-"+strings.Repeat("-", n), 20),
		})
	}
	structures := []struct{ name, format string }{
		{"alone", "Content-Transfer-Encoding: %[1]s\r\n\r\n%[2]s\r\n"},
		{"part", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\nContent-transfer-encoding:%[1]s\r\n\r\n%[2]s\r\n--b--\r\n"},
		{"second part", "Content-Type: multipart/mixed;\r\n boundary=\"b\"\r\n\r\npreamble\r\n--b\r\n\r\nx\r\n--b \r\nContent-Transfer-Encoding:\r\n %[1]s\r\n\r\n%[2]s\r\n--b--\r\n"},
		{"inner part", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=bb\r\n\r\n--bb\r\n\r\nx\r\n--bb--\r\n--b\r\nContent-Type: multipart/related; boundary=c\r\n\r\n--c\r\nContent-Transfer-Encoding: %[1]s\r\n\r\n%[2]s\r\n--c--\r\n--b--\r\n"},
		{"behind an inner part that is not closed", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\nContent-Transfer-Encoding: 7bit\r\n\r\nx\r\n--b\r\nContent-Transfer-Encoding: %[1]s\r\n\r\n%[2]s\r\n--b--\r\n"},
		{"attached message", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\nContent-Transfer-Encoding: %[1]s\r\n\r\n%[2]s\r\n--b--\r\n"},
	}
	for _, s := range structures {
		for _, body := range bodies {
			t.Run(s.name+"/"+body.name, func(t *testing.T) {
				t.Parallel()
				raw := whole + "MIME-Version: 1.0\r\n" + fmt.Sprintf(s.format, body.encoding, body.encoded)
				r, got, err := take(t, Intake{}, raw)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(r.Repaired, []string{"line over 998 octets in the body"}) {
					t.Errorf("repaired %q", r.Repaired)
				}
				checkReceived(t, Intake{}, r, got)
				if leaves := decodedLeaves(t, got); !slices.Contains(leaves, body.text) && !slices.Contains(leaves, body.text+"\r\n") {
					t.Errorf("decoded %q", leaves)
				}
				for line := range strings.SplitSeq(got, "\r\n") {
					if len(line) > 78 && !strings.Contains(line, ":") {
						t.Errorf("line of %d octets", len(line))
					}
				}
			})
		}
	}
}

// decodedLeaves reads all parts with the standard library.
func decodedLeaves(t *testing.T, raw string) []string {
	t.Helper()
	msg, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var leaves []string
	var walk func(contentType, encoding string, body io.Reader)
	walk = func(contentType, encoding string, body io.Reader) {
		switch {
		case strings.HasPrefix(contentType, "multipart/"):
			_, boundary, _ := strings.Cut(strings.ReplaceAll(contentType, `"`, ""), "boundary=")
			parts := multipart.NewReader(body, boundary)
			for {
				p, err := parts.NextRawPart()
				if err != nil { // also where a part is not closed
					return
				}
				walk(p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p)
			}
		case contentType == "message/rfc822":
			inner, err := mail.ReadMessage(body)
			if err != nil {
				t.Fatal(err)
			}
			walk(inner.Header.Get("Content-Type"), inner.Header.Get("Content-Transfer-Encoding"), inner.Body)
			return
		}
		switch trimWSP(strings.ToLower(encoding)) {
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, body)
		case "quoted-printable":
			body = quotedprintable.NewReader(body)
		}
		b, err := io.ReadAll(body)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // a part that is not closed
			t.Fatal(err)
		}
		leaves = append(leaves, string(b))
	}
	walk(msg.Header.Get("Content-Type"), msg.Header.Get("Content-Transfer-Encoding"), msg.Body)
	return leaves
}

// TestIntakeLongText: text is broken where that does least harm, and nothing of it
// is lost.
func TestIntakeLongText(t *testing.T) {
	t.Parallel()
	const toDouble = "\x1b$B"
	japanese := func(n int) string { return toDouble + strings.Repeat("$\"%+", n) + toASCII }
	tests := []struct {
		name, text string
		lines      []int  // their lengths
		end        string // of the first line
	}{
		{name: "words", text: strings.Repeat("word ", 300), lines: []int{995, 505}, end: "word "},
		{name: "just fits", text: strings.Repeat("x", 998), lines: []int{998}},
		{name: "one over", text: strings.Repeat("x", 999), lines: []int{998, 1}},
		{name: "over several buffers", text: strings.Repeat("x", 100_000), lines: append(slices.Repeat([]int{998}, 100), 200)},
		{name: "CRLF where the buffer ends", text: strings.Repeat("x", lineBuffer-1), lines: append(slices.Repeat([]int{998}, 32), 831)},
		{name: "white space in the first half", text: strings.Repeat("x", 400) + " " + strings.Repeat("x", 1000), lines: []int{998, 403}},
		{name: "UTF-8", text: "a" + strings.Repeat("あ", 500), lines: []int{997, 504}},
		{name: "emoji", text: "ab" + strings.Repeat("😀", 300), lines: []int{998, 204}},
		{name: "octets of no charset", text: strings.Repeat("\x82\xa0", 600), lines: []int{998, 202}},
		{name: "delimiter", text: strings.Repeat("x", 994) + " --b " + strings.Repeat("x", 20), lines: []int{998, 21}},
		{name: "hyphens", text: strings.Repeat("-", 1500), lines: []int{998, 502}},
		{name: "ISO-2022-JP", text: japanese(400), lines: []int{998, 614}, end: toASCII},
		{name: "ISO-2022-JP behind ASCII", text: "a" + japanese(300), lines: []int{997, 216}, end: toASCII},
		{name: "ISO-2022-JP and words", text: strings.Repeat("x", 600) + " " + japanese(150), lines: []int{601, 606}, end: "x "},
		{name: "katakana", text: toKatakana + strings.Repeat("1", 1200) + toASCII, lines: []int{998, 214}, end: toASCII},
		{name: "a shift and hyphens", text: toDouble + toASCII + strings.Repeat("-", 1500), lines: []int{998, 508}},
		{name: "shifts alone", text: strings.Repeat(toDouble, 500), lines: []int{996, 510}, end: toASCII},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			head := whole + "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n--b\r\n\r\n"
			r, got, err := take(t, Intake{}, head+tt.text+"\r\n--b--\r\n")
			if err != nil {
				t.Fatal(err)
			}
			checkReceived(t, Intake{}, r, got)
			body, ok := strings.CutPrefix(got, head)
			if body, ok = strings.CutSuffix(body, "\r\n--b--\r\n"); !ok {
				t.Fatalf("got %q", got)
			}
			lines := strings.Split(body, "\r\n")
			var lengths []int
			for _, line := range lines {
				lengths = append(lengths, len(line))
			}
			if !slices.Equal(lengths, tt.lines) {
				t.Errorf("lines of %d octets, want %d", lengths, tt.lines)
			}
			if !strings.HasSuffix(lines[0], tt.end) {
				t.Errorf("the first line ends in %q", lines[0][len(lines[0])-10:])
			}
			joined := strings.Join(lines, "")
			if strings.Contains(tt.text, toASCII) || strings.Contains(tt.text, toDouble) { // shifts may be added
				shifts := strings.NewReplacer(toASCII, "", toDouble, "", toKatakana, "")
				joined, tt.text = shifts.Replace(joined), shifts.Replace(tt.text)
				for _, line := range lines[:len(lines)-1] {
					if i := strings.LastIndexByte(line, 0x1b); i >= 0 && !strings.HasPrefix(line[i:], toASCII) {
						t.Errorf("a line ends in %q", line[i:])
					}
				}
			}
			if joined != tt.text {
				t.Errorf("got %q", joined)
			}
		})
	}
}

// TestIntakePartHeader folds the fields of a part, and of a message within.
func TestIntakePartHeader(t *testing.T) {
	t.Parallel()
	long := "X-Long: " + strings.Repeat("word ", 300)
	for _, format := range []string{
		"--b\r\n%s\r\nX: y\r\n\r\ntext\r\n--b--\r\n",
		"--b\r\nContent-Type: message/rfc822\r\n\r\n%s\r\nX: y\r\n\r\ntext\r\n--b--\r\n",
	} {
		head := whole + "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
		r, got, err := take(t, Intake{}, head+fmt.Sprintf(format, long))
		if err != nil {
			t.Fatal(err)
		}
		checkReceived(t, Intake{}, r, got)
		if strings.ReplaceAll(got, "\r\n ", " ") != head+fmt.Sprintf(format, long) {
			t.Errorf("got %q", got)
		}
		_, got, err = take(t, Intake{}, head+fmt.Sprintf(format, "X: y"+strings.Repeat(" ", 2000)))
		if want := head + fmt.Sprintf(format, "X: y"+strings.Repeat(" ", 994)); err == nil && got != want {
			t.Errorf("got %q", got)
		}
	}
}

// TestIntakeKeepsBody: a body that is canonical stays as it is, however long.
func TestIntakeKeepsBody(t *testing.T) {
	t.Parallel()
	var body bytes.Buffer
	for i := 0; body.Len() < 300<<10; i++ {
		body.WriteString([]string{"", ".", "-", "--", "--b", "--b--", "あ", "\x82", strings.Repeat("x", i%999), " \t", "Content-Type: multipart/mixed; boundary=z", "=", "\x1b$B"}[i%13] + "\r\n")
	}
	for _, in := range []Intake{{}, {Spool: &Spool{Folder: t.TempDir()}}, {Spool: &Spool{}, MaxSize: 1 << 20, RefuseBareLF: true}} {
		head := whole + "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
		r, got, err := take(t, in, head+body.String())
		if err != nil {
			t.Fatal(err)
		}
		if got != head+body.String() || len(r.Repaired) > 0 {
			t.Errorf("changed, %q", r.Repaired)
		}
	}
}
