package mailer

import "unicode/utf8"

// cutText finds where a long line of text is to be broken: behind the last white
// space in its second half, or else between two characters of UTF-8 or
// ISO-2022-JP (RFC 1468), where a line begins and ends in ASCII. What follows
// never starts like the delimiter of a part, if that can be helped.
func cutText(line []byte) cut {
	var shift string // the escape sequence in force
	var space, between cut
	for i := 0; i <= maxLine; {
		switch {
		case shift == "" && line[i] != '-' && i > 0 && isBlank(line[i-1:i]):
			space = cut{at: i}
			between = space
		case shift == "" && line[i] != '-' && utf8.RuneStart(line[i]):
			between = cut{at: i}
		case shift != "" && i <= maxLine-len(toASCII):
			between = cut{at: i, before: toASCII, after: shift}
		}
		n := escapeLen(line[i:])
		switch {
		case n > 0:
			shift = string(line[i : i+n])
			if shift == toASCII || shift == toRoman {
				shift = ""
			}
			i += n
		case shift == "" || shift == toKatakana:
			i++
		default:
			i += 2
		}
	}
	const least = maxLine / 2
	switch {
	case space.at > least:
		return space
	case between.at > least:
		return between
	}
	return cut{at: maxLine}
}

// Escape sequences of ISO-2022-JP. Those for two octets a character start with
// ESC and a dollar sign.
const (
	toASCII    = "\x1b(B"
	toRoman    = "\x1b(J"
	toKatakana = "\x1b(I"
)

// escapeLen is the length of the escape sequence that b starts with, or 0.
func escapeLen(b []byte) int {
	if len(b) < 4 || b[0] != 0x1b {
		return 0
	}
	switch {
	case b[1] == '(':
		return 3
	case b[1] == '$' && b[2] == '(':
		return 4
	case b[1] == '$':
		return 3
	}
	return 0
}
