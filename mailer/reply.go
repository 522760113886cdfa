package mailer

import (
	"bufio"
	"bytes"
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
	var out rawReply
	budget := maxReplyOctets
	for range maxReplyLines {
		line, err := readReplyLine(r, &budget)
		if err != nil {
			if errors.Is(err, io.EOF) && len(out.lines) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return rawReply{}, err
		}
		code, text, more, ok := splitReplyLine(line)
		if !ok || (len(out.lines) > 0 && code != out.code) {
			return rawReply{}, errMalformedReply
		}
		out.code = code
		out.lines = append(out.lines, string(text))
		if !more {
			return out, nil
		}
	}
	return rawReply{}, errReplyTooLong
}

// readReplyLine returns a line without its end. It is valid until the next read.
func readReplyLine(r *bufio.Reader, budget *int) ([]byte, error) {
	var line []byte // nil while the first part is all there is
	for {
		part, err := r.ReadSlice('\n')
		*budget -= len(part)
		if err == nil && len(line) <= maxReplyLine {
			part = bytes.TrimRight(part, "\r\n")
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
	out := Reply{Code: r.code}
	if len(r.lines) == 1 {
		out.Enhanced, out.Text, _ = cutEnhancedCode(r.lines[0])
		out.Text = printable(out.Text, maxReplyText)
		return out
	}
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

// cutEnhancedCode splits an enhanced status code (RFC 2034, section 4) from
// the front of a line.
func cutEnhancedCode(line string) (EnhancedCode, string, bool) {
	word, rest, _ := strings.Cut(line, " ")
	class, sub, ok := strings.Cut(word, ".")
	subject, detail, more := strings.Cut(sub, ".")
	if !ok || !more || len(class) != 1 || !strings.Contains("245", class) {
		return EnhancedCode{}, line, false
	}
	var code EnhancedCode
	for i, p := range [...]string{class, subject, detail} {
		if len(p) < 1 || len(p) > 3 {
			return EnhancedCode{}, line, false
		}
		for _, b := range []byte(p) {
			if b < '0' || b > '9' {
				return EnhancedCode{}, line, false
			}
			code[i] = code[i]*10 + int(b-'0')
		}
	}
	return code, rest, true
}

// printable makes a stranger's text fit for logs and terminals: whatever does
// not print becomes a space, and no more than limit octets are kept.
func printable(s string, limit int) string {
	if len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return strings.TrimSpace(s)
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
	lower := strings.ToLower(text)
	if len(lower) != len(text) { // some letters change size with their case
		return ""
	}
	for _, mark := range []string{"queued as ", "internalid=", " id="} { // Postfix; Exchange; Exim
		if _, rest, ok := strings.Cut(" "+lower, mark); ok {
			return firstID(text[len(text)-len(rest):])
		}
	}
	if rest, ok := strings.CutSuffix(text, " - gsmtp"); ok { // Gmail: OK <seconds> <id> - gsmtp
		fields := strings.Fields(rest)
		return firstID(fields[len(fields)-1])
	}
	if before, _, ok := strings.Cut(lower, " message accepted"); ok { // Sendmail, OpenSMTPD
		return firstID(text[:len(before)])
	}
	if word, rest, ok := strings.Cut(text, " "); ok && strings.EqualFold(word, "ok") && len(rest) >= 16 && !strings.Contains(rest, " ") { // Amazon SES
		return firstID(rest)
	}
	return ""
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
