package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
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

type chunkWriter struct {
	e   *Engine
	id  string
	to  io.Writer
	n   int64
	buf []byte
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	taken := 0
	for len(p) > 0 {
		if w.buf == nil {
			w.buf = make([]byte, 0, chunkSize)
		}
		if len(w.buf) == chunkSize { // and more follows
			if err := w.flush(false); err != nil {
				return taken, err
			}
		}
		n := min(len(p), chunkSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		taken += n
	}
	return taken, nil
}

func (w *chunkWriter) end() error { return w.flush(true) }

func (w *chunkWriter) flush(last bool) error {
	sealed, err := w.e.options.Sealer.Seal(chunkName(w.id, w.n, last), w.buf)
	if err != nil {
		return err
	}
	w.n++
	w.buf = w.buf[:0]
	_, err = w.to.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(sealed)), uint32(len(sealed))), sealed...))
	return err
}

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
	return &chunkReader{fileSource: s, from: f}, nil
}

type chunkReader struct {
	fileSource
	from   *os.File
	n      int64
	sealed []byte
	plain  []byte // what is left of a chunk
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 {
		if r.n == chunksOf(r.size) {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("reading the content of the message %s: %w", r.id, err)
		}
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

func (r *chunkReader) next() (err error) {
	var size [4]byte
	if _, err := io.ReadFull(r.from, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > chunkSize+chunkRoom {
		return errDamaged
	}
	if r.sealed == nil {
		r.sealed = make([]byte, chunkSize+chunkRoom)
	}
	if _, err := io.ReadFull(r.from, r.sealed[:n]); err != nil {
		return err
	}
	r.plain, err = r.e.options.Sealer.Open(chunkName(r.id, r.n, r.n == chunksOf(r.size)-1), r.sealed[:n])
	r.n++
	return err
}

func (r *chunkReader) Close() error { return r.from.Close() }
