package mailer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Values of Error.Code that appear in more than one place.
const (
	codeBadAddress = "bad_address"
	codeBadHeader  = "bad_header"
	codeEncoding   = "bad_encoding"
	codeControl    = "control_character"
	codeLineBreak  = "line_break"
	codeTooLong    = "too_long"
)

// invalidf makes the error for a submission that is malformed.
func invalidf(field, code, format string, args ...any) *Error {
	return &Error{Stage: StageAccept, Kind: KindInvalid, Field: field, Code: code, Err: fmt.Errorf(format, args...)}
}

// textFault says why s cannot be a line of text, or nothing. Tabs are text.
func textFault(s string) (code, fault string) {
	if isPrintable(s) {
		return "", ""
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\r' || r == '\n' || r == 0:
			return codeLineBreak, "contains a line break or a NUL"
		case r == utf8.RuneError && n == 1:
			code, fault = codeEncoding, "is not valid UTF-8"
		case r != '\t' && unicode.IsControl(r):
			code, fault = codeControl, "contains a control character"
		}
		i += n
	}
	return code, fault
}

// excerpt quotes the beginning of a stranger's text so that it can stand in an
// error: at most 100 characters, none of them unprintable.
func excerpt(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	n := 0
	for _, r := range s {
		if n == 100 {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
		n++
	}
	b.WriteByte('"')
	return b.String()
}

// isPrintable reports whether all of s is ASCII that prints. It looks at eight octets at
// a time: whole texts of mails pass here.
func isPrintable(s string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		v := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		if (v|(v+ones)|(v-' '*ones))&highs != 0 { // beyond ASCII, DEL, below the space
			return false
		}
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func isASCII[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// asciiLower leaves characters beyond ASCII alone: Unicode's lower case would
// turn the Kelvin sign into a k.
func asciiLower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isAtext reports whether c may stand in an atom (RFC 5322, section 3.2.3).
func isAtext(c byte) bool { return atext[c] }

var atext = func() (set [256]bool) {
	for c := range set {
		set[c] = isAlnum(byte(c)) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", byte(c)) >= 0
	}
	return set
}()
