package caddymodule

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// string reads a string of up to 64 KiB.
func (r *jsonReader) string() (string, error) {
	if !r.take('"') {
		return "", r.noString("must be a string")
	}
	b, err := r.short()
	return string(b), err
}

func (r *jsonReader) noString(what string) error {
	if r.peek() == 0 {
		return r.broken()
	}
	return r.wrong(what)
}

// short reads the rest of a string of up to 64 KiB. It is valid until the next one is
// read.
func (r *jsonReader) short() ([]byte, error) {
	piece, end, err := r.piece()
	if err != nil || end {
		return piece, err
	}
	r.text = append(r.text[:0], piece...)
	for {
		piece, end, err := r.piece()
		if err != nil {
			return nil, err
		}
		if len(r.text)+len(piece) > maxShort {
			return nil, invalid(r.place(), "too_long", "it has over %d KiB", maxShort>>10)
		}
		r.text = append(r.text, piece...)
		if end {
			return r.text, nil
		}
	}
}

// skipString reads the rest of a string.
func (r *jsonReader) skipString() error {
	for {
		_, end, err := r.piece()
		if err != nil || end {
			return err
		}
	}
}

// piece reads some of a string, unescaped, behind its opening quote. End is set behind
// the closing one. It is valid until anything else is read.
func (r *jsonReader) piece() (text []byte, end bool, err error) {
	r.inString = true
	if r.pos == r.end && !r.fill() {
		return nil, false, r.broken()
	}
	rest := r.buf[r.pos:r.end]
	n := plainRun(rest)
	if n == len(rest) {
		n -= cutRune(rest)
		if n == 0 { // a part of a character
			if !r.need(r.end - r.pos + 1) {
				return nil, false, r.broken()
			}
			return r.piece()
		}
	}
	if n > 0 {
		r.pos += n
		if !utf8.Valid(rest[:n]) {
			return nil, false, r.fatal("is not in UTF-8")
		}
		if r.pos < r.end && r.buf[r.pos] == '"' {
			r.pos++
			r.inString = false
			return rest[:n], true, nil
		}
		return rest[:n], false, nil
	}
	switch rest[0] {
	case '"':
		r.pos++
		r.inString = false
		return nil, true, nil
	case '\\':
		text, err = r.escape()
		return text, false, err
	}
	return nil, false, r.broken() // a control character
}

// plainRun counts the octets before the first quote, backslash or control character.
func plainRun(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		v := binary.LittleEndian.Uint64(b[n:])
		quote, slash := v^'"'*ones, v^'\\'*ones
		found := ((quote-ones)&^quote | (slash-ones)&^slash | (v-' '*ones)&^v) & highs
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for ; n < len(b); n++ {
		if c := b[n]; c == '"' || c == '\\' || c < ' ' {
			break
		}
	}
	return n
}

// cutRune counts the octets at the end of b that may be the beginning of a character.
func cutRune(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			break
		}
	}
	return 0
}

// escape reads an escape sequence, or two that are one character.
func (r *jsonReader) escape() ([]byte, error) {
	if !r.need(2) {
		return nil, r.broken()
	}
	c := r.buf[r.pos+1]
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		r.pos += 2
		return escaped[i : i+1], nil
	}
	first, ok := r.unit(0)
	if !ok {
		return nil, r.broken()
	}
	r.pos += 6
	if utf16.IsSurrogate(first) {
		second, ok := r.unit(0)
		if first = utf16.DecodeRune(first, second); !ok || first == utf8.RuneError {
			return nil, r.fatal("has half of a surrogate pair")
		}
		r.pos += 6
	}
	return utf8.AppendRune(r.char[:0], first), nil
}

var escaped = []byte("\"\\/\b\f\n\r\t")

// unit reads \uXXXX without taking it.
func (r *jsonReader) unit(at int) (rune, bool) {
	if !r.need(at + 6) {
		return 0, false
	}
	b := r.buf[r.pos+at : r.pos+at+6]
	if !bytes.HasPrefix(b, []byte(`\u`)) {
		return 0, false
	}
	var v rune
	for _, c := range b[2:] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		v = v<<4 | rune(c)
	}
	return v, true
}
