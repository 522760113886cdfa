package mailer

import "strings"

// maxQuotedName is the length up to which a name is written as a quoted string.
// Those do not fold well; longer names become encoded words.
const maxQuotedName = 60

// quotes follows quoted strings through a list of mailboxes, octet by octet. A
// quote opens only where a word starts, so that an inch mark (5" pipe) does not
// swallow the next recipient. The zero value stands at the start of the text.
type quotes struct {
	in      bool // inside a quoted string
	escaped bool
	inWord  bool
}

// plain consumes c and reports whether it stands outside of quoted strings.
func (q *quotes) plain(c byte) bool {
	switch {
	case q.escaped:
		q.escaped = false
	case q.in && c == '\\':
		q.escaped = true
	case c == '"' && (q.in || !q.inWord):
		q.in = !q.in
	case !q.in:
		q.inWord = strings.IndexByte(" \t,<>(", c) < 0
		return true
	}
	return false
}

// commas finds the commas outside of quotes, comments and angle brackets.
func commas(s string) []int {
	var found []int
	var q quotes
	var angle bool
	for i := 0; i < len(s); i++ {
		if !q.plain(s[i]) {
			continue
		}
		switch s[i] {
		case '<':
			angle = true
		case '>':
			angle = false
		case '(':
			if n := commentLen(s[i:]); n > 0 && !angle {
				i += n - 1
			}
		case ',':
			if !angle {
				found = append(found, i)
			}
		}
	}
	return found
}

// commentLen is the length of the comment that s starts with, or 0 if it has no
// end within the length of a name.
func commentLen(s string) int {
	depth := 0
	for i := 0; i < min(len(s), maxName); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

// cutComment cuts one comment off the end of s and returns its text.
func cutComment(s string) (rest, comment string) {
	if !strings.HasSuffix(s, ")") {
		return s, ""
	}
	var q quotes
	for i := range len(s) {
		if q.plain(s[i]) && s[i] == '(' && i+commentLen(s[i:]) == len(s) {
			return trimWSP(s[:i]), unescape(s[i+1 : len(s)-1])
		}
	}
	return s, ""
}

// decodePhrase turns a display name as written into a readable one: quoted
// strings are unquoted, encoded words outside of them decoded.
func decodePhrase(s string) string {
	var b strings.Builder
	var q quotes
	start, quoted := 0, false
	flush := func(end int) {
		if quoted {
			b.WriteString(unescape(s[start+1 : end]))
		} else {
			b.WriteString(decodeWords(s[start:end]))
		}
	}
	for i := range len(s) {
		q.plain(s[i])
		if q.in == quoted {
			continue
		}
		flush(i)
		quoted = q.in
		start = i
		if !quoted {
			start++ // the closing quote
		}
	}
	flush(len(s))
	return collapseWSP(b.String())
}

// phraseWords writes a display name as the words of a phrase (RFC 5322, section
// 3.2.5), which may be folded between them. The first one has at most first
// octets if it is an encoded word.
func phraseWords(name string, first int) []string {
	if name == "" {
		return nil
	}
	var words []string
	var text []string // the words since the last foreign encoded word
	flush := func() {
		if len(text) == 0 {
			return
		}
		joined := strings.Join(text, " ")
		switch {
		case needsEncoding(joined) || len(joined) > maxQuotedName && !isAtoms(joined):
			words = append(words, encodeWords(joined, first)...)
		case isAtoms(joined):
			words = append(words, text...)
		default:
			words = append(words, quoteString(joined))
		}
		first = maxEncodedWord
		text = text[:0]
	}
	for _, w := range strings.FieldsFunc(name, isWSP) {
		if isForeignWord(w) {
			flush()
			words = append(words, w)
			first = maxEncodedWord
			continue
		}
		text = append(text, w)
	}
	flush()
	return words
}

// isAtoms reports whether s consists of atoms and spaces, none of them too long
// to be folded.
func isAtoms(s string) bool {
	run := 0
	for i := range len(s) {
		if s[i] == ' ' {
			run = 0
			continue
		}
		if run++; run > maxQuotedName || !isAtext(s[i]) {
			return false
		}
	}
	return true
}

// quoteString writes s, which has no control characters, as a quoted string.
func quoteString(s string) string {
	return `"` + quoteEscaper.Replace(s) + `"`
}

var quoteEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// unescape removes the backslashes of quoted pairs.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

func isWSP(r rune) bool { return r == ' ' || r == '\t' }

func trimWSP(s string) string { return strings.Trim(s, " \t") }

// collapseWSP trims s and makes each run of white space one space.
func collapseWSP(s string) string { return strings.Join(strings.FieldsFunc(s, isWSP), " ") }
