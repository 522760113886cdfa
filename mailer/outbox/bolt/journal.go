package bolt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

const (
	journalFile = "journal"
	// journalSize bounds what a merge has to store. A transaction that is much larger
	// is slow: until it is committed bbolt keeps each page as one sorted list, whatever
	// it grows to.
	journalSize = 1 << 20

	saltSize    = 16
	entryHeader = saltSize + 4 + 4
)

// keyJournal is where the salt of the journal is, in the bucket meta.
var keyJournal = []byte("journal")

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journal is a file of changes that are durable and not in the database yet. It is
// written from its beginning on after each merge, and its blocks are on the disk
// already: to flush it is to write a few blocks, and nothing about the file.
//
// An entry is
//
//	0   salt, 16 octets
//	16  length of the changes, 4 octets
//	20  CRC-32C of what is before and of the changes, 4 octets
//	24  changes
//
// The salt is in the database, too, and another after each merge. An entry with any
// other is left from before, and so is all behind it.
type journal struct {
	file  *os.File
	salt  [saltSize]byte
	image []byte // what the file has, from its beginning to its end
	// spent is set when what is behind that is not known, or the salt is not.
	spent bool
}

// openJournal opens the journal of a folder, if there is one, and otherwise makes it
// where create says so.
func openJournal(folder string, create bool) (*journal, error) {
	name := filepath.Join(folder, journalFile)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !create:
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		if err := writeZeros(name, journalSize); err != nil {
			_ = os.Remove(name)
			return nil, fmt.Errorf("making the journal of the outbox: %w", err)
		}
		if err := syncFolder(folder); err != nil {
			return nil, fmt.Errorf("making the journal of the outbox: %w", err)
		}
		f, err = os.OpenFile(name, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the journal of the outbox: %w", err)
	}
	return &journal{file: f, spent: true, image: make([]byte, 0, journalSize)}, nil
}

// load reads the entries with a salt.
func (j *journal) load(salt []byte) error {
	all, err := io.ReadAll(io.NewSectionReader(j.file, 0, journalSize))
	if err != nil {
		return fmt.Errorf("reading the journal of the outbox: %w", err)
	}
	copy(j.salt[:], salt)
	j.image = append(j.image[:0], all...)
	whole := 0
	for changes := range j.entries() {
		whole += entryHeader + len(changes)
	}
	j.image = j.image[:whole]
	return nil
}

// entries yields the changes of one entry after the other, up to one that is not whole.
func (j *journal) entries() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := j.image; len(rest) >= entryHeader && bytes.Equal(rest[:saltSize], j.salt[:]); {
			end := entryHeader + int64(binary.BigEndian.Uint32(rest[saltSize:]))
			if end > int64(len(rest)) || binary.BigEndian.Uint32(rest[saltSize+4:]) != sum(rest[:end]) || !yield(rest[entryHeader:end:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// sum is the check sum of an entry.
func sum(entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(entry[:saltSize+4], castagnoli), castagnoli, entry[entryHeader:])
}

// entry returns where the next entry is made: an empty one, to which changes are
// appended.
func (j *journal) entry() []byte {
	if j == nil || j.spent || len(j.image)+entryHeader > cap(j.image) {
		return make([]byte, entryHeader)
	}
	return append(j.image, make([]byte, entryHeader)...)[len(j.image):]
}

// takes reports whether there is room for an entry.
func (j *journal) takes(entry []byte) bool {
	return j != nil && !j.spent && len(j.image)+len(entry) <= journalSize
}

// add makes an entry durable.
func (j *journal) add(entry []byte, sync func(*os.File) error) error {
	copy(entry, j.salt[:])
	binary.BigEndian.PutUint32(entry[saltSize:], uint32(len(entry)-entryHeader))
	binary.BigEndian.PutUint32(entry[saltSize+4:], sum(entry))
	_, err := j.file.WriteAt(entry, int64(len(j.image)))
	if err == nil {
		err = sync(j.file)
	}
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.image = append(j.image, entry...)
	return nil
}

// restart begins anew, with a salt that is in the database.
func (j *journal) restart(salt []byte) {
	copy(j.salt[:], salt)
	j.image, j.spent = j.image[:0], false
}

func (j *journal) close() {
	if j != nil && j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
}

// reopen opens the file again, if there is a journal and it is closed.
func (j *journal) reopen(folder string) error {
	if j == nil || j.file != nil {
		return nil
	}
	again, err := openJournal(folder, true)
	if err != nil {
		return err
	}
	j.file, j.spent = again.file, true
	return nil
}

func newSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // it never fails
	return salt
}
