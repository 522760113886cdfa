package bolt

import (
	"bytes"
	"fmt"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// A sealer that seals with one key after the other says with which it seals now. Only
// then an engine knows whether keys that it sealed with before are needed still.
type keyed interface{ KeyID() string }

// keyID names the key that is sealed with.
func (e *Engine) keyID() string {
	if k, ok := e.options.Sealer.(keyed); ok {
		return k.KeyID()
	}
	return ""
}

// checkKey is where the value is by which a key is known that was sealed with.
func checkKey(id string) []byte { return append(bytes.Clone(keyCheck), id...) }

// opened has the transaction store what check does, if there is any.
func (b *batch) opened() error {
	b.dirty = b.dirty || !b.e.checked[b.e.keyID()] || len(b.e.needless) > 0
	return nil
}

// check stores that value, for the key that is sealed with now, unless it is there.
func (b *batch) check() {
	id := b.e.keyID()
	if b.e.checked[id] && len(b.e.needless) == 0 {
		return
	}
	sealed, err := b.e.options.Sealer.AppendSeal(nil, checkName, []byte(checkName))
	if err != nil {
		b.e.log().Warn("the outbox could not note the key that it seals with", "error", err)
		return
	}
	for _, k := range b.e.needless {
		b.remove(b.meta, k)
	}
	b.set(b.meta, checkKey(id), sealed)
	b.after(func() {
		b.e.checked[id] = true
		b.e.needless = nil
	})
}

// checkKeys tells whether the sealer has the keys of what is stored, and returns the
// values of those that nothing needs any more.
func (e *Engine) checkKeys(tx *bbolt.Tx) (needless [][]byte, err error) {
	var missing error
	checked := map[string]bool{}
	c := tx.Bucket(bucketMeta).Cursor()
	for k, v := c.Seek(keyCheck); bytes.HasPrefix(k, keyCheck); k, v = c.Next() {
		if _, err := e.options.Sealer.AppendOpen(nil, checkName, v); err != nil {
			missing = err
			needless = append(needless, bytes.Clone(k))
			continue
		}
		if id := string(k[len(keyCheck):]); id != "" {
			checked[id] = true
		}
	}
	if missing != nil && !e.opens(tx) {
		return nil, fmt.Errorf("the key that it was sealed with is missing: %w; bring that key back, as a further encryption_key, or move the folder of the outbox away and lose the messages in it", missing)
	}
	e.checked = checked
	return needless, nil
}

// opens reports whether all that is stored can be opened.
func (e *Engine) opens(tx *bbolt.Tx) bool {
	contents := tx.Bucket(bucketContents)
	err := tx.Bucket(bucketMessages).ForEach(func(k, v []byte) error {
		id := string(k)
		_, h, err := e.open(id, v)
		if err != nil {
			return err
		}
		return e.peek(id, &h, contents.Get(k))
	})
	if err == nil {
		err = tx.Bucket(bucketLanes).ForEach(func(k, v []byte) error {
			tenant, _, ok := counted(k, 2)
			if !ok {
				return errDamaged
			}
			_, err := e.options.Sealer.AppendOpen(nil, laneName(string(tenant)), v)
			return err
		})
	}
	return err == nil
}

// peek opens the beginning of a content. One that is lost needs no key.
func (e *Engine) peek(id string, h *header, sealed []byte) error {
	s, err := e.source(id, h, sealed)
	if err != nil {
		if h.kept == keptInline {
			return err
		}
		return nil
	}
	if _, ok := s.(fileSource); !ok {
		return nil
	}
	return read(s)
}

func read(s mailer.Source) error {
	r, err := s.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Read(make([]byte, 1))
	return err
}
