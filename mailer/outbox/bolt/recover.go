package bolt

import (
	"fmt"
	"os"
	"path/filepath"

	bbolt "go.etcd.io/bbolt"
)

// recover has the database make up for what is in the journals alone, after a crash. They
// have nothing then that counts.
func (e *Engine) recover(db *bbolt.DB) error {
	var oldest []byte
	err := db.View(func(tx *bbolt.Tx) error {
		oldest = append(oldest, tx.Bucket(bucketMeta).Get(keyJournal)...)
		return nil
	})
	if err != nil || len(oldest) != saltSize {
		return err
	}
	found, missing, err := readJournals(e.folder)
	if err != nil {
		return err
	}
	if missing {
		return &damageError{"a journal of it is missing, which has messages that were accepted last"}
	}
	all, err := generations(salt(oldest), found)
	if err == nil {
		m := e.mergeInto(db, nil, all...)
		if isFull(m.err) {
			_ = os.Remove(filepath.Join(e.folder, reserveFile))
			m = e.mergeInto(db, nil, all...)
		}
		err = m.err
	}
	if err != nil {
		return fmt.Errorf("storing what is in the journals: %w", err)
	}
	_ = os.Remove(filepath.Join(e.folder, oneJournal)) // else it is passed over
	return nil
}

// generations returns what journals have, the oldest first: one with a salt, and the one
// that follows on it.
func generations(s salt, journals [][]byte) (all []*generation, err error) {
	for range maxLayers {
		g, size := newGeneration(0), 0
		for _, j := range journals {
			for changes := range s.entries(j) {
				if err := g.redo(changes); err != nil {
					return nil, err
				}
				size += entryHeader + len(changes)
			}
			if size > 0 {
				break
			}
		}
		if size == 0 {
			break
		}
		all = append(all, g)
		s = s.following(size)
	}
	return all, nil
}
