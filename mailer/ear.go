package mailer

import (
	"bufio"
	"io"
	"sync"
)

// ear hears what a server says. Its buffer is lent while something is being heard:
// very many connections may be idle.
type ear struct {
	from io.Reader
	buf  *bufio.Reader
}

var earBuffers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// reader returns the buffer, to read from.
func (e *ear) reader() *bufio.Reader {
	if e.buf == nil {
		e.buf = earBuffers.Get().(*bufio.Reader)
		e.buf.Reset(e.from)
	}
	return e.buf
}

// Buffered is how many octets were heard that nobody has read.
func (e *ear) Buffered() int {
	if e.buf == nil {
		return 0
	}
	return e.buf.Buffered()
}

// there returns what was heard that nobody has read, up to n octets. It is valid until
// the next read.
func (e *ear) there(n int) []byte {
	if n = min(n, e.Buffered()); n == 0 {
		return nil
	}
	p, _ := e.buf.Peek(n)
	return p
}

// rest gives the buffer back, unless there is something in it.
func (e *ear) rest() {
	if e.buf != nil && e.buf.Buffered() == 0 {
		e.buf.Reset(nil)
		earBuffers.Put(e.buf)
		e.buf = nil
	}
}
