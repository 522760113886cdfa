package bolt

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

const (
	// journalSize is the most that a journal has. What comes and goes within one is never
	// written to the database; and what it has a merge takes into memory.
	journalSize = 4 << 20

	saltSize    = 16
	entryHeader = saltSize + 4 + 4
)

// journalFiles take turns. Of the two journals one is written to while the other is merged.
var journalFiles = [2]string{"journal.1", "journal.2"}

// oneJournal is the only one in folders of versions that had one.
const oneJournal = "journal"

// keyJournal is where the salt of the oldest journal is that is not merged, in the bucket
// meta.
var keyJournal = []byte("journal")

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type salt [saltSize]byte

func newSalt() (s salt) {
	_, _ = rand.Read(s[:]) // it never fails
	return s
}

// following is the salt of the journal that follows on one of so many octets. Behind one
// that has lost some no other is found, whose changes would come on top of a gap.
func (s salt) following(size int) salt {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(s[:], uint64(size)))
	return salt(sum[:])
}

// journals are files of changes that are durable and not in the database yet. Each is
// written from its beginning on, and its blocks are on the disk already: to flush it is to
// write a few blocks, and nothing about the file.
//
// An entry is
//
//	0   salt, 16 octets
//	16  length of the changes, 4 octets
//	20  CRC-32C of what is before and of the changes, 4 octets
//	24  changes
//
// An entry with any other salt is left from before, and so is all behind it.
type journals struct {
	files [2]*os.File
	limit int // octets in each
	turn  int // which is written to
	salt  salt
	size  int // octets in it
	// spent is set when what is behind those is not known, or the salt is not. Nothing is
	// written then until the database has all changes, and a new salt.
	spent bool
	// tried is the salt that a merge was to bring that failed.
	tried *salt
}

// openJournals opens the journals of a folder, or makes them, where nothing is in them
// that the database has not.
func openJournals(folder string, limit int) (*journals, error) {
	j := &journals{limit: limit}
	return j, j.reopen(folder)
}

// makeJournals makes those that are missing, or not of the right size.
func makeJournals(folder string, limit int) error {
	made := false
	for _, name := range journalFiles {
		name = filepath.Join(folder, name)
		if info, err := os.Stat(name); err == nil && info.Size() == int64(limit) {
			continue
		}
		if err := writeZeros(name, int64(limit)); err != nil {
			if info, serr := os.Lstat(name); serr == nil && info.Mode().IsRegular() {
				_ = os.Remove(name)
			}
			return fmt.Errorf("making a journal of the outbox: %w", err)
		}
		made = true
	}
	if made {
		if err := syncFolder(folder); err != nil {
			return fmt.Errorf("making the journals of the outbox: %w", err)
		}
	}
	return nil
}

// reopen opens the files, if there are journals and they are closed. What they should have
// is in memory then, or in the database.
func (j *journals) reopen(folder string) error {
	if j == nil || j.files[0] != nil {
		return nil
	}
	j.spent = true
	if err := makeJournals(folder, j.limit); err != nil {
		return err
	}
	for i, name := range journalFiles {
		f, err := os.OpenFile(filepath.Join(folder, name), os.O_RDWR, 0)
		if err != nil {
			j.close()
			return fmt.Errorf("opening a journal of the outbox: %w", err)
		}
		j.files[i] = f
	}
	return nil
}

func (j *journals) close() {
	if j == nil {
		return
	}
	for i, f := range j.files {
		if f != nil {
			_ = f.Close()
			j.files[i] = nil
		}
	}
}

// usable reports whether an entry can be written to a journal that is empty.
func (j *journals) usable(entry []byte) bool { return j != nil && !j.spent && len(entry) <= j.limit }

// full reports whether there is no room for an entry.
func (j *journals) full(entry []byte) bool { return j.size+len(entry) > j.limit }

// add makes an entry durable. After an error the journals are spent.
func (j *journals) add(entry []byte, sync func(*os.File) error) error {
	copy(entry, j.salt[:])
	binary.BigEndian.PutUint32(entry[saltSize:], uint32(len(entry)-entryHeader))
	binary.BigEndian.PutUint32(entry[saltSize+4:], sum(entry))
	_, err := j.files[j.turn].WriteAt(entry, int64(j.size))
	if err == nil {
		err = sync(j.files[j.turn])
	}
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.size += len(entry)
	return nil
}

// next goes on in the other file.
func (j *journals) next() {
	j.salt, j.size, j.turn = j.salt.following(j.size), 0, 1-j.turn
}

// restart begins anew, with a salt that is in the database.
func (j *journals) restart(s salt) { j.salt, j.size, j.spent, j.tried = s, 0, false, nil }

// sum is the check sum of an entry.
func sum(entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(entry[:saltSize+4], castagnoli), castagnoli, entry[entryHeader:])
}

// entries yields the changes of one entry of a journal after the other, up to one that is
// not whole.
func (s salt) entries(journal []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := journal; len(rest) >= entryHeader && bytes.Equal(rest[:saltSize], s[:]); {
			end := entryHeader + int64(binary.BigEndian.Uint32(rest[saltSize:]))
			if end > int64(len(rest)) || binary.BigEndian.Uint32(rest[saltSize+4:]) != sum(rest[:end]) || !yield(rest[entryHeader:end:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// readJournals returns what the journals of a folder have, and whether one is missing.
func readJournals(folder string) (all [][]byte, missing bool, err error) {
	for i, name := range append(journalFiles[:], oneJournal) {
		octets, err := os.ReadFile(filepath.Join(folder, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = missing || i < len(journalFiles)
		case err != nil:
			return nil, false, fmt.Errorf("reading a journal of the outbox: %w", err)
		default:
			all = append(all, octets)
			missing = missing && name != oneJournal
		}
	}
	return all, missing, nil
}
