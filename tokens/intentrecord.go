package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// intentRecord is an instance's intents as they are stored.
type intentRecord struct {
	Version int `json:"version"`
	// Written makes each record another one.
	Written time.Time `json:"written"`
	Intents []intent  `json:"intents"`
}

// intentBatch is a write that any number of refreshes wait for.
type intentBatch struct {
	done chan struct{} // closed when err is set
	err  error
}

// writeLocked joins the next write, and sees to it that it comes.
func (n *intents) writeLocked() *intentBatch {
	b := n.batch
	if b == nil {
		b = &intentBatch{done: make(chan struct{})}
		n.batch = b
	}
	if !n.writing {
		n.writing = true
		go n.write()
	}
	return b
}

// write writes until nobody waits for it.
func (n *intents) write() {
	for {
		n.mu.Lock()
		b := n.batch
		if b == nil {
			n.writing = false
			n.mu.Unlock()
			return
		}
		n.batch = nil
		var open []*noted
		for a, i := range n.noted {
			if i.done {
				delete(n.noted, a)
				continue
			}
			open = append(open, i)
		}
		n.mu.Unlock()
		err := n.save(open)
		n.mu.Lock()
		n.wrote = time.Now()
		if err == nil {
			n.lies = len(open) > 0
			for _, i := range open {
				i.durable = true
			}
		}
		n.mu.Unlock()
		b.err = err
		close(b.done)
	}
}

// save stores the record; an empty one is deleted.
func (n *intents) save(open []*noted) (err error) {
	defer func() {
		if p := recover(); p != nil { // the storage's
			err = fmt.Errorf("storing intents: panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), storageTimeout)
	defer cancel()
	if len(open) == 0 {
		if err := n.store.storage.Delete(ctx, n.key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting intents: %w", err)
		}
		return nil
	}
	r := intentRecord{Version: intentVersion, Written: time.Now().UTC()}
	for _, i := range open {
		r.Intents = append(r.Intents, i.intent)
	}
	plain, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding intents: %w", err)
	}
	ring, err := n.store.keys()
	if err != nil {
		return err
	}
	sealed, err := ring.Seal(n.key, plain)
	if err != nil {
		return fmt.Errorf("sealing intents: %w", err)
	}
	if err := n.store.storage.Store(ctx, n.key, sealed); err != nil {
		return fmt.Errorf("storing intents: %w", err)
	}
	return nil
}

// beat writes the record anew while something in it takes long, so that others
// don't take this instance for dead, or has failed, so that they don't take that
// for cut short; and deletes it when all is done. It is to be called each
// intentBeat.
func (n *intents) beat() {
	n.mu.Lock()
	defer n.mu.Unlock()
	urgent, open := n.openLocked()
	quiet := time.Since(n.wrote)
	if urgent && quiet >= intentBeat/2 || !open && n.lies && quiet >= intentKeep/2 {
		n.writeLocked() // nobody waits for it
	}
}

// openLocked reports whether a refresh is open, and whether the record is to be
// written anew soon.
func (n *intents) openLocked() (urgent, open bool) {
	for _, i := range n.noted {
		open = open || !i.done
		urgent = urgent || !i.done || i.failed && i.durable
	}
	return urgent, open
}

// leave deletes the record, if nothing is open in it.
func (n *intents) leave() {
	n.mu.Lock()
	_, open := n.openLocked()
	if open || !n.lies {
		n.mu.Unlock()
		return
	}
	b := n.writeLocked()
	n.mu.Unlock()
	<-b.done
}
