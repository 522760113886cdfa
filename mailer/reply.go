package mailer

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a server may say at most. A reply beyond these bounds is no reply.
const (
	maxReplyLine   = 2048     // octets of a line that are kept; the rest is dropped
	maxReplyLines  = 128      // lines of a reply
	maxReplyOctets = 64 << 10 // octets of a reply, kept or dropped
	maxReplyText   = 500      // octets of Reply.Text
)

var (
	errMalformedReply = errors.New("malformed reply")
	errReplyTooLong   = errors.New("reply too long")
	errUnexpected     = errors.New("unexpected reply")
)

// rawReply is a reply as it came, line by line, without the codes in front.
type rawReply struct {
	code  int
	lines []string
}

// readReply reads one reply, of one line or several (RFC 5321, section 4.2.1).
// It takes a bare LF for a line end, as servers cannot gain anything by it.
func readReply(r *bufio.Reader) (rawReply, error) {
	budget := maxReplyOctets
	code, text, more, err := readReplyPart(r, &budget)
	if err != nil {
		return rawReply{}, err
	}
	out := rawReply{code, []string{string(text)}}
	if err = out.rest(r, more, &budget); err != nil {
		return rawReply{}, err
	}
	return out, nil
}

// rest reads the lines behind the first.
func (r *rawReply) rest(from *bufio.Reader, more bool, budget *int) error {
	for more {
		if len(r.lines) == maxReplyLines {
			return errReplyTooLong
		}
		var code int
		var text []byte
		var err error
		if code, text, more, err = readReplyPart(from, budget); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if code != r.code {
			return errMalformedReply
		}
		r.lines = append(r.lines, string(text))
	}
	return nil
}

// readReplyTo reads the reply to what was said at a stage. Where all goes well what
// servers say to MAIL and DATA is not kept: only its code is returned.
func readReplyTo(stage Stage, r *bufio.Reader) (Reply, error) {
	budget := maxReplyOctets
	code, text, more, err := readReplyPart(r, &budget)
	switch {
	case err != nil:
		return Reply{}, err
	case more:
		raw := rawReply{code, []string{string(text)}}
		if err = raw.rest(r, more, &budget); err != nil {
			return Reply{}, err
		}
		return raw.reply(), nil
	case stage == StageMail && code/100 == 2, stage == StageData && code/100 == 3:
		return Reply{Code: code}, nil
	}
	return lineReply(code, string(text)), nil
}

// readReplyPart reads a line of a reply. Its text is valid until the next read.
func readReplyPart(r *bufio.Reader, budget *int) (code int, text []byte, more bool, err error) {
	line, err := readReplyLine(r, budget)
	if err != nil {
		return 0, nil, false, err
	}
	code, text, more, ok := splitReplyLine(line)
	if !ok {
		return 0, nil, false, errMalformedReply
	}
	return code, text, more, nil
}

// readReplyLine returns a line without its end. It is valid until the next read.
func readReplyLine(r *bufio.Reader, budget *int) ([]byte, error) {
	var line []byte // nil while the first part is all there is
	for {
		part, err := r.ReadSlice('\n')
		*budget -= len(part)
		if err == nil && len(line) <= maxReplyLine {
			part = trimLineEnd(part)
		}
		if err == nil && line == nil && *budget >= 0 {
			return part[:min(len(part), maxReplyLine)], nil
		}
		if room := maxReplyLine - len(line); room > 0 {
			line = append(line, part[:min(len(part), room)]...)
		}
		switch {
		case *budget < 0:
			return nil, errReplyTooLong
		case err == nil:
			return line, nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// trimLineEnd cuts LF off the end of a line, and CR, however often.
func trimLineEnd(line []byte) []byte {
	n := len(line)
	for n > 0 && (line[n-1] == '\n' || line[n-1] == '\r') {
		n--
	}
	return line[:n]
}

func splitReplyLine(line []byte) (code int, text []byte, more, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, nil, false, false
	}
	for _, b := range line[:3] {
		if b < '0' || b > '9' {
			return 0, nil, false, false
		}
		code = code*10 + int(b-'0')
	}
	if len(line) == 3 {
		return code, nil, false, true
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, nil, false, false
	}
	return code, line[4:], line[3] == '-', true
}

// reply turns what came into what may be shown.
func (r rawReply) reply() Reply {
	if len(r.lines) == 1 {
		return lineReply(r.code, r.lines[0])
	}
	out := Reply{Code: r.code}
	texts := make([]string, 0, len(r.lines))
	for _, line := range r.lines {
		code, text, ok := cutEnhancedCode(line)
		if ok && out.Enhanced == (EnhancedCode{}) {
			out.Enhanced = code
		}
		if ok && code == out.Enhanced {
			line = text
		}
		texts = append(texts, line)
	}
	out.Text = printable(strings.Join(texts, " "), maxReplyText)
	return out
}

// lineReply is a reply of one line.
func lineReply(code int, line string) Reply {
	enhanced, text, _ := cutEnhancedCode(line)
	return Reply{Code: code, Enhanced: enhanced, Text: printable(text, maxReplyText)}
}

// cutEnhancedCode splits an enhanced status code (RFC 2034, section 4) from
// the front of a line.
func cutEnhancedCode(line string) (code EnhancedCode, rest string, ok bool) {
	if len(line) < len("2.0.0") || line[1] != '.' || line[0] != '2' && line[0] != '4' && line[0] != '5' {
		return EnhancedCode{}, line, false
	}
	n := 0
	for part := range code {
		if part > 0 {
			if n == len(line) || line[n] != '.' {
				return EnhancedCode{}, line, false
			}
			n++
		}
		begin := n
		for ; n < len(line) && '0' <= line[n] && line[n] <= '9' && n-begin < 4; n++ {
			code[part] = code[part]*10 + int(line[n]-'0')
		}
		if n == begin || n-begin > 3 {
			return EnhancedCode{}, line, false
		}
	}
	switch {
	case n == len(line):
		return code, "", true
	case line[n] == ' ':
		return code, line[n+1:], true
	}
	return EnhancedCode{}, line, false
}

// printable makes a stranger's text fit for logs and terminals: whatever does
// not print becomes a space, and no more than limit octets are kept.
func printable(s string, limit int) string {
	if len(s) <= limit && isPrintable(s) {
		return strings.Trim(s, " ")
	}
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = ' '
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

// queueID finds the server's own name for a message in its reply to the
// content. There is no standard for it; where no known form matches it returns
// the empty string.
func queueID(r Reply) string {
	text := strings.TrimSpace(r.Text)
	if !isPrintable(text) && len(strings.ToLower(text)) != len(text) { // some letters change size with their case
		return ""
	}
	for _, mark := range []string{"queued as ", "internalid=", " id="} { // Postfix; Exchange; Exim
		if first, ok := strings.CutPrefix(mark, " "); ok && hasPrefixFold(text, first) {
			return firstID(text[len(first):])
		}
		if i := indexFold(text, mark); i >= 0 {
			return firstID(text[i+len(mark):])
		}
	}
	if rest, ok := strings.CutSuffix(text, " - gsmtp"); ok { // Gmail: OK <seconds> <id> - gsmtp
		fields := strings.Fields(rest)
		return firstID(fields[len(fields)-1])
	}
	if i := indexFold(text, " message accepted"); i >= 0 { // Sendmail, OpenSMTPD
		return firstID(text[:i])
	}
	if word, rest, ok := strings.Cut(text, " "); ok && strings.EqualFold(word, "ok") && len(rest) >= 16 && !strings.Contains(rest, " ") { // Amazon SES
		return firstID(rest)
	}
	return ""
}

// indexFold returns where sub, which is ASCII in lower case, begins in s, whatever the
// case of its letters there; -1: nowhere.
func indexFold(s, sub string) int {
	for i := range len(s) - len(sub) + 1 {
		if hasPrefixFold(s[i:], sub) {
			return i
		}
	}
	return -1
}

// hasPrefixFold reports whether s begins with prefix, which is ASCII in lower case.
func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}

func firstID(s string) string {
	const most = 128
	end := strings.IndexFunc(s, func(r rune) bool { return r == ' ' || strings.ContainsRune(",;()[]<>\"'", r) })
	if end >= 0 {
		s = s[:end]
	}
	s = strings.TrimRight(s, ".:")
	if len(s) > most {
		return ""
	}
	return s
}
