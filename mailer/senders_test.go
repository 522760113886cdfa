package mailer

import (
	"errors"
	"strings"
	"testing"
)

func TestSenders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		patterns []string
		allows   []string
		refuses  []string
	}{
		{"nothing", nil, nil, []string{"a@x.jp"}},
		{"exact", []string{"noreply@x.jp"}, []string{"noreply@x.jp", "NoReply@X.jp", "Any Name <noreply@x.jp>"}, []string{"a@x.jp", "noreply@y.jp", "noreply@sub.x.jp"}},
		{"domain", []string{"*@X.jp"}, []string{"a@x.jp", "foo.@x.jp"}, []string{"a@sub.x.jp", "a@notx.jp", "a@x.jp.evil.jp"}},
		{"international domain", []string{"*@例え.jp"}, []string{"a@xn--r8jz45g.jp"}, []string{"a@x.jp"}},
		{"any", []string{"*"}, []string{"a@x.jp", "b@y.jp"}, nil},
		{"several", []string{"a@x.jp", "*@y.jp"}, []string{"a@x.jp", "b@y.jp"}, []string{"b@x.jp"}},
		{"kelvin sign", []string{"k@x.jp"}, []string{"K@x.jp"}, []string{"\u212a@x.jp"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := ParseSenders(tt.patterns...)
			if err != nil {
				t.Fatal(err)
			}
			for _, in := range tt.allows {
				if !s.Allows(mustParse(t, in)) {
					t.Errorf("refuses %s", in)
				}
			}
			for _, in := range tt.refuses {
				// Not every one of them is an address to our parser.
				if a, err := ParseAddress(in); err == nil && s.Allows(a) {
					t.Errorf("allows %s", in)
				}
			}
			if s.Allows(Address{}) {
				t.Error("allows the null sender")
			}
		})
	}
	if (Senders{}).Allows(mustParse(t, "a@x.jp")) {
		t.Error("the zero value allows someone")
	}
}

func TestParseSendersRefuses(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"", "x.jp", "*x.jp", "a*@x.jp", "*@*.x.jp", "*@", "*@x", "**", "A <a@x.jp>", "a@x.jp,b@x.jp", "*@x.jp\n"} {
		_, err := ParseSenders("ok@x.jp", p)
		var e *Error
		if !errors.As(err, &e) || e.Code != "bad_pattern" {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestMisleading(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, display string
		want          bool
	}{
		{"no name", "", false},
		{"plain", "Ann Lee", false},
		{"own address", "a@x.jp", false},
		{"own address in capitals", "A@X.JP", false},
		{"own address in single quotes", "'a@x.jp'", false},
		{"own address in a sentence", "Ann (a@x.jp).", false},
		{"handle", "@ann at x.jp", false},
		{"at sign alone", "Ann @ x.jp", false},
		{"other address", "ceo@bank.com", true},
		{"other address with text", "CEO <ceo@bank.com>", true},
		{"own and other", "a@x.jp ceo@bank.com", true},
		{"quoted local part", `"ceo"@bank.com`, true},
		{"full width at sign", "ceo＠bank.com", true},
		{"ideographic full stop", "ceo@bank。com", true},
		{"hidden joiner", "ceo\u200b@\u2060bank.com", true},
		{"same domain", "ceo@x.jp", true},
		{"address literal", "ceo@[192.0.2.1]", true},
		{"invisible blank", "ceo@\u2800bank.com", true},
		{"encoded word of another charset", "=?windows-1252?Q?ceo=40bank=2Ecom?=", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := misleading(Address{tt.display, "a", "x.jp"}); got != tt.want {
				t.Errorf("misleading(%q) = %v", tt.display, got)
			}
		})
	}
}

func mustParse(t testing.TB, s string) Address {
	t.Helper()
	a, err := ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSendersCovers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		s, o string
		want bool
	}{
		{"*", "*", true},
		{"*", "a@x.jp *@y.jp", true},
		{"*@x.jp a@y.jp", "*", false},
		{"*@x.jp", "*@X.JP", true},
		{"*@x.jp", "A@x.jp b@x.jp", true},
		{"*@x.jp", "a@sub.x.jp", false},
		{"*@x.jp", "*@y.jp", false},
		{"a@x.jp", "*@x.jp", false},
		{"a@x.jp b@x.jp", "B@X.jp", true},
		{"a@x.jp", "a@x.jp b@x.jp", false},
	} {
		s, err := ParseSenders(strings.Fields(tt.s)...)
		o, oErr := ParseSenders(strings.Fields(tt.o)...)
		if err != nil || oErr != nil {
			t.Fatal(err, oErr)
		}
		if got := s.Covers(o); got != tt.want {
			t.Errorf("%s covers %s: %v", tt.s, tt.o, got)
		}
	}
}
