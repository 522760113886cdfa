package bolt

import (
	"errors"

	bbolt "go.etcd.io/bbolt"
)

// await lets a reader wait until the database has all changes until now.
func (e *Engine) await(o *op) {
	switch {
	case e.young.filled:
		o.until = e.young.number
	case e.old != nil:
		o.until = e.old.number
	default:
		o.finish(nil)
		return
	}
	e.readers = append(e.readers, o)
}

func (e *Engine) refuseReaders(err error) {
	for _, o := range e.readers {
		o.finish(err)
	}
	e.readers = nil
}

// answerReaders tells those for whom the database has enough with a generation.
func (e *Engine) answerReaders(number int) {
	waiting := e.readers[:0]
	for _, o := range e.readers {
		if o.until > number {
			waiting = append(waiting, o)
			continue
		}
		o.finish(nil)
	}
	e.readers = waiting
}

// look has f read a transaction that is not going to be committed, with all changes.
func (e *Engine) look(f func(*bbolt.Tx) error) (err, ferr error) {
	if err := e.awaitMerge(); err != nil && !isFull(err) {
		return err, nil
	}
	tx, err := e.db.Begin(true)
	if err != nil {
		return err, nil
	}
	e.noticeMade(tx)
	if e.old != nil {
		err = e.old.apply(tx)
	}
	if err == nil {
		err = e.young.apply(tx)
	}
	if err == nil {
		ferr = f(tx)
	}
	return errors.Join(err, tx.Rollback()), ferr
}
