package mailer

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

const (
	// maxEncodedWord is the length of an encoded word (RFC 2047, section 2).
	maxEncodedWord = 75
	// encodedWordFrame is the length of what surrounds the encoded text.
	encodedWordFrame = len("=?UTF-8?Q??=")
	// minEncodedWord has room for any one character in either encoding.
	minEncodedWord = encodedWordFrame + len("=F0=9F=98=80")
	// maxForeignWord bounds encoded words that are passed on as they came.
	maxForeignWord = 200
)

const upperHex = "0123456789ABCDEF"

// needsEncoding reports whether s cannot stand in a header field as it is. Text
// that looks like an encoded word must be encoded to be read as it is meant.
func needsEncoding(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return strings.Contains(s, "=?")
}

// encodeWords writes s as encoded words in UTF-8, all in the encoding that
// makes s shorter. No character is split. The first word has at most first
// octets, where that is enough for any character.
func encodeWords(s string, first int) []string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	limit := maxEncodedWord
	if first >= minEncodedWord {
		limit = min(first, limit)
	}
	q := 0
	for i := range len(s) {
		q += qLen(s[i])
	}
	encode, prefix, cost := appendQ, "=?UTF-8?Q?", func(char string) int {
		n := 0
		for i := range len(char) {
			n += qLen(char[i])
		}
		return n
	}
	room := limit - encodedWordFrame
	if q > base64.StdEncoding.EncodedLen(len(s)) {
		encode, prefix, cost = base64.StdEncoding.AppendEncode, "=?UTF-8?B?", func(char string) int { return len(char) }
		room = room / 4 * 3
	}

	var words []string
	for len(s) > 0 {
		end, used := 0, 0
		for end < len(s) {
			_, n := utf8.DecodeRuneInString(s[end:])
			if used += cost(s[end : end+n]); used > room {
				break
			}
			end += n
		}
		b := make([]byte, 0, maxEncodedWord)
		b = append(b, prefix...)
		b = encode(b, []byte(s[:end]))
		words = append(words, string(append(b, "?="...)))
		s = s[end:]
		room = maxEncodedWord - encodedWordFrame
		if prefix == "=?UTF-8?B?" {
			room = room / 4 * 3
		}
	}
	return words
}

// isQSafe reports whether c stands for itself in the Q encoding. The set is the
// one for phrases (RFC 2047, section 5), the narrowest.
func isQSafe(c byte) bool { return isAlnum(c) || strings.IndexByte("!*+-/", c) >= 0 }

func qLen(c byte) int {
	if c == ' ' || isQSafe(c) {
		return 1
	}
	return 3
}

func appendQ(dst, src []byte) []byte {
	for _, c := range src {
		switch {
		case c == ' ':
			dst = append(dst, '_')
		case isQSafe(c):
			dst = append(dst, c)
		default:
			dst = append(dst, '=', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// decodeWords decodes the encoded words in s that stand alone between white
// space, if they are in UTF-8, ISO-8859-1 or US-ASCII, and leaves everything
// else as it is. White space between decoded neighbours goes away (RFC 2047,
// section 6.2); so a character that was split over two of them is put together.
func decodeWords(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	var b strings.Builder
	var run []byte // decoded words not yet written
	after := false // whether the last word was a decoded one
	for s != "" {
		n := len(s) - len(strings.TrimLeft(s, " \t"))
		space := s[:n]
		s = s[n:]
		if n = strings.IndexAny(s, " \t"); n < 0 {
			n = len(s)
		}
		word := s[:n]
		s = s[n:]
		if data, ok := decodeWord(word); ok {
			if !after {
				b.WriteString(space)
			}
			run = append(run, data...)
			after = true
			continue
		}
		b.WriteString(strings.ToValidUTF8(string(run), "\uFFFD"))
		run, after = run[:0], false
		b.WriteString(space)
		b.WriteString(word)
	}
	b.WriteString(strings.ToValidUTF8(string(run), "\uFFFD"))
	return b.String()
}

// decodeWord decodes one encoded word to UTF-8, which it does not check.
func decodeWord(s string) ([]byte, bool) {
	charset, encoding, text, ok := cutWord(s)
	if !ok {
		return nil, false
	}
	var data []byte
	if encoding == 'B' {
		var err error
		if data, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, false
		}
	} else if data, ok = decodeQ(text); !ok {
		return nil, false
	}
	switch charset {
	case "utf-8", "us-ascii":
		return data, true
	case "iso-8859-1":
		runes := make([]rune, len(data))
		for i, c := range data {
			runes[i] = rune(c)
		}
		return []byte(string(runes)), true
	}
	return nil, false
}

func decodeQ(s string) ([]byte, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '_':
			b = append(b, ' ')
		case '=':
			if i+2 >= len(s) {
				return nil, false
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 {
				return nil, false
			}
			b = append(b, byte(hi<<4|lo))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return b, true
}

func unhex(c byte) int {
	return strings.IndexByte(upperHex, asciiUpper(c))
}

func asciiUpper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - ('a' - 'A')
	}
	return c
}

// cutWord takes an encoded word apart. The charset is in lower case and without
// a language (RFC 2231, section 5); the encoding is 'B' or 'Q'.
func cutWord(s string) (charset string, encoding byte, text string, ok bool) {
	if !strings.HasPrefix(s, "=?") || !strings.HasSuffix(s, "?=") || len(s) < len("=?c?B??=") {
		return "", 0, "", false
	}
	parts := strings.Split(s[2:len(s)-2], "?")
	if len(parts) != 3 || parts[0] == "" || len(parts[1]) != 1 {
		return "", 0, "", false
	}
	encoding = asciiUpper(parts[1][0])
	for i := range len(parts[0]) {
		if c := parts[0][i]; !isAlnum(c) && strings.IndexByte("-_+.:*", c) < 0 {
			return "", 0, "", false
		}
	}
	charset, _, _ = strings.Cut(asciiLower(parts[0]), "*")
	return charset, encoding, parts[2], encoding == 'B' || encoding == 'Q'
}

// isForeignWord reports whether s is an encoded word that we cannot decode but
// may pass on in a phrase.
func isForeignWord(s string) bool {
	charset, encoding, text, ok := cutWord(s)
	if !ok || len(s) > maxForeignWord || text == "" {
		return false
	}
	switch charset {
	case "utf-8", "us-ascii", "iso-8859-1":
		return false
	}
	safe := func(c byte) bool { return c == '=' || c == '_' || isQSafe(c) }
	if encoding == 'B' {
		safe = func(c byte) bool { return isAlnum(c) || strings.IndexByte("+/=", c) >= 0 }
	}
	for i := range len(text) {
		if !safe(text[i]) {
			return false
		}
	}
	return true
}
