package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
)

func chunkName(id string, n int64, last bool) string {
	name := contentName(id) + "/" + strconv.FormatInt(n, 10)
	if last {
		name += "/last"
	}
	return name
}

func chunksOf(size int64) int64 { return max(1, (size+chunkSize-1)/chunkSize) }

// fileOctets is what a content takes in a file, at most about.
func fileOctets(size int64) int64 { return size + 128*chunksOf(size) }

// chunkBuffers are lent: one for what a chunk has, and one for what is made of it.
var chunkBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 4+chunkSize+chunkRoom)
	return &b
}}

func giveBack(buffers ...**[]byte) {
	for _, b := range buffers {
		if *b != nil {
			chunkBuffers.Put(*b)
			*b = nil
		}
	}
}

// chunkWriter seals a content. It is good for nothing behind end, or an error.
type chunkWriter struct {
	e             *Engine
	id            string
	to            io.Writer
	n             int64
	plain, sealed *[]byte
}

func newChunkWriter(e *Engine, id string, to io.Writer) *chunkWriter {
	w := &chunkWriter{e: e, id: id, to: to, plain: chunkBuffers.Get().(*[]byte), sealed: chunkBuffers.Get().(*[]byte)}
	*w.plain = (*w.plain)[:0]
	return w
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	taken := 0
	for len(p) > 0 {
		if len(*w.plain) == chunkSize { // and more follows
			if err := w.flush(false); err != nil {
				return taken, err
			}
		}
		n := min(len(p), chunkSize-len(*w.plain))
		*w.plain = append(*w.plain, p[:n]...)
		p = p[n:]
		taken += n
	}
	return taken, nil
}

func (w *chunkWriter) end() error { return w.flush(true) }

func (w *chunkWriter) flush(last bool) error {
	sealed, err := w.e.options.Sealer.AppendSeal((*w.sealed)[:4], chunkName(w.id, w.n, last), *w.plain)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(sealed, uint32(len(sealed)-4))
	w.n++
	*w.plain = (*w.plain)[:0]
	_, err = w.to.Write(sealed)
	return err
}

func (w *chunkWriter) close() { giveBack(&w.plain, &w.sealed) }

// fileSource is a content in a file.
type fileSource struct {
	e    *Engine
	id   string
	size int64
}

func (s fileSource) Size() int64 { return s.size }

func (s fileSource) Open() (io.ReadCloser, error) {
	f, err := os.Open(s.e.contentFile(s.id))
	if err != nil {
		return nil, fmt.Errorf("opening the content of the message %s: %w", s.id, err)
	}
	return &chunkReader{fileSource: s, from: f, plain: chunkBuffers.Get().(*[]byte), sealed: chunkBuffers.Get().(*[]byte)}, nil
}

type chunkReader struct {
	fileSource
	from          *os.File
	n             int64
	left          []byte // of a chunk
	plain, sealed *[]byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if err := r.more(); err != nil {
		return 0, err
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo], for [io.Copy].
func (r *chunkReader) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if err := r.more(); err != nil {
			if err == io.EOF { //nolint:errorlint // as it is
				return total, nil
			}
			return total, err
		}
		n, err := w.Write(r.left)
		total += int64(n)
		r.left = r.left[n:]
		if err != nil {
			return total, err
		}
	}
}

// more sees to it that something is left, or returns io.EOF.
func (r *chunkReader) more() error {
	for len(r.left) == 0 {
		if r.n == chunksOf(r.size) {
			return io.EOF
		}
		if err := r.next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading the content of the message %s: %w", r.id, err)
		}
	}
	return nil
}

func (r *chunkReader) next() (err error) {
	if r.sealed == nil {
		return os.ErrClosed
	}
	sealed := (*r.sealed)[:4]
	if _, err := io.ReadFull(r.from, sealed); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(sealed)
	if n > chunkSize+chunkRoom {
		return errDamaged
	}
	sealed = sealed[:n]
	if _, err := io.ReadFull(r.from, sealed); err != nil {
		return err
	}
	r.left, err = r.e.options.Sealer.AppendOpen((*r.plain)[:0], chunkName(r.id, r.n, r.n == chunksOf(r.size)-1), sealed)
	r.n++
	return err
}

func (r *chunkReader) Close() error {
	r.left = nil
	giveBack(&r.plain, &r.sealed)
	return r.from.Close()
}
