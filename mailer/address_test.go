package mailer

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	iso2022 := "=?ISO-2022-JP?B?GyRCOzNFRBsoQg==?="
	long := strings.Repeat("l", 64)
	tests := []struct {
		name, in string
		want     Address
		printed  string
	}{
		{"bare", "a@x.jp", Address{"", "a", "x.jp"}, "a@x.jp"},
		{"white space around", " \ta@x.jp ", Address{"", "a", "x.jp"}, "a@x.jp"},
		{"angle brackets", "<a@x.jp>", Address{"", "a", "x.jp"}, "a@x.jp"},
		{"white space in angle brackets", "< a@x.jp >", Address{"", "a", "x.jp"}, "a@x.jp"},
		{"name", "Ann Lee <a@x.jp>", Address{"Ann Lee", "a", "x.jp"}, "Ann Lee <a@x.jp>"},
		{"no space before bracket", "Ann<a@x.jp>", Address{"Ann", "a", "x.jp"}, "Ann <a@x.jp>"},
		{"quoted name", `"Lee, \"Ann\" \\" <a@x.jp>`, Address{`Lee, "Ann" \`, "a", "x.jp"}, `"Lee, \"Ann\" \\" <a@x.jp>`},
		{"quoted and bare words", `"Ann" Lee <a@x.jp>`, Address{"Ann Lee", "a", "x.jp"}, "Ann Lee <a@x.jp>"},
		{"brackets in quotes", `"A <b@y.jp>" <a@x.jp>`, Address{"A <b@y.jp>", "a", "x.jp"}, `"A <b@y.jp>" <a@x.jp>`},
		{"empty quoted name", `"" <a@x.jp>`, Address{"", "a", "x.jp"}, "a@x.jp"},
		{"unquoted comma and dot", "Acme, Inc. <a@x.jp>", Address{"Acme, Inc.", "a", "x.jp"}, `"Acme, Inc." <a@x.jp>`},
		{"unquoted specials", "A|B [dev] <a@x.jp>", Address{"A|B [dev]", "a", "x.jp"}, `"A|B [dev]" <a@x.jp>`},
		{"inch mark", `5" pipe <a@x.jp>`, Address{`5" pipe`, "a", "x.jp"}, `"5\" pipe" <a@x.jp>`},
		{"address as name", "info@x.jp <info@x.jp>", Address{"info@x.jp", "info", "x.jp"}, `"info@x.jp" <info@x.jp>`},
		{"comment in name", "Ann (Sales) <a@x.jp>", Address{"Ann (Sales)", "a", "x.jp"}, `"Ann (Sales)" <a@x.jp>`},
		{"trailing comment", "a@x.jp (Ann Lee)", Address{"Ann Lee", "a", "x.jp"}, "Ann Lee <a@x.jp>"},
		{"nested trailing comment", `a@x.jp (Ann (the \) first))`, Address{"Ann (the ) first)", "a", "x.jp"}, `"Ann (the ) first)" <a@x.jp>`},
		{"trailing comment after name", "Ann <a@x.jp> (Sales)", Address{"Ann", "a", "x.jp"}, "Ann <a@x.jp>"},
		{"tabs in name", "Ann\t \tLee <a@x.jp>", Address{"Ann Lee", "a", "x.jp"}, "Ann Lee <a@x.jp>"},

		{"raw japanese", "山田, 太郎 <a@x.jp>", Address{"山田, 太郎", "a", "x.jp"}, "=?UTF-8?B?5bGx55SwLCDlpKrpg44=?= <a@x.jp>"},
		{"encoded B", "=?UTF-8?B?5bGx55Sw?= <a@x.jp>", Address{"山田", "a", "x.jp"}, "=?UTF-8?B?5bGx55Sw?= <a@x.jp>"},
		{"encoded Q latin 1", "=?iso-8859-1?q?J=F6rg_M?= <a@x.jp>", Address{"Jörg M", "a", "x.jp"}, "=?UTF-8?Q?J=C3=B6rg_M?= <a@x.jp>"},
		{"encoded with language", "=?US-ASCII*en?Q?Keith?= <a@x.jp>", Address{"Keith", "a", "x.jp"}, "Keith <a@x.jp>"},
		{"character split over two words", "=?UTF-8?B?5bGx55Q=?= =?UTF-8?B?sA==?= <a@x.jp>", Address{"山田", "a", "x.jp"}, "=?UTF-8?B?5bGx55Sw?= <a@x.jp>"},
		{"encoded beside atom", "=?UTF-8?Q?J=C3=B6rg?= Lee <a@x.jp>", Address{"Jörg Lee", "a", "x.jp"}, "=?UTF-8?B?SsO2cmcgTGVl?= <a@x.jp>"},
		{"encoded comment", "a@x.jp (=?UTF-8?B?5bGx55Sw?=)", Address{"山田", "a", "x.jp"}, "=?UTF-8?B?5bGx55Sw?= <a@x.jp>"},
		{"foreign charset", iso2022 + " <a@x.jp>", Address{iso2022, "a", "x.jp"}, iso2022 + " <a@x.jp>"},
		{"foreign charset beside text", iso2022 + " Lee, Ann <a@x.jp>", Address{iso2022 + " Lee, Ann", "a", "x.jp"}, iso2022 + ` "Lee, Ann" <a@x.jp>`},
		{"foreign charset hiding specials", "=?ISO-2022-JP?Q?a,b<c?= <a@x.jp>", Address{}, ""},
		{"encoded word in quotes is text", `"=?UTF-8?Q?a?=" <a@x.jp>`, Address{"=?UTF-8?Q?a?=", "a", "x.jp"}, "=?UTF-8?B?PT9VVEYtOD9RP2E/PQ==?= <a@x.jp>"},
		{"broken encoded word is text", "=?UTF-8?B?!?= <a@x.jp>", Address{"=?UTF-8?B?!?=", "a", "x.jp"}, "=?UTF-8?B?PT9VVEYtOD9CPyE/PQ==?= <a@x.jp>"},

		{"case", "Ann@EXAMPLE.Com", Address{"", "Ann", "example.com"}, "Ann@example.com"},
		{"all atext", "!#$%&'*+-/=?^_`{|}~@x.jp", Address{"", "!#$%&'*+-/=?^_`{|}~", "x.jp"}, "!#$%&'*+-/=?^_`{|}~@x.jp"},
		{"localhost", "root@localhost", Address{"", "root", "localhost"}, "root@localhost"},
		{"carrier trailing dot", "foo.@docomo.ne.jp", Address{"", "foo.", "docomo.ne.jp"}, `"foo."@docomo.ne.jp`},
		{"carrier leading dot", "<.foo@ezweb.ne.jp>", Address{"", ".foo", "ezweb.ne.jp"}, `".foo"@ezweb.ne.jp`},
		{"carrier double dot", "A <a..b@docomo.ne.jp>", Address{"A", "a..b", "docomo.ne.jp"}, `A <"a..b"@docomo.ne.jp>`},
		{"carrier quoted", `"foo."@docomo.ne.jp`, Address{"", "foo.", "docomo.ne.jp"}, `"foo."@docomo.ne.jp`},
		{"international domain", "a@例え.JP", Address{"", "a", "xn--r8jz45g.jp"}, "a@xn--r8jz45g.jp"},
		{"a-label", "a@XN--R8JZ45G.jp", Address{"", "a", "xn--r8jz45g.jp"}, "a@xn--r8jz45g.jp"},
		{"full width dot", "a@x。jp", Address{"", "a", "x.jp"}, "a@x.jp"},
		{"international local part", "用户@例え.jp", Address{"", "用户", "xn--r8jz45g.jp"}, "用户@xn--r8jz45g.jp"},
		{"longest local part", long + "@x.jp", Address{"", long, "x.jp"}, long + "@x.jp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseAddress(tt.in)
			if tt.want.IsZero() {
				if err == nil {
					t.Fatalf("ParseAddress(%q) = %+v, want an error", tt.in, got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParseAddress(%q) (-want +got):\n%s", tt.in, diff)
			}
			if s := got.String(); s != tt.printed {
				t.Errorf("String() = %s, want %s", s, tt.printed)
			}
			again, err := ParseAddress(tt.printed)
			if err != nil || again != got {
				t.Errorf("ParseAddress(%q) = %+v, %v, want %+v", tt.printed, again, err, got)
			}
		})
	}
}

func TestParseAddressRefuses(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("d", 63)
	tests := []struct{ name, in, code, says string }{
		{"nothing", "", "bad_address", "is empty"},
		{"white space", " \t ", "bad_address", "is empty"},
		{"null sender", "<>", "bad_address", "is empty"},
		{"name only", "Ann", "bad_address", `no "@"`},
		{"no local part", "@x.jp", "bad_address", `nothing before the "@"`},
		{"only dots", "..@x.jp", "bad_address", `nothing before the "@"`},
		{"no domain", "a@", "bad_address", `nothing after the "@"`},
		{"LF", "a@x.jp\nBcc: b@y.jp", "line_break", "line break"},
		{"CR", "a@x.jp\r", "line_break", "line break"},
		{"NUL", "a\x00@x.jp", "line_break", "NUL"},
		{"LF in name", "A\nB <a@x.jp>", "line_break", "line break"},
		{"LF in encoded word", "=?UTF-8?Q?A=0ABcc:_b?= <a@x.jp>", "line_break", "line break"},
		{"CR in encoded comment", "a@x.jp (=?UTF-8?Q?A=0D?=)", "line_break", "line break"},
		{"escape", "A\x1b[2J <a@x.jp>", "bad_address", "control character"},
		{"C1 control", "A\u009b <a@x.jp>", "bad_address", "control character"},
		{"control in encoded word", "=?UTF-8?Q?A=1B?= <a@x.jp>", "bad_address", "control character"},
		{"not UTF-8", "A\xff <a@x.jp>", "bad_address", "UTF-8"},
		{"two addresses", "a@x.jp, b@x.jp", "bad_address", "more than one"},
		{"two addresses, second with name", "a@x.jp, B <b@x.jp>", "bad_address", "more than one address"},
		{"two addresses, semicolon", "a@x.jp; B <b@x.jp>", "bad_address", "more than one address"},
		{"two in brackets", "<a@x.jp> <b@x.jp>", "bad_address", `one "<"`},
		{"two with names", "A <a@x.jp>, B <b@x.jp>", "bad_address", `one "<"`},
		{"nested brackets", "<<a@x.jp>>", "bad_address", `one "<"`},
		{"text after bracket", "<a@x.jp> b", "bad_address", `one "<"`},
		{"bracket not closed", "A <a@x.jp", "bad_address", `one "<"`},
		{"bracket not opened", "a@x.jp>", "bad_address", `one "<"`},
		{"quote not closed", `"A <a@x.jp>`, "bad_address", "quote"},
		{"two at signs", "a@b@x.jp", "bad_address", `more than one "@"`},
		{"space in local part", "a b@x.jp", "bad_address", "space"},
		{"space in domain", "a@x .jp", "bad_address", "domain"},
		{"comment in local part", "a(c)@x.jp", "bad_address", "comment"},
		{"comment in domain", "a@(c)x.jp", "bad_address", "domain"},
		{"comment not closed", "a@x.jp (A", "bad_address", "domain"},
		{"quoted local part", `"a b"@x.jp`, "bad_address", "quoted"},
		{"needless quotes", `"a"@x.jp`, "bad_address", "quoted"},
		{"quoted attack", `"victim@evil> ORCPT=.."@allowed.jp`, "bad_address", "quoted"},
		{"quoted attack in brackets", `<"victim@evil> ORCPT=.."@allowed.jp>`, "bad_address", "quoted"},
		{"quoted dots and space", `"foo. "@docomo.ne.jp`, "bad_address", "quoted"},
		{"source route", "<@a.jp,@b.jp:c@x.jp>", "bad_address", ""},
		{"address literal", "a@[127.0.0.1]", "bad_address", "literal"},
		{"ip address", "a@127.0.0.1", "bad_address", "IP address"},
		{"no dot", "a@x", "bad_address", "without a dot"},
		{"trailing dot", "a@x.jp.", "bad_address", "not valid"},
		{"empty label", "a@x..jp", "bad_address", "not valid"},
		{"hyphen at the end", "a@x-.jp", "bad_address", "not valid"},
		{"underscore", "a@x_y.jp", "bad_address", "not valid"},
		{"broken a-label", "a@xn--a.jp", "bad_address", "not valid"},
		{"encoded word as local part", "=?utf-8?q?boss=40bank.jp?=@x.jp", "bad_address", "encoded word"},
		{"international slash", "a@x\uff0fy.jp", "bad_address", "not valid"},
		{"group", "grp: a@x.jp, b@x.jp;", "bad_address", ""},
		{"group of named", "grp: A <a@x.jp>;", "bad_address", ""},
		{"invisible in local part", "a\u200bb@x.jp", "bad_address", "not allowed"},
		{"full width at sign", "a\uff20b@x.jp", "bad_address", "not allowed"},
		{"wide space in local part", "a\u3000b@x.jp", "bad_address", "not allowed"},
		{"local part too long", strings.Repeat("l", 65) + "@x.jp", "bad_address", "too long"},
		{"quoted local part too long", strings.Repeat("l", 62) + ".@x.jp", "bad_address", "too long"},
		{"label too long", "a@" + label + "d.jp", "bad_address", "not valid"},
		{"domain too long", "a@" + strings.Repeat(label+".", 4) + "jp", "bad_address", "too long"},
		{"whole too long", strings.Repeat("l", 64) + "@" + strings.Repeat(label+".", 2) + label[:60] + ".jp", "bad_address", "too long"},
		{"name too long", strings.Repeat("n", 999) + " <a@x.jp>", "bad_address", "too long"},
		{"input too long", "a@x.jp (" + strings.Repeat("(", 1<<20), "bad_address", "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseAddress(tt.in)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("ParseAddress(%q) = %+v, %v, want an *Error", tt.in, got, err)
			}
			if !got.IsZero() || got.Name != "" {
				t.Errorf("got %+v beside the error", got)
			}
			if e.Stage != StageAccept || e.Kind != KindInvalid || e.Code != tt.code {
				t.Errorf("stage %s, kind %s, code %s, want accept, invalid, %s", e.Stage, e.Kind, e.Code, tt.code)
			}
			if !strings.Contains(e.Error(), tt.says) {
				t.Errorf("error %q does not say %q", e, tt.says)
			}
			if n := utf8.RuneCountInString(e.Error()); n > 200 || strings.ContainsAny(e.Error(), "\r\n\x00\x1b") {
				t.Errorf("error %q echoes too much", e)
			}
		})
	}
}

func TestParseAddressList(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     []string // nil: refused
	}{
		{"one", "a@x.jp", []string{"a@x.jp"}},
		{"one with comma", "Acme, Inc. <a@x.jp>", []string{`"Acme, Inc." <a@x.jp>`}},
		{"two", "a@x.jp, b@x.jp", []string{"a@x.jp", "b@x.jp"}},
		{"second with name", "a@x.jp, B <b@x.jp>", []string{"a@x.jp", "B <b@x.jp>"}},
		{"empty pieces", ", a@x.jp,, b@x.jp,", []string{"a@x.jp", "b@x.jp"}},
		{"comma in quotes", `"A, B" <a@x.jp>, b@x.jp`, []string{`"A, B" <a@x.jp>`, "b@x.jp"}},
		{"comma in comment", "a@x.jp (A, B), b@x.jp", []string{`"A, B" <a@x.jp>`, "b@x.jp"}},
		{"comma in bare names", "Acme, Inc. <a@x.jp>, b@x.jp, Lee, Ann <c@x.jp>", []string{`"Acme, Inc." <a@x.jp>`, "b@x.jp", `"Lee, Ann" <c@x.jp>`}},
		{"inch marks", `5" pipe <a@x.jp>, 6" hose <b@x.jp>`, []string{`"5\" pipe" <a@x.jp>`, `"6\" hose" <b@x.jp>`}},
		{"open parenthesis", "A (x <a@x.jp>, b@x.jp", []string{`"A (x" <a@x.jp>`, "b@x.jp"}},
		{"nothing", "", nil},
		{"commas", ", ,", nil},
		{"word without address", "bob, a@x.jp", nil},
		{"word at the end", "a@x.jp, bob", nil},
		{"one bad", "a@x.jp, b@[::1]", nil},
		{"semicolon", "a@x.jp; b@x.jp", nil},
		{"group", "grp: a@x.jp, b@x.jp;", nil},
		{"group before another", "grp: A <a@x.jp>;, C <c@x.jp>", nil},
		{"line break", "a@x.jp,\r\n b@x.jp", nil},
		{"source route", "<@a.jp,@b.jp:c@x.jp>, a@x.jp", nil},
		{"bracket over comma", "<a@x.jp, b@x.jp>", nil},
		{"too long", strings.Repeat("a@x.jp,", 20000), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list, err := ParseAddressList(tt.in)
			if (err == nil) != (tt.want != nil) {
				t.Fatalf("ParseAddressList(%.100q) = %v, %v", tt.in, list, err)
			}
			var got []string
			for _, a := range list {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// An Address can be put together by hand. Whatever is in it, it must not break
// out of its place.
func TestAddressByHand(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]Address{
		"break in name":         {"A\r\nBcc: b@y.jp", "a", "x.jp"},
		"break in foreign word": {"=?x?B?ab\r\nc=?=", "a", "x.jp"},
		"break in local part":   {"", "a\r\nb", "x.jp"},
		"space in local part":   {"", "a> ORCPT=b", "x.jp"},
		"break in domain":       {"", "a", "x.jp\r\nb"},
		"parameter in domain":   {"", "a", "x.jp> SIZE=1"},
		"quotes in local part":  {"", `a"b`, "x.jp"},
		"not UTF-8":             {"\xff", "\xff", "x.jp"},
		"half an address":       {"", "a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if strings.ContainsAny(a.String(), "\r\n\x00") {
				t.Errorf("String() = %q", a.String())
			}
			if m := a.Mailbox(); strings.ContainsAny(m, "\r\n\x00 <>\xff") || strings.Count(m, `"`)%2 != 0 {
				t.Errorf("Mailbox() = %q", m)
			}
			if _, fault := a.fault(); fault == "" {
				t.Error("no fault found")
			}
		})
	}
	if s := (Address{}).Mailbox(); s != "" {
		t.Errorf("null sender: %q", s)
	}
}

func TestAddressEqual(t *testing.T) {
	t.Parallel()
	a := Address{"A", "a", "x.jp"}
	for _, tt := range []struct {
		name string
		b    Address
		want bool
	}{
		{"same", a, true},
		{"other name", Address{"B", "a", "x.jp"}, true},
		{"domain in capitals", Address{"", "a", "X.JP"}, true},
		{"local part in capitals", Address{"A", "A", "x.jp"}, false},
		{"other domain", Address{"A", "a", "y.jp"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := a.Equal(tt.b); got != tt.want {
				t.Errorf("Equal = %v", got)
			}
		})
	}
}

func TestNeedsSMTPUTF8(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"a@x.jp": false, "山田 <a@例え.jp>": false, "用户@x.jp": true} {
		a, err := ParseAddress(in)
		if err != nil || a.NeedsSMTPUTF8() != want {
			t.Errorf("%s: %v, %v", in, a.NeedsSMTPUTF8(), err)
		}
	}
}
