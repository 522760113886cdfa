package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	// maxInline is the most octets of a content that are kept in the database.
	maxInline = 64 << 10
	chunkSize = 64 << 10
	// chunkRoom is what sealing may add to a chunk.
	chunkRoom = 1 << 10

	orphanAge = time.Hour
)

// kept is a content that was put where its message is going to be.
type kept struct {
	e      *Engine
	id     string
	where  keeping
	size   int64
	sealed []byte        // with keptInline
	source mailer.Source // reads it
}

// keep seals a content. One that is too large for the database is on the disk when
// keep returns.
func (e *Engine) keep(id string, c mailer.Content) (*kept, error) {
	k := &kept{e: e, id: id, where: keptInline, size: c.Size()}
	if k.size > maxInline {
		k.where = keptInFile
		k.source = fileSource{e, id, k.size}
		return k, k.writeFile(c)
	}
	var b bytes.Buffer
	b.Grow(int(k.size))
	if err := copyContent(&b, c); err != nil {
		return nil, err
	}
	sealed, err := e.options.Sealer.Seal(contentName(id), b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("sealing the content of the message %s: %w", id, err)
	}
	k.sealed, k.source = sealed, mailer.Bytes(b.Bytes())
	return k, nil
}

func copyContent(w io.Writer, c mailer.Content) error {
	n, err := c.WriteTo(w)
	if err != nil {
		return fmt.Errorf("reading the content of a message: %w", err)
	}
	if n != c.Size() {
		return fmt.Errorf("the content of a message has %d octets, not the %d that were announced", n, c.Size())
	}
	return nil
}

// writeFile writes the content under its final name and flushes file and folder.
func (k *kept) writeFile(c mailer.Content) error {
	e, room := k.e, fileOctets(k.size)
	if err := e.fill(room); err != nil {
		return err
	}
	f, err := os.OpenFile(e.contentFile(k.id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		w := &chunkWriter{e: e, id: k.id, to: f}
		if err = copyContent(w, c); err == nil {
			err = w.end()
		}
		if err == nil {
			err = e.syncFile(f)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = e.syncFolder(filepath.Join(e.folder, contentsFolder))
		}
		if err != nil {
			k.undo()
		}
	}
	if err == nil {
		return nil
	}
	e.filling.Add(-room)
	if isFull(err) {
		err = fmt.Errorf("%w: %w", outbox.ErrFull, err)
	}
	return fmt.Errorf("storing the content of the message %s: %w", k.id, err)
}

// undo removes a file that no record tells of.
func (k *kept) undo() {
	if k.where == keptInFile {
		_ = os.Remove(k.e.contentFile(k.id))
	}
}

// done is called when a record tells of the file, or never will.
func (k *kept) done() {
	if k.where == keptInFile {
		k.e.filling.Add(-fileOctets(k.size))
	}
}

func (e *Engine) contentFile(id string) string {
	return filepath.Join(e.folder, contentsFolder, id)
}

// unlink removes the file of a message, aside.
func (e *Engine) unlink(id string) {
	e.aside.Go(func() {
		if err := os.Remove(e.contentFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.log().Warn("the content of a message could not be removed", "id", id, "error", err)
		}
	})
}

// source reads what is kept of a content.
func (e *Engine) source(id string, h *header, sealed []byte) (mailer.Source, error) {
	switch h.kept {
	case keptInline:
		plain, err := e.options.Sealer.Open(contentName(id), sealed)
		if err != nil {
			return nil, fmt.Errorf("opening the content of the message %s: %w", id, err)
		}
		return mailer.Bytes(plain), nil
	case keptInFile:
		if _, err := os.Stat(e.contentFile(id)); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, outbox.ErrNotFound
			}
			return nil, err
		}
		return fileSource{e, id, h.size}, nil
	default:
		return nil, outbox.ErrNotFound
	}
}

// lost is a content that cannot be read.
type lost struct {
	err  error
	size int64
}

func (l lost) Open() (io.ReadCloser, error) { return nil, l.err }
func (l lost) Size() int64                  { return l.size }

// A file is a row of chunks. Each is preceded by its length, and sealed under a name
// that has its number, and whether it is the last.

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

// sweepOrphans removes files that no record tells of, such as those of accepts that
// a crash cut off.
func (e *Engine) sweepOrphans() error {
	folder := filepath.Join(e.folder, contentsFolder)
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil || time.Since(info.ModTime()) < orphanAge || e.tells(entry.Name()) {
				continue
			}
			if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil {
				e.log().Warn("a left-over file could not be removed", "file", entry.Name(), "error", err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tells reports whether a record tells of a file. What cannot be read may.
func (e *Engine) tells(id string) (yes bool) {
	err := e.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMessages).Get([]byte(id))
		if v == nil {
			return nil
		}
		h, _, err := parse(v)
		yes = h.kept == keptInFile
		return err
	})
	return yes || err != nil
}
