package mailer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
)

// lineReader reads a message line by line, in pieces where a line is longer than
// its buffer, and refuses what no message may have.
type lineReader struct {
	r      *bufio.Reader
	n      int64 // octets read
	max    int64 // 0: any
	noLF   bool  // a bare LF is refused
	noLong bool  // a line over 998 octets is
	lines  int   // read to their ends
	open   bool  // a piece was read of a line that goes on
	mended repairs
}

const lineBuffer = 32 << 10

var lineBuffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, lineBuffer) }}

// next returns a line without its end, or the first or next piece of a line if
// not end. It is valid until the next call. The end of the message is io.EOF, and
// comes unwrapped, as from any reader: what wraps it is a failure.
func (l *lineReader) next() (text []byte, end bool, err error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == nil, err == io.EOF:
	case errors.Is(err, bufio.ErrBufferFull):
		if line[len(line)-1] == '\r' { // its LF may follow
			_ = l.r.UnreadByte()
			line = line[:len(line)-1]
		}
	default:
		return nil, false, err
	}
	if err == io.EOF && len(line) == 0 && !l.open {
		return nil, false, io.EOF
	}
	l.n += int64(len(line))
	if l.max > 0 && l.n > l.max {
		return nil, false, invalidf("content", codeTooLarge, "message has over %d octets", l.max)
	}
	text, end = bytes.CutSuffix(line, crlf)
	if bare, ok := bytes.CutSuffix(text, crlf[1:]); ok {
		if l.noLF {
			return nil, false, invalidf("content", codeLineBreak, "message has a bare LF: its lines must end in CRLF")
		}
		l.mended.note("bare LF")
		text, end = bare, true
	}
	if l.noLong && len(text) > maxLine {
		return nil, false, invalidf("content", codeTooLong, "line %d of the message has over %d octets: break it, or encode the text as quoted-printable or base64", l.lines+1, maxLine)
	}
	if hasSuspect(text) {
		switch {
		case bytes.IndexByte(text, '\r') >= 0:
			return nil, false, invalidf("content", codeLineBreak, "message has a bare CR: its lines must end in CRLF")
		case bytes.IndexByte(text, 0) >= 0:
			return nil, false, invalidf("content", codeLineBreak, "message has a NUL: what is not text must be encoded")
		}
	}
	if err == io.EOF {
		l.mended.note("last line without an end")
		end = true
	}
	if l.open = !end; end {
		l.lines++
	}
	return text, end, nil
}

// run returns whole lines, with their ends, that nothing has to be done about:
// in 7 bits, canonical, and not starting as a delimiter of parts does. Those that
// are in the buffer, that is, and none where the limit is near. They are valid
// until the next call.
func (l *lineReader) run() []byte {
	b, _ := l.r.Peek(l.r.Buffered())
	n, lines := 0, 0
	for n < len(b) && b[n] != '-' {
		i := bytes.IndexByte(b[n:], '\n')
		if i < 1 || i > maxLine+1 || b[n+i-1] != '\r' || hasSuspect(b[n:n+i-1]) {
			break
		}
		n += i + 1
		lines++
	}
	if l.max > 0 && l.n+int64(n) > l.max {
		return nil
	}
	l.n += int64(n)
	l.lines += lines
	_, _ = l.r.Discard(n)
	return b[:n]
}

var crlf = []byte("\r\n")
