package mailer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

const intakeID = "0190a"

func intakeNow() time.Time { return time.Unix(1e9, 0).UTC() }

// take reads raw and returns what an Intake makes of it.
func take(t testing.TB, in Intake, raw string) (*Received, string, error) {
	t.Helper()
	if in.Now == nil {
		in.Now = intakeNow
	}
	r, err := in.Read(strings.NewReader(raw), intakeID)
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, string(write(t, r.Content)), nil
}

const (
	whole     = "Date: Sun, 09 Sep 2001 01:46:40 +0000\r\nFrom: a@x.jp\r\nMessage-ID: <m@x.jp>\r\n"
	addedDate = "Date: Sun, 09 Sep 2001 01:46:40 +0000\r\n"
	addedID   = "Message-ID: <0190a@x.jp>\r\n"
)

var mapped = Address{Name: "Scanners", Local: "scan", Domain: "corp.jp"}

func TestIntake(t *testing.T) {
	t.Parallel()
	words := strings.Repeat("word ", 300)
	tests := []struct {
		name     string
		in       Intake
		raw      string
		want     string // empty: raw
		repaired []string
		from     string // empty: a@x.jp
		id       string // empty: <m@x.jp>
	}{
		{name: "nothing to mend", raw: whole + "Subject: s\r\n t\r\nTo: B <b@x.jp>\r\nX-Odd :\r\n"[:len("Subject: s\r\n t\r\nTo: B <b@x.jp>\r\n")] + "\r\n.\r\n\r\nfrom here\r\n \r\n"},
		{name: "signed", raw: "DKIM-Signature: v=1; a=rsa-sha256;\r\n\tb=AbC/=\r\nReceived: from x\r\n\tby y; now\r\n" + whole + "MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain  \r\n\r\nx  \r\n--b\r\nContent-Type: application/pkcs7-signature\r\n\r\nAA==\r\n--b--\r\n"},
		{name: "no body", raw: whole, want: whole + "\r\n", repaired: []string{"no empty line after the header"}},
		{name: "empty body", raw: whole + "\r\n"},

		{
			name: "nothing but a from", raw: "From: a@x.jp\r\n\r\nhi\r\n", want: "From: a@x.jp\r\n" + addedDate + addedID + "\r\nhi\r\n",
			repaired: []string{"Date was missing", "Message-ID was missing"}, id: "<0190a@x.jp>",
		},
		{
			name: "empty fields", raw: "Date:\r\nFrom:\r\nFrom: a@x.jp\r\nMessage-Id: \r\n\r\nhi\r\n", want: addedDate + "From: a@x.jp\r\n" + addedID + "\r\nhi\r\n",
			repaired: []string{"Date was missing", "Message-ID was missing"}, id: "<0190a@x.jp>",
		},
		{
			name: "malformed id", raw: strings.Replace(whole, "<m@x.jp>", "m @x.jp", 1) + "\r\n", want: strings.Replace(whole, "<m@x.jp>", "<0190a@x.jp>", 1) + "\r\n",
			repaired: []string{"Message-ID was malformed"}, id: "<0190a@x.jp>",
		},
		{name: "odd id", raw: strings.Replace(whole, "<m@x.jp>", "\r\n <scan.1> (mine)", 1) + "\r\n", id: "<scan.1>"},
		{
			name: "hidden recipients", raw: "Return-Path: <z@x.jp>\r\nBCC: b@x.jp,\r\n c@x.jp\r\n" + whole + "Bcc : d@x.jp\r\nResent-Bcc: e@x.jp\r\nX-Bcc: f@x.jp\r\n\r\nBcc: g\r\n",
			want:     whole + "X-Bcc: f@x.jp\r\n\r\nBcc: g\r\n",
			repaired: []string{"white space before the colon of a field", "Bcc was removed", "Resent-Bcc was removed", "Return-Path was removed"},
		},
		{
			name: "mbox", raw: "From a@x.jp Sat Jan  3 01:05:34 1996\r\n" + whole + "\r\nFrom here\r\n", want: whole + "\r\nFrom here\r\n",
			repaired: []string{"first line was that of an mbox"},
		},
		{
			name: "obsolete syntax", raw: strings.Replace(whole, "From:", "From \t:", 1) + "\r\n", want: whole + "\r\n",
			repaired: []string{"white space before the colon of a field"},
		},
		{
			name: "blank line in a field", raw: whole + "Subject: a\r\n \t\r\n b\r\n \r\n\r\nx\r\n", want: whole + "Subject: a\r\n b\r\n\r\nx\r\n",
			repaired: []string{"line of white space in the header"},
		},
		{
			name: "no empty line", raw: whole + "Subject: s\r\nhello there\r\nBcc: text\r\n", want: whole + "Subject: s\r\n\r\nhello there\r\nBcc: text\r\n",
			repaired: []string{"no empty line after the header"},
		},
		{
			name: "no header", in: Intake{DefaultFrom: Address{Local: "a", Domain: "x.jp"}}, raw: "hello\r\n", want: "From: a@x.jp\r\n" + addedDate + addedID + "\r\nhello\r\n",
			repaired: []string{"no empty line after the header", "From was missing", "Date was missing", "Message-ID was missing"}, id: "<0190a@x.jp>",
		},
		{
			name: "nothing", in: Intake{DefaultFrom: Address{Local: "a", Domain: "x.jp"}}, raw: "", want: "From: a@x.jp\r\n" + addedDate + addedID + "\r\n",
			repaired: []string{"no empty line after the header", "From was missing", "Date was missing", "Message-ID was missing"}, id: "<0190a@x.jp>",
		},

		{name: "LF", raw: strings.ReplaceAll(whole+"\r\na\r\n\r\n.\r\nb\r\n", "\r\n", "\n"), want: whole + "\r\na\r\n\r\n.\r\nb\r\n", repaired: []string{"bare LF"}},
		{name: "one LF", raw: whole + "\r\na\nb\r\n", want: whole + "\r\na\r\nb\r\n", repaired: []string{"bare LF"}},
		{name: "no last end", raw: whole + "\r\na", want: whole + "\r\na\r\n", repaired: []string{"last line without an end"}},

		{name: "MIME", raw: whole + "Content-Type: text/plain\r\n\r\nx\r\n", want: whole + "Content-Type: text/plain\r\nMIME-Version: 1.0\r\n\r\nx\r\n", repaired: []string{"MIME-Version was missing"}},
		{
			name: "UTF-8", raw: whole + "\r\nx\r\nあ\r\n", want: whole + "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\n\r\nx\r\nあ\r\n",
			repaired: []string{"Content-Type was missing", "Content-Transfer-Encoding was missing", "MIME-Version was missing"},
		},
		{
			name: "Shift_JIS", raw: whole + "\r\n\x82\xa0\r\n", want: whole + "Content-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\n\r\n\x82\xa0\r\n",
			repaired: []string{"Content-Type was missing", "Content-Transfer-Encoding was missing", "MIME-Version was missing"},
		},
		{name: "8bit", raw: whole + "MIME-Version: 1.0\r\nContent-Type: text/html; charset=euc-jp\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xa4\xa2\r\n"},
		{name: "UTF-8 in the header", raw: whole + "Subject: あ\r\n\r\n"},

		{
			name: "long header", raw: whole + "Subject: " + words + "\r\n\r\n",
			want:     whole + "Subject: " + words[:5*197+4] + "\r\n " + words[5*198:] + "\r\n\r\n",
			repaired: []string{"line over 998 octets in the header"},
		},
		{
			name: "long header, white space last", raw: whole + "Subject: x" + strings.Repeat(" ", 3000) + "\r\n\r\n",
			want:     whole + "Subject: x" + strings.Repeat(" ", 988) + "\r\n\r\n",
			repaired: []string{"line over 998 octets in the header"},
		},

		{
			name: "replaced", in: Intake{From: mapped}, raw: strings.Replace(whole, "a@x.jp", "Scanner 3 <a@x.jp>", 1) + "Sender: z@x.jp\r\nSubject: s\r\n\r\n",
			want: strings.Replace(whole, "a@x.jp", "Scanner 3 <scan@corp.jp>", 1) + "Subject: s\r\nReply-To: Scanner 3 <a@x.jp>\r\n\r\n",
			from: "Scanner 3 <scan@corp.jp>", repaired: []string{"From was replaced"},
		},
		{
			name: "replaced, with Reply-To", in: Intake{From: mapped}, raw: whole + "Reply-To: r@x.jp\r\n\r\n",
			want: strings.Replace(whole, "a@x.jp", "Scanners <scan@corp.jp>", 1) + "Reply-To: r@x.jp\r\n\r\n",
			from: "Scanners <scan@corp.jp>", repaired: []string{"From was replaced"},
		},
		{
			name: "replaced, the name an address", in: Intake{From: mapped}, raw: strings.Replace(whole, "a@x.jp", `"a@x.jp" <a@x.jp>`, 1) + "\r\n",
			want: strings.Replace(whole, "a@x.jp", "Scanners <scan@corp.jp>", 1) + "Reply-To: \"a@x.jp\" <a@x.jp>\r\n\r\n",
			from: "Scanners <scan@corp.jp>", repaired: []string{"From was replaced"},
		},
		{
			name: "replaced, unreadable", in: Intake{From: mapped}, raw: strings.Replace(whole, "a@x.jp", "scanner", 1) + "\r\n",
			want: strings.Replace(whole, "a@x.jp", "Scanners <scan@corp.jp>", 1) + "\r\n",
			from: "Scanners <scan@corp.jp>", repaired: []string{"From was replaced"},
		},
		{
			name: "replaced, several", in: Intake{From: mapped}, raw: strings.Replace(whole, "a@x.jp", "a@x.jp, b@x.jp", 1) + "From: c@x.jp\r\n\r\n",
			want: strings.Replace(whole, "a@x.jp", "Scanners <scan@corp.jp>", 1) + "Reply-To: a@x.jp, b@x.jp, c@x.jp\r\n\r\n",
			from: "Scanners <scan@corp.jp>", repaired: []string{"From was replaced"},
		},
		{
			name: "replaced by the same", in: Intake{From: mapped}, raw: strings.Replace(whole, "a@x.jp", "Hall <scan@CORP.jp>", 1) + "Sender: z@x.jp\r\n\r\n",
			from: "Hall <scan@corp.jp>",
		},
		{
			name: "replaced, where there is none", in: Intake{From: mapped, DefaultFrom: other}, raw: strings.Replace(whole, "From: a@x.jp\r\n", "", 1) + "\r\n",
			want: strings.Replace(whole, "From: a@x.jp\r\n", "", 1) + "From: Scanners <scan@corp.jp>\r\n\r\n",
			from: "Scanners <scan@corp.jp>", repaired: []string{"From was missing"},
		},
		{
			name: "lenient name", raw: strings.Replace(whole, "a@x.jp", "Acme, Inc. <a@x.jp>", 1) + "\r\n",
			want: strings.Replace(whole, "a@x.jp", `"Acme, Inc." <a@x.jp>`, 1) + "\r\n",
			from: `"Acme, Inc." <a@x.jp>`, repaired: []string{"From was not in the form of RFC 5322"},
		},
		{
			name: "Japanese name", raw: strings.Replace(whole, "a@x.jp", "=?ISO-2022-JP?B?GyRCOzNFRBsoQg==?=\r\n\t<a@x.jp>", 1) + "\r\n",
			from: "=?ISO-2022-JP?B?GyRCOzNFRBsoQg==?= <a@x.jp>",
		},
		{name: "comment", raw: strings.Replace(whole, "a@x.jp", "a@x.jp (A)", 1) + "\r\n", from: "A <a@x.jp>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, got, err := take(t, tt.in, tt.raw)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				tt.want = tt.raw
			}
			if got != tt.want {
				t.Errorf("got\n%q\nwant\n%q", got, tt.want)
			}
			if !slices.Equal(r.Repaired, tt.repaired) {
				t.Errorf("repaired %q, want %q", r.Repaired, tt.repaired)
			}
			if tt.from == "" {
				tt.from = "a@x.jp"
			}
			if tt.id == "" {
				tt.id = "<m@x.jp>"
			}
			if r.From.String() != tt.from || r.MessageID != tt.id {
				t.Errorf("from %q, id %q", r.From, r.MessageID)
			}
			checkReceived(t, tt.in, r, got)
		})
	}
}

// checkReceived checks what every message must keep that an Intake has read.
func checkReceived(t *testing.T, in Intake, r *Received, got string) {
	t.Helper()
	if !wasCanonical(got) || got == "" {
		t.Fatalf("not canonical: %q", got)
	}
	head, _, ok := strings.Cut(got, "\r\n\r\n")
	if !ok {
		t.Fatalf("no empty line: %q", got)
	}
	if r.Content.EightBit() != !isASCII(got) || r.Content.UTF8Header() != !isASCII(head) {
		t.Fatalf("8 bits %v, in the header %v: %q", r.Content.EightBit(), r.Content.UTF8Header(), got)
	}
	count := make(map[string]int)
	for _, line := range strings.Split(head, "\r\n") {
		if trimWSP(line) == "" {
			t.Fatalf("a header line is blank: %q", head)
		}
		if name, _, ok := strings.Cut(line, ":"); ok && !isWSP(rune(line[0])) {
			count[strings.ToLower(name)]++
		}
	}
	for _, name := range []string{"bcc", "resent-bcc", "return-path"} {
		if count[name] > 0 {
			t.Fatalf("%s is there: %q", name, head)
		}
	}
	if count["from"] != 1 || count["date"] == 0 || count["message-id"] == 0 {
		t.Fatalf("fields %v: %q", count, head)
	}
	if !isReference(r.MessageID) || !strings.Contains(head, r.MessageID) {
		t.Fatalf("message id %q: %q", r.MessageID, head)
	}
	if !in.From.IsZero() && !in.From.Equal(r.From) {
		t.Fatalf("from %q, not %q", r.From, in.From)
	}
	// The standard library folds by other rules than RFC 5322.
	for line := range strings.SplitSeq(strings.ReplaceAll(strings.ReplaceAll(head, "\r\n ", " "), "\r\n\t", "\t"), "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if !strings.EqualFold(name, "from") {
			continue
		}
		seen, err := strictParser.Parse(value)
		if err != nil {
			t.Fatalf("from %q: %v", value, err)
		}
		if want := strings.Trim(r.From.Local+"@"+r.From.Domain, `"`); !strings.EqualFold(seen.Address, want) {
			again, err := ParseAddress("<" + seen.Address + ">")
			if err != nil || !again.Equal(r.From) {
				t.Fatalf("from %q is %q, not %q", value, seen.Address, want)
			}
		}
	}
	again, second, err := take(t, in, got)
	if err != nil || second != got {
		t.Fatalf("a second reading gives %q, %v, not %q", second, err, got)
	}
	if len(again.Repaired) > 0 || again.From != r.From || again.MessageID != r.MessageID {
		t.Fatalf("a second reading mends %q: %q", again.Repaired, got)
	}
}

// TestIntakeNamesLongLine: whoever is refused a line can find it.
func TestIntakeNamesLongLine(t *testing.T) {
	t.Parallel()
	in := Intake{RefuseLongLines: true}
	for _, before := range []string{"", strings.Repeat("x\r\n", 20_000), strings.Repeat("-\r\n", 5) + strings.Repeat("\n", 3)} {
		raw := whole + "\r\n" + before + strings.Repeat("x", 999) + "\r\n"
		want := fmt.Sprintf("line %d of the message has over 998 octets", strings.Count(whole+"\r\n"+before, "\n")+1)
		if _, err := in.Read(strings.NewReader(raw), "id"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestIntakeRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		in          Intake
		raw         string
		field, code string
	}{
		{name: "bare CR", raw: whole + "\r\na\rb\r\n", field: "content", code: "line_break"},
		{name: "bare CR in the header", raw: whole + "X: a\rb\r\n\r\n", field: "content", code: "line_break"},
		{name: "two CR", raw: whole + "\r\na\r\r\n", field: "content", code: "line_break"},
		{name: "CR last", raw: whole + "\r\na\r", field: "content", code: "line_break"},
		{name: "CR where the buffer ends", raw: whole + "\r\n" + strings.Repeat("x", lineBuffer-len(whole)-3) + "\rb\r\n", field: "content", code: "line_break"},
		{name: "NUL", raw: whole + "\r\na\x00\r\n", field: "content", code: "line_break"},
		{name: "long line", in: Intake{RefuseLongLines: true}, raw: whole + "\r\n" + strings.Repeat("x\r\n", 20_000) + "-\r\n" + strings.Repeat("x", 999) + "\r\n", field: "content", code: "too_long"},
		{name: "very long line", in: Intake{RefuseLongLines: true}, raw: whole + "\r\n" + strings.Repeat("x", 100_000) + "\r\n", field: "content", code: "too_long"},
		{name: "long line that could be folded", in: Intake{RefuseLongLines: true}, raw: whole + "X: " + strings.Repeat("word ", 400) + "\r\n\r\n", field: "content", code: "too_long"},
		{name: "long last line", in: Intake{RefuseLongLines: true}, raw: whole + "\r\n" + strings.Repeat("x", 999), field: "content", code: "too_long"},
		{name: "bare LF", in: Intake{RefuseBareLF: true}, raw: whole + "\r\na\n.\r\n", field: "content", code: "line_break"},
		{name: "no from", raw: "Subject: x\r\n\r\n", field: "from", code: "missing_from"},
		{name: "two from", raw: whole + "From: a@x.jp\r\n\r\n", field: "from", code: "bad_header"},
		{name: "two in from", raw: "From: a@x.jp, b@x.jp\r\n\r\n", field: "from", code: "bad_address"},
		{name: "group in from", raw: "From: Nobody:;\r\n\r\n", field: "from", code: "bad_address"},
		{name: "null from", raw: "From: <>\r\n\r\n", field: "from", code: "bad_address"},
		{name: "from without domain", in: Intake{DefaultFrom: other}, raw: "From: root\r\n\r\n", field: "from", code: "bad_address"},
		{name: "misleading from", raw: "From: \"boss@corp.jp\" <a@x.jp>\r\n\r\n", field: "from", code: "misleading_name"},
		{name: "misleading from, Japanese", raw: "From: =?ISO-2022-JP?Q?boss=40corp.jp?= <a@x.jp>\r\n\r\n", field: "from", code: "misleading_name"},
		{name: "misleading from, unknown", raw: "From: =?UTF-7?Q?boss+AEA-corp.jp?= <a@x.jp>\r\n\r\n", field: "from", code: "misleading_name"},
		{name: "too large", in: Intake{MaxSize: int64(len(whole) + 4)}, raw: whole + "\r\nabc\r\n", field: "content", code: "too_large"},
		{name: "too large in one line", in: Intake{MaxSize: 100_000}, raw: whole + "\r\n" + strings.Repeat("x", 100_000), field: "content", code: "too_large"},
		{name: "header too large", raw: whole + strings.Repeat("X: y\r\n", 45_000) + "\r\n", field: "headers", code: "header_too_large"},
		{name: "header too large in one line", raw: whole + "X: " + strings.Repeat("y ", 150_000) + "\r\n", field: "headers", code: "header_too_large"},
		{name: "long word", raw: whole + "X: " + strings.Repeat("y", 999) + "\r\n\r\n", field: "headers", code: "too_long"},
		{name: "long name", raw: whole + strings.Repeat("y", 999) + ": x\r\n\r\n", field: "headers", code: "too_long"},
		{
			name: "long word in the header of a part", raw: whole + "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/" + strings.Repeat("y", 999) + "\r\n\r\n",
			field: "headers", code: "too_long",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spool := &Spool{Folder: t.TempDir()}
			tt.in.Spool = spool
			_, got, err := take(t, tt.in, tt.raw)
			e := (*Error)(nil)
			if !errors.As(err, &e) || e.Kind != KindInvalid || e.Field != tt.field || e.Code != tt.code {
				t.Fatalf("%q, %+v", got, err)
			}
			if spool.Used() != 0 {
				t.Errorf("%d octets are still taken", spool.Used())
			}
		})
	}
	t.Run("what just fits", func(t *testing.T) {
		t.Parallel()
		raw := whole + "\r\nabc\r\n"
		if _, _, err := take(t, Intake{MaxSize: int64(len(raw))}, raw); err != nil {
			t.Error(err)
		}
	})
	t.Run("bad configuration", func(t *testing.T) {
		t.Parallel()
		for _, in := range []Intake{{From: Address{Name: "a\r\nBcc: b", Local: "a", Domain: "x.jp"}}, {DefaultFrom: Address{Local: "a"}}} {
			_, got, err := take(t, in, whole+"\r\n")
			if e := asError(err); err == nil || e.Kind != KindConfig {
				t.Errorf("%q, %v", got, err)
			}
		}
	})
}

// TestIntakeReader: the reader's own trouble comes back as it is, also where it
// looks like an end; how it cuts the message into pieces does not matter.
func TestIntakeReader(t *testing.T) {
	t.Parallel()
	raw := whole + "\r\n" + strings.Repeat("x", 5000) + "\r\n"
	for _, cause := range []error{io.ErrUnexpectedEOF, iotest.ErrTimeout, fmt.Errorf("hung up: %w", io.EOF)} {
		for _, n := range []int{0, 10, len(whole), len(whole) + 2, len(whole) + 3000, len(raw)} {
			spool := &Spool{Folder: t.TempDir()}
			in := Intake{Spool: spool, DefaultFrom: other}
			_, err := in.Read(io.MultiReader(strings.NewReader(raw[:n]), iotest.ErrReader(cause)), intakeID)
			if err != cause || spool.Used() != 0 { //nolint:errorlint // it is to come as it is
				t.Errorf("%v after %d octets: %v", cause, n, err)
			}
		}
	}
	want, in := "", Intake{Now: intakeNow}
	for _, r := range []io.Reader{strings.NewReader(raw), iotest.OneByteReader(strings.NewReader(raw)), iotest.DataErrReader(strings.NewReader(raw))} {
		got, err := in.Read(r, intakeID)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(write(t, got.Content)); want == "" {
			want = s
		} else if s != want {
			t.Errorf("%q, want %q", s, want)
		}
	}
}

// TestIntakeSmuggling: what holds another transaction is refused, or comes out as
// one message to servers that differ in what they take for a line end.
func TestIntakeSmuggling(t *testing.T) {
	t.Parallel()
	formats := []string{whole + "\r\n%s\r\n", whole + "Subject: %s\r\n\r\nx\r\n", "%s", whole + "\r\n" + strings.Repeat("x", 1990) + "%s", whole + "\r\n" + strings.Repeat("x\r\n", lineBuffer/3) + "%s"}
	in := Intake{DefaultFrom: sender, Now: intakeNow}
	for _, format := range formats {
		for _, offer := range []string{"PIPELINING", "CHUNKING"} {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				taken := 0
				for _, s := range mailertest.Smuggled(3) {
					r, err := in.Read(strings.NewReader(fmt.Sprintf(format, s)), intakeID)
					if err != nil {
						if asError(err).Kind != KindInvalid {
							t.Fatal(err)
						}
						continue
					}
					taken++
					wire, err := onWire(t, letter, r.Content, Options{}, offer)
					if err != nil {
						t.Fatalf("%q: %v", s, err)
					}
					checkOneTransaction(t, s, wire, letter, 1)
				}
				if taken == 0 {
					t.Error("all were refused, also those with LF alone")
				}
			})
		}
	}
}

// FuzzIntake has as oracles that what comes out is canonical, that reading it
// again changes nothing, and that a body that was canonical stays as it was.
func FuzzIntake(f *testing.F) {
	mime := "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: %s\r\n\r\n%s\r\n--b--\r\n"
	for _, s := range []string{
		"", whole + "\r\nhi\r\n", "From: a@x.jp\n\nhi\n.\nx", "From a Sat 1:0\r\nFrom : a@x.jp\r\n \r\nBcc: b\r\nhello", "hello\r\n", ": x\r\n\r\n",
		whole + "X: " + strings.Repeat("word ", 300) + "\r\n\r\n" + strings.Repeat("word ", 300),
		whole + fmt.Sprintf(mime, "base64", strings.Repeat("QUJD", 400)), whole + fmt.Sprintf(mime, "quoted-printable", strings.Repeat("=E3=81=82", 200)),
		whole + fmt.Sprintf(mime, "8bit", strings.Repeat("あ", 400)), whole + fmt.Sprintf(mime, "7bit", "\x1b$B"+strings.Repeat("$\"", 600)+"\x1b(B"),
		whole + "Content-Type: message/rfc822\r\n\r\nSubject: " + strings.Repeat("x ", 700) + "\r\n\r\n" + strings.Repeat("-", 1500),
		"From: =?ISO-2022-JP?B?GyRCOzNFRBsoQg==?= <a@x.jp>\r\nMessage-ID: a\r\n\r\n\x82\xa0\r\n", "From: Acme, Inc. <a@x.jp>, b@x.jp\r\n\r\n", "From: foo.@docomo.ne.jp\r\n\r\n",
		whole + "\r\na\r.\r\nMAIL FROM:<e@x>\r\n", whole + "\r\na\n.\r\nMAIL FROM:<e@x>\r\n",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(checkIntake)
}

func checkIntake(t *testing.T, raw string, rewrite bool) {
	in := Intake{DefaultFrom: other}
	if rewrite {
		in.From = mapped
	}
	r, got, err := take(t, in, raw)
	if err != nil {
		if e := asError(err); e.Kind != KindInvalid || e.Field == "" || e.Code == "" {
			t.Fatalf("%q: %+v", raw, err)
		}
		return
	}
	checkReceived(t, in, r, got)
	// A header that nobody can misread tells where the body starts.
	msg, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil || !wasCanonical(raw) || slices.Contains(r.Repaired, "no empty line after the header") || slices.Contains(r.Repaired, "line of white space in the header") {
		return
	}
	want, err := io.ReadAll(msg.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, body, _ := strings.Cut(got, "\r\n\r\n"); body != string(want) {
		t.Fatalf("the body %q became %q", want, body)
	}
}

// TestIntakeMemory reads 25 MiB into a spool file. It is not parallel, as nobody
// else may allocate.
func TestIntakeMemory(t *testing.T) {
	in := Intake{Spool: &Spool{Folder: t.TempDir()}}
	raw := []byte(whole + "\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 25<<20/72))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r, err := in.Read(bytes.NewReader(raw), intakeID)
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.Content.WriteTo(io.Discard)
	runtime.ReadMemStats(&after)
	if err = errors.Join(err, r.Close()); err != nil || n != int64(len(raw)) {
		t.Fatal(n, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 512<<10 {
		t.Errorf("allocated %d octets for a message of %d", grown, len(raw))
	}
}

// BenchmarkIntake reads a message into memory or a file, next to io.Copy.
func BenchmarkIntake(b *testing.B) {
	for _, size := range []struct {
		name   string
		octets int
	}{{"1KiB", 1 << 10}, {"100KiB", 100 << 10}, {"10MiB", 10 << 20}} {
		line := strings.Repeat("QUJDRA/+", 9) + "QUJD\r\n"
		raw := []byte(whole + "Content-Transfer-Encoding: base64\r\nMIME-Version: 1.0\r\n\r\n" + strings.Repeat(line, size.octets/len(line)))
		run := func(name string, f func(r io.Reader) error) {
			b.Run(size.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(raw)))
				b.ReportAllocs()
				for b.Loop() {
					if err := f(struct{ io.Reader }{bytes.NewReader(raw)}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		spool := &Spool{Folder: b.TempDir()}
		for name, spool := range map[string]*Spool{"memory": nil, "spool": spool} {
			in := Intake{Spool: spool}
			run(name, func(r io.Reader) error {
				m, err := in.Read(r, intakeID)
				if err != nil {
					return err
				}
				return m.Close()
			})
		}
		run("copy", func(r io.Reader) error {
			var buf bytes.Buffer
			_, err := io.Copy(&buf, r)
			return err
		})
		run("copy to spool", func(r io.Reader) error {
			t := &spooled{spool: spool}
			defer t.Close() //nolint:errcheck // a benchmark
			_, err := io.Copy(struct{ io.Writer }{t}, r)
			return err
		})
	}
}

// TestIntakeBounds: a header has so many fields at most, and a message comes from so
// many servers.
func TestIntakeBounds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, lines, code string
	}{
		{"many servers", strings.Repeat("Received: from x by y; now\r\n", maxHops), ""},
		{"a circle", strings.Repeat("Received: from x by y; now\r\n", maxHops/2) + strings.Repeat("RECEIVED : from x\r\n", maxHops/2+1), CodeLoop},
		{"many fields", strings.Repeat("X:\r\n", maxReceivedFields-3), ""},
		{"too many fields", strings.Repeat("X:\r\n", maxReceivedFields-2), codeLongHeader},
		{"lines of a few fields", "X:\r\n" + strings.Repeat(" y\r\n", 2*maxReceivedFields), ""},
	} {
		_, got, err := take(t, Intake{Trace: "Received: from us;\r\n\tnow\r\n"}, tt.lines+whole+"\r\nReceived: no\r\n")
		e, _ := errors.AsType[*Error](err)
		switch {
		case tt.code == "" && (err != nil || strings.Contains(tt.lines, "Received") && !strings.HasPrefix(got, "Received: from us;\r\n\tnow\r\nReceived: from x")):
			t.Errorf("%s: %v, %.100q", tt.name, err, got)
		case tt.code != "" && (e == nil || e.Code != tt.code || e.Kind != KindInvalid):
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// FuzzPlainFrom: what is taken for plain, strict readers read in the same way.
func FuzzPlainFrom(f *testing.F) {
	for _, s := range []string{"a@x.jp", "<a@x.jp>", "Scanner 3 <a.b-c_d@x-1.jp>", "a..b@x.jp", ".a@x.jp", "a@x.jp.", "A@X.jp", `"b@x.jp" <a@x.jp>`, "b@x.jp <a@x.jp>", "a@[192.0.2.1]", "a@x.jp>", "< a@x.jp>", "x<y <a@x.jp>", "(c) a@x.jp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		a, err := ParseAddress(value)
		if err != nil || !isPlainFrom(a, value) {
			return
		}
		strict, err := strictParser.Parse(value)
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		if seen, err := ParseAddress("<" + strict.Address + ">"); err != nil || !seen.Equal(a) {
			t.Errorf("%q: %v for strict readers, for us %v", value, strict.Address, a)
		}
	})
}
