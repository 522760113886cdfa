package tokens

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"
)

// shards is how many folders the records are spread over; see
// [Account.storageKey].
const shards = 256

// listTries is how often a folder is listed that is there and is said not to
// exist. File storages say so when a file vanishes while they list: the
// temporary file of a record that is stored at that moment.
const (
	listTries = 5
	listPause = 10 * time.Millisecond
)

// records lists the keys of all token records, folder by folder, each once. What
// else a storage lists is left out: folders, temporary files, files of others.
// Storages differ in what they say of a folder that holds nothing; any error
// here means that it is not known what there is.
//
// Recursive lists are not asked for: some storages have none, and none is paged.
func (s *Store) records(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		top, err := s.list(ctx, prefixTokens)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			yield("", fmt.Errorf("listing tokens: %w", err))
			return
		}
		for n := range shards {
			digits := fmt.Sprintf("%02x", n)
			keys, err := s.folder(ctx, digits, slices.Contains(top, prefixTokens+"/"+digits))
			for _, key := range keys {
				if !yield(key, nil) {
					return
				}
			}
			if err != nil && !yield("", fmt.Errorf("listing tokens: %w", err)) {
				return
			}
		}
	}
}

// folder lists the records of one folder. Exists says that it is known to exist.
func (s *Store) folder(ctx context.Context, digits string, exists bool) ([]string, error) {
	var records []string
	var err error
	for try := range listTries {
		if try > 0 {
			time.Sleep(listPause)
		}
		var keys []string
		keys, err = s.list(ctx, prefixTokens+"/"+digits)
		for _, k := range keys {
			if isRecordKey(k) && path.Base(k)[:2] == digits {
				records = append(records, k)
			}
		}
		missing := errors.Is(err, fs.ErrNotExist)
		if missing && !exists && len(keys) == 0 {
			err = nil
		}
		if !missing || err == nil {
			break
		}
	}
	slices.Sort(records)
	return slices.Compact(records), err
}

func (s *Store) list(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	return s.storage.List(ctx, prefix, false)
}

// loadSealed reads a record as it lies there.
func (s *Store) loadSealed(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	return s.storage.Load(ctx, key)
}

// isRecordKey tells the keys of records from what else a storage lists.
func isRecordKey(key string) bool {
	rest, ok := strings.CutPrefix(key, prefixTokens+"/")
	folder, name, slash := strings.Cut(rest, "/")
	hash, tok := strings.CutSuffix(name, ".tok")
	_, err := hex.DecodeString(hash)
	return ok && slash && tok && err == nil && len(hash) == 64 && hash == strings.ToLower(hash) && folder == hash[:2]
}

// HasRecords reports whether any token record is stored, whether it opens or
// not. It tells a first start from one that has lost its key.
func (s *Store) HasRecords(ctx context.Context) (bool, error) {
	for _, err := range s.records(ctx) {
		return err == nil, err
	}
	return false, nil
}
