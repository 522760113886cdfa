package bolt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	// maxInline is the most octets of a content that are kept in the database: a file of
	// its own costs its flush, that of the folder, and later its removal.
	maxInline = 256 << 10
	// freeInline is the size up to which that needs no share of sharedInline, which is
	// the most octets of contents in memory on their way there.
	freeInline   = 64 << 10
	sharedInline = 16 << 20
	chunkSize    = 64 << 10
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
	shares bool          // in sharedInline
	source mailer.Source // reads it
}

// keep seals a content behind dst. One that is too large for the database is on the disk
// when keep returns.
func (e *Engine) keep(dst []byte, id string, c mailer.Content) (*kept, error) {
	k := &kept{e: e, id: id, where: keptInline, size: c.Size()}
	if k.size > maxInline || k.size > freeInline && !k.share() {
		k.where = keptInFile
		k.source = fileSource{e, id, k.size}
		return k, k.writeFile(c)
	}
	if err := k.seal(dst, c); err != nil {
		k.done()
		return nil, err
	}
	return k, nil
}

// share takes a share of sharedInline, if there is one left.
func (k *kept) share() bool {
	if k.e.inline.Add(k.size) > sharedInline {
		k.e.inline.Add(-k.size)
		return false
	}
	k.shares = true
	return true
}

// seal seals a content in memory, behind dst.
func (k *kept) seal(dst []byte, c mailer.Content) error {
	octets, err := mailer.Octets(c)
	if err = checkCopy(int64(len(octets)), err, c); err != nil {
		return err
	}
	sealed, err := k.e.options.Sealer.AppendSeal(dst, contentName(k.id), octets)
	if err != nil {
		return fmt.Errorf("sealing the content of the message %s: %w", k.id, err)
	}
	k.sealed, k.source = sealed, mailer.Bytes(octets)
	return nil
}

func copyContent(w io.Writer, c mailer.Content) error {
	n, err := c.WriteTo(w)
	return checkCopy(n, err, c)
}

// checkCopy reports whether all of a content was read.
func checkCopy(n int64, err error, c mailer.Content) error {
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
		w := newChunkWriter(e, k.id, f)
		if err = copyContent(w, c); err == nil {
			err = w.end()
		}
		w.close()
		if err == nil {
			err = e.syncFile(f)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = e.contents.flush(func() error { return e.syncFolder(filepath.Join(e.folder, contentsFolder)) })
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

// done is called when a record tells of the content, or never will.
func (k *kept) done() {
	if k.where == keptInFile {
		k.e.filling.Add(-fileOctets(k.size))
	}
	if k.shares {
		k.e.inline.Add(-k.size)
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
		plain, err := e.options.Sealer.AppendOpen(nil, contentName(id), sealed)
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

func (l lost) Size() int64 { return l.size }

// A file is a row of chunks. Each is preceded by its length, and sealed under a name
// that has its number, and whether it is the last.
