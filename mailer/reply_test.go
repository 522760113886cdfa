package mailer

import (
	"bufio"
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestReadReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		wire string
		want Reply
		err  error
	}{
		{"plain", "250 ok\r\n", Reply{Code: 250, Text: "ok"}, nil},
		{"code alone", "250\r\n", Reply{Code: 250}, nil},
		{"bare LF", "250 ok\n", Reply{Code: 250, Text: "ok"}, nil},
		{"enhanced", "250 2.1.0 ok\r\n", Reply{Code: 250, Enhanced: EnhancedCode{2, 1, 0}, Text: "ok"}, nil},
		{
			"several lines", "535-5.7.8 Username and\r\n535-5.7.8 Password not\r\n535 5.7.8 accepted\r\n",
			Reply{Code: 535, Enhanced: EnhancedCode{5, 7, 8}, Text: "Username and Password not accepted"},
			nil,
		},
		{"no enhanced code", "250 2.1 ok\r\n", Reply{Code: 250, Text: "2.1 ok"}, nil},
		{"enhanced code too long", "250 2.1.1000 ok\r\n", Reply{Code: 250, Text: "2.1.1000 ok"}, nil},
		{"control characters", "250 a\x1b[31mb\x00c\u202ed\r\n", Reply{Code: 250, Text: "a [31mb c d"}, nil},
		{"long text", "250 " + strings.Repeat("x", 3000) + "\r\n", Reply{Code: 250, Text: strings.Repeat("x", 500)}, nil},
		{"128 lines", strings.Repeat("250-\r\n", 127) + "250 \r\n", Reply{Code: 250}, nil},
		{"129 lines", strings.Repeat("250-\r\n", 128) + "250 \r\n", Reply{}, errReplyTooLong},
		{"endless line", "250 " + strings.Repeat("x", 100<<10), Reply{}, errReplyTooLong},
		{"codes differ", "250-a\r\n251 b\r\n", Reply{}, errMalformedReply},
		{"class 1", "150 hm\r\n", Reply{}, errMalformedReply},
		{"class 6", "650 hm\r\n", Reply{}, errMalformedReply},
		{"no digits", "SSH-2.0-OpenSSH\r\n", Reply{}, errMalformedReply},
		{"no space", "250ok\r\n", Reply{}, errMalformedReply},
		{"empty line", "\r\n", Reply{}, errMalformedReply},
		{"nothing", "", Reply{}, io.EOF},
		{"cut in a line", "250 o", Reply{}, io.ErrUnexpectedEOF},
		{"cut between lines", "250-a\r\n", Reply{}, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw, err := readReply(bufio.NewReader(strings.NewReader(tt.wire)))
			if err != tt.err {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, raw.reply()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadReplyKeepsLongLinesInPart(t *testing.T) {
	t.Parallel()
	r := bufio.NewReader(strings.NewReader("250 " + strings.Repeat("x", 10000) + "\r\n220 next\r\n"))
	raw, err := readReply(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(raw.lines[0]) + 4; got != maxReplyLine {
		t.Errorf("kept %d octets, want %d", got, maxReplyLine)
	}
	if raw, err = readReply(r); err != nil || raw.code != 220 {
		t.Errorf("reply behind the long one: %v, %v", raw, err)
	}
}

func TestQueueID(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"postfix", "Ok: queued as 4F1A2B3C", "4F1A2B3C"},
		{"postfix long ids", "Ok: queued as 3ZYsxX0fzVz.", "3ZYsxX0fzVz"},
		{"amavis", "from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as ABC", "ABC"},
		{"exchange", "<id@contoso.com> [InternalId=98765432101234, Hostname=AM0PR01.eurprd01.prod.outlook.com] 7777 bytes in 0.1, 70 KB/sec Queued mail for delivery", "98765432101234"},
		{"gmail", "OK  1700000000 5b1f17b1804b1-40a4f2c1 - gsmtp", "5b1f17b1804b1-40a4f2c1"},
		{"exim", "OK id=1qABCD-000123-XY", "1qABCD-000123-XY"},
		{"sendmail", "3B1C2D Message accepted for delivery", "3B1C2D"},
		{"ses", "Ok 0100018bd8a0e6c5-12345678-9abc-def0-1234-56789abcdef0-000000", "0100018bd8a0e6c5-12345678-9abc-def0-1234-56789abcdef0-000000"},
		{"the first of two", "ID=a, ID=b", "a"},
		{"two marks", "id=b, Queued As a", "a"},
		{"no id", "OK", ""},
		{"no id in words", "Ok done", ""},
		{"empty", "", ""},
		{"absurd", "queued as " + strings.Repeat("x", 200), ""},
		{"nothing behind", "queued as ", ""},
		{"letters that grow", "\u023a queued as x", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := queueID(Reply{Code: 250, Text: tt.text}); got != tt.want {
				t.Errorf("queueID(%q) = %q, want %q", tt.text, got, tt.want)
			}
		})
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"250 ok\r\n", "250-a\r\n250 b\r\n", "535-5.7.8 x\r\n535 5.7.8 y\r\n", "220\r\n", "250 2.0.0 OK  1 a - gsmtp\n", "x", "334 \r\n",
		"450 4.2.0 later\r\n", "354 go on\r\n", "250 \xff\xfe\r\n", "250 Ok: queued as \u212a\r\n", "250 - gsmtp\r\n", strings.Repeat("250-\r\n", 200),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(checkReply)
}

func checkReply(t *testing.T, wire []byte) {
	r1 := bufio.NewReader(strings.NewReader(string(wire)))
	raw, err := readReply(r1)
	// It matters neither how it comes nor what comes next, and nothing of that
	// is taken.
	const next = "250 next\r\n"
	r2 := bufio.NewReader(iotest.OneByteReader(strings.NewReader(string(wire) + next)))
	again, err2 := readReply(r2)
	if err != nil {
		if errors.Is(err, errMalformedReply) && !errors.Is(err2, errMalformedReply) {
			t.Fatalf("%v, and octet by octet %v", err, err2)
		}
		return
	}
	rest1, _ := io.ReadAll(r1)
	rest2, _ := io.ReadAll(r2)
	if err2 != nil || !reflect.DeepEqual(raw, again) || string(rest1)+next != string(rest2) {
		t.Fatalf("read as %v, leaving %q; octet by octet as %v, %v, leaving %q", raw, rest1, again, err2, rest2)
	}
	if taken := strings.TrimSuffix(string(wire), string(rest1)); !strings.HasSuffix(taken, "\n") || strings.Count(taken, "\n") != len(raw.lines) {
		t.Fatalf("%d lines of %q", len(raw.lines), taken)
	}
	for i, l := range strings.SplitAfter(string(wire), "\n")[:len(raw.lines)] {
		more := i < len(raw.lines)-1
		if code, err := strconv.Atoi(l[:3]); err != nil || code != raw.code || (len(l) > 3 && l[3] == '-') != more {
			t.Fatalf("line %q of a reply %d of %d lines", l, raw.code, len(raw.lines))
		}
	}
	if raw.code < 200 || raw.code > 599 || len(raw.lines) == 0 || len(raw.lines) > maxReplyLines {
		t.Fatalf("code %d, %d lines", raw.code, len(raw.lines))
	}
	for _, l := range raw.lines {
		if len(l) > maxReplyLine || strings.ContainsRune(l, '\n') {
			t.Fatalf("line %q", l)
		}
	}
	r := raw.reply()
	for stage, class := range map[Stage]int{StageMail: 2, StageRcpt: 0, StageData: 3, StageFinal: 0} {
		from := bufio.NewReader(strings.NewReader(string(wire) + next))
		want := r
		if len(raw.lines) == 1 && raw.code/100 == class {
			want = Reply{Code: r.Code} // nobody asks what else it says
		}
		if got, err := readReplyTo(stage, from); got != want || err != nil {
			t.Fatalf("to %s: %+v, %v, want %+v", stage, got, err, want)
		}
		if rest, _ := io.ReadAll(from); string(rest) != string(rest2) {
			t.Fatalf("to %s: leaves %q, want %q", stage, rest, rest2)
		}
	}
	if len(r.Text) > maxReplyText || !utf8.ValidString(r.Text) || strings.ContainsFunc(r.Text, unicode.IsControl) {
		t.Fatalf("text %q", r.Text)
	}
	if id := queueID(r); len(id) > 128 || !strings.Contains(r.Text, id) {
		t.Fatalf("queue id %q of %q", id, r.Text)
	}
	if r.Code >= 400 {
		for _, s := range []Stage{StageGreeting, StageAuth, StageMail, StageRcpt, StageData, StageFinal} {
			if k, _ := classify(s, r); k == KindNone || k == KindUnknown || k == KindInvalid {
				t.Fatalf("%s: %v is %v", s, r, k)
			}
		}
	}
}
