package mailer

import (
	"mime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestClassifyHeader(t *testing.T) {
	t.Parallel()
	for class, names := range map[HeaderClass]string{
		HeaderFree: "X-Foo x-foo X-A_b List-Id List-Unsubscribe-Post In-Reply-To References Auto-Submitted " +
			"Precedence Importance Priority Feedback-ID Thread-Topic Message-ID message-id",
		HeaderStructural: "From To Cc Bcc BCC Subject Date Reply-To Sender Return-Path MIME-Version Content-Type content-id " +
			"Received DKIM-Signature ARC-Seal Authentication-Results Resent-To Delivered-To Organization X- List- X_a",
		HeaderMalformed: "X:Foo -X X\r\nBcc X\nBcc X\x00 X(a) Ünicode X\tA X\x7f " + strings.Repeat("x", 77),
	} {
		for _, name := range strings.Split(names, " ") {
			if got := ClassifyHeader(name); got != class {
				t.Errorf("ClassifyHeader(%q) = %d, want %d", name, got, class)
			}
		}
	}
	for _, name := range []string{"", " X-A", "X-A ", "X A"} {
		if got := ClassifyHeader(name); got != HeaderMalformed {
			t.Errorf("ClassifyHeader(%q) = %d", name, got)
		}
	}
}

func TestFieldText(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"empty", "", "N:\r\n"},
		{"white space", " \t ", "N:\r\n"},
		{"short", "one two", "N: one two\r\n"},
		{"white space is kept inside", " a  b\tc ", "N: a  b\tc\r\n"},
		{"exactly 78", strings.Repeat("a", 70) + " bbbb", "N: " + strings.Repeat("a", 70) + " bbbb\r\n"},
		{"79", strings.Repeat("a", 70) + " bbbbb", "N: " + strings.Repeat("a", 70) + "\r\n bbbbb\r\n"},
		{"folded at a tab", strings.Repeat("a", 70) + "\tbbbbb", "N: " + strings.Repeat("a", 70) + "\r\n\tbbbbb\r\n"},
		{"long first word stays", strings.Repeat("a", 100) + " b", "N: " + strings.Repeat("a", 100) + "\r\n b\r\n"},
		{"one word", "日本", "N: =?UTF-8?B?5pel5pys?=\r\n"},
		{"words around", "a 日本 b", "N: a =?UTF-8?B?5pel5pys?= b\r\n"},
		{"encoded from first to last", "a é  b ü c", "N: a =?UTF-8?B?w6kgIGIgw7w=?= c\r\n"},
		{"two spaces before", "a  日本", "N: a  =?UTF-8?B?5pel5pys?=\r\n"},
		{"Q where shorter", "Jörgensen Meier", "N: =?UTF-8?Q?J=C3=B6rgensen?= Meier\r\n"},
		{"looks encoded", "=?UTF-8?Q?a?= b", "N: =?UTF-8?B?PT9VVEYtOD9RP2E/PQ==?= b\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := startField(nil, "N")
			f.text(tt.in, needsEncoding)
			b, ok := f.end()
			if diff := cmp.Diff(tt.want, string(b)); diff != "" || !ok {
				t.Errorf("ok %v (-want +got):\n%s", ok, diff)
			}
			unfolded := strings.ReplaceAll(strings.TrimSpace(string(b[2:])), "\r\n", "")
			if got, err := new(mime.WordDecoder).DecodeHeader(unfolded); err != nil || got != trimWSP(tt.in) {
				t.Errorf("read back as %q, %v", got, err)
			}
		})
	}
}

func TestFieldTooLong(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]bool{995: true, 996: false} { // with "N: "
		f := startField(nil, "N")
		f.word(strings.Repeat("a", n))
		f.word("b")
		if _, ok := f.end(); ok != want {
			t.Errorf("word of %d octets: %v", n, ok)
		}
	}
}

func TestEncodeWords(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"B":      strings.Repeat("山田太郎", 40),
		"Q":      strings.Repeat("Jörg and Anna ", 20),
		"emoji":  strings.Repeat("🍣", 60),
		"mixed":  strings.Repeat("a🍣é", 60),
		"spaces": strings.Repeat("é   ", 60),
	} {
		for _, first := range []int{0, 10, 23, 24, 40, 75, 200} {
			words := encodeWords(s, first)
			if first >= 24 && len(words[0]) > first {
				t.Errorf("%s: first word has %d octets, over %d", name, len(words[0]), first)
			}
			var got strings.Builder
			for _, w := range words {
				data, ok := decodeWord(w)
				if len(w) > 75 || !ok || !utf8.Valid(data) {
					t.Errorf("%s: word %q", name, w)
				}
				if std, err := new(mime.WordDecoder).Decode(w); err != nil || std != string(data) {
					t.Errorf("%s: word %q is %q to the standard library, %v", name, w, std, err)
				}
				got.Write(data)
			}
			if got.String() != s {
				t.Errorf("%s: read back as %q", name, got.String())
			}
		}
	}
}

func TestDecodeWords(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"none", "a  b", "a  b"},
		{"between words", "a  =?UTF-8?Q?b?=  c", "a  b  c"},
		{"neighbours", "=?UTF-8?Q?a?= \t =?UTF-8?B?Yg==?=", "ab"},
		{"space of their own", "=?UTF-8?Q?a_?= =?UTF-8?Q?b?=", "a b"},
		{"character in two", "=?utf-8?q?=C3?= =?UTF-8?Q?=a9?=", "é"},
		{"half a character", "=?UTF-8?Q?=C3?= x", "\ufffd x"},
		{"foreign between", "=?UTF-8?Q?a?= =?x?Q?b?= =?UTF-8?Q?c?=", "a =?x?Q?b?= c"},
		{"latin 1", "=?ISO-8859-1*de?Q?=E9?=", "é"},
		{"not alone", "x=?UTF-8?Q?a?=", "x=?UTF-8?Q?a?="},
		{"bad hex", "=?UTF-8?Q?=GG?=", "=?UTF-8?Q?=GG?="},
		{"cut hex", "=?UTF-8?Q?=C?=", "=?UTF-8?Q?=C?="},
		{"unknown encoding", "=?UTF-8?X?a?=", "=?UTF-8?X?a?="},
		{"overlapping marks", "=?UTF-8?=", "=?UTF-8?="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := decodeWords(tt.in); got != tt.want {
				t.Errorf("decodeWords(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}
