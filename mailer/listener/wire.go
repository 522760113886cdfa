package listener

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	maxLine   = 16 << 10 // octets of a command line: with AUTH, they are long
	maxOut    = 4 << 10  // octets of replies that wait for more of them
	graceRate = 30 * time.Second
	// lastWords is how long a client may take to read the rest, once the session has
	// to end.
	lastWords = 5 * time.Second
)

var (
	errStopped  = errors.New("the session has to end")
	errLongLine = errors.New("line too long")
	errBareLF   = errors.New("bare LF")
	errTLS      = errors.New("a TLS handshake")
)

// wire is the client's side of a connection. It gathers replies and writes them
// before it waits for the client, so that commands that come together are answered
// together (RFC 2920, section 3.2).
type wire struct {
	raw   net.Conn
	conn  net.Conn      // raw, or TLS on it
	small *bufio.Reader // on conn
	in    *bufio.Reader // small, or a large one on it
	out   []byte
	long  []byte // of a line that is longer than the buffer of in
	idle  time.Duration
	// err is the first error of reading. It stays: whatever may come after a time-out
	// is not read.
	err error
	// lf is set where the first line ended in a bare LF, as they all may then, and
	// crlf where it did not: a bare LF is no line end then, but somebody's trick.
	lf, crlf bool
	// by is when the line must be there; in content, the rest counts.
	by      time.Time
	content *pace

	mu      sync.Mutex
	stopped string // why, once the session has to end at its next command
	stop    chan struct{}
}

// pace is how fast content has to come.
type pace struct {
	begin, end time.Time
	rate       int
	n          int64 // octets so far
}

// due is when the next octets must be there.
func (p *pace) due(idle time.Duration) time.Time {
	due := time.Now().Add(idle)
	slow := p.begin.Add(graceRate + time.Duration(float64(p.n)/float64(p.rate)*float64(time.Second)))
	for _, t := range []time.Time{p.end, slow} {
		if t.Before(due) {
			due = t
		}
	}
	return due
}

func newWire(nc net.Conn, idle time.Duration) *wire {
	w := &wire{raw: nc, conn: nc, idle: idle, stop: make(chan struct{})}
	w.small = bufio.NewReaderSize(reading{w}, 4<<10)
	w.in = w.small
	return w
}

// largeReaders are for content. Otherwise a session has a small one.
var largeReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 32<<10) }}

func (w *wire) enlarge() {
	if w.in == w.small {
		w.in = largeReaders.Get().(*bufio.Reader)
		w.in.Reset(w.small)
	}
}

// shrink has the small reader go on, unless commands lie in the large one.
func (w *wire) shrink() {
	if w.in == w.small || w.in.Buffered() > 0 {
		return
	}
	w.in.Reset(nil)
	largeReaders.Put(w.in)
	w.in = w.small
}

// ahead reports whether the client has said something that was not read yet.
func (w *wire) ahead() bool { return w.in.Buffered() > 0 || w.small.Buffered() > 0 }

// reading is what the buffer of a wire reads from.
type reading struct{ *wire }

func (r reading) Read(p []byte) (int, error) {
	w := r.wire
	if w.err == nil {
		w.err = w.flush()
	}
	if w.err == nil {
		w.err = w.arm()
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.conn.Read(p)
	if w.content != nil {
		w.content.n += int64(n)
	}
	w.err = err
	return n, err
}

// arm sets the deadline of the next read.
func (w *wire) arm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.content != nil {
		return w.raw.SetReadDeadline(w.content.due(w.idle))
	}
	if w.stopped != "" {
		return errStopped
	}
	return w.raw.SetReadDeadline(w.by)
}

// armWrite sets the deadline of the next write.
func (w *wire) armWrite(by time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := time.Now().Add(lastWords); w.stopped != "" && last.Before(by) {
		by = last
	}
	return w.raw.SetWriteDeadline(by)
}

// interrupt has the session end at its next command: at once if it waits for one. A
// client that does not read its replies does not hold that up.
func (w *wire) interrupt(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped != "" {
		return
	}
	w.stopped = why
	close(w.stop)
	_ = w.raw.SetWriteDeadline(time.Now().Add(lastWords))
	if w.content == nil {
		_ = w.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// why returns why the session has to end; empty if it has not.
func (w *wire) why() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

// pace says from now on how fast content has to come; nil: there is none.
func (w *wire) pace(p *pace) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content = p
}

// line reads a line without its end. It is valid until the next read.
func (w *wire) line(by time.Time) ([]byte, error) {
	if w.why() != "" {
		return nil, errStopped
	}
	w.by = by
	w.long = w.long[:0]
	if !w.lf && !w.crlf {
		if first, err := w.in.Peek(1); err == nil && first[0] == 0x16 {
			return nil, errTLS
		}
	}
	for {
		part, err := w.in.ReadSlice('\n')
		if len(w.long)+len(part) > maxLine {
			return nil, errLongLine
		}
		switch {
		case err == nil && len(w.long) == 0:
			return w.cutEnd(part)
		case err == nil:
			w.long = append(w.long, part...)
			return w.cutEnd(w.long)
		case errors.Is(err, bufio.ErrBufferFull):
			w.long = append(w.long, part...)
		default:
			return nil, err
		}
	}
}

func (w *wire) cutEnd(line []byte) ([]byte, error) {
	n := len(line) - 1
	cr := n > 0 && line[n-1] == '\r'
	if !w.lf && !w.crlf {
		w.lf, w.crlf = !cr, cr
	}
	switch {
	case cr:
		return line[:n-1], nil
	case w.crlf:
		return nil, errBareLF
	}
	return line[:n], nil
}

// say queues what the client is told.
func (w *wire) say(s string) {
	w.out = append(w.out, s...)
	if len(w.out) > maxOut && w.flush() != nil {
		w.out = nil
	}
}

func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	if err := w.armWrite(time.Now().Add(w.idle)); err != nil {
		return err
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

func (w *wire) close() error {
	_ = w.flush()
	return w.conn.Close()
}
