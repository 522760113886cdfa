//go:build chaos

package mailer

import (
	"flag"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

var executions = flag.Int("executions", 100_000, "how many, of each")

// odd is what goes wrong between programs that read mail.
var odd = []string{
	"\r\n", "\r\n", "\r\n", "\r", "\n", ".", "..", "\r\n.\r\n", "\n.\n", "\x00", "\x7f", "\x80", "\xff", "é", "日本", "=?UTF-8?Q?a?=", "=", "?", " ", "\t", "-", "\"", "\\",
	"250", "250-", "250 ", "354 go", "421 ", "550 5.1.1 ", "5.7.1", "Bcc: b@y.jp", "MAIL FROM:<e@x>", "RCPT TO:<e@x>", "DATA", "QUIT", "From: a@x.jp", "<", ">", ":", ";", ",", "a", "b c",
}

// strange makes a text of odd things and common ones.
func strange(r *rand.Rand) string {
	var b []byte
	for range r.IntN(1 << r.IntN(7)) {
		switch r.IntN(8) {
		case 0:
			b = append(b, byte(r.Uint32()))
		case 1:
			for range r.IntN(1 << r.IntN(11)) {
				b = append(b, 'x')
			}
		default:
			b = append(b, odd[r.IntN(len(odd))]...)
		}
	}
	return string(b)
}

// tame is strange, but mostly without what is refused at once.
func tame(r *rand.Rand) string {
	s := strange(r)
	if r.IntN(8) == 0 {
		return s
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == utf8.RuneError {
			return -1
		}
		return c
	}, s)
}

// lines are of tame texts.
func lines(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(8) {
		b.WriteString(tame(r) + "\r\n")
	}
	return b.String()
}

// reply is one that a server may give, or nearly.
func reply(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(4) {
		b.WriteString("250-" + tame(r) + "\r\n")
	}
	return b.String() + "250 " + tame(r) + "\r\n" + strange(r)
}

// either is what one of two gives.
func either(r *rand.Rand, a, b func(*rand.Rand) string) string {
	if r.IntN(2) == 0 {
		return a(r)
	}
	return b(r)
}

// TestRandom gives the fuzz targets texts by lot, without a fuzzer's cost for
// each.
//
//	go test -tags chaos -run Random ./mailer -executions 10000000 -timeout 2h
func TestRandom(t *testing.T) {
	for name, check := range map[string]func(*testing.T, *rand.Rand){
		"ContentWriter": func(t *testing.T, r *rand.Rand) {
			checkContentWriter(t, []byte(either(r, strange, lines)), r.IntN(20), r.IntN(2) == 0)
		},
		"Reply": func(t *testing.T, r *rand.Rand) { checkReply(t, []byte(either(r, strange, reply))) },
		"Compose": func(t *testing.T, r *rand.Rand) {
			checkCompose(t, tame(r), tame(r), tame(r), strange(r), tame(r), strange(r))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range runtime.GOMAXPROCS(0) {
				t.Run("", func(t *testing.T) {
					t.Parallel()
					seed := rand.Uint64()
					t.Logf("seed %d", seed)
					r := rand.New(rand.NewPCG(seed, 0))
					for range *executions / runtime.GOMAXPROCS(0) {
						check(t, r)
					}
				})
			}
		})
	}
}
