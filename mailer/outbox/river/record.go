package river

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// seal makes the record of a message.
func (e *Engine) seal(m *outbox.Message) ([]byte, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return e.Sealer.AppendSeal(nil, "message/"+m.ID, plain)
}

// unseal makes the message of a record. The column is the one that tells its state.
func (e *Engine) unseal(id string, state outbox.State, record []byte) (*outbox.Message, error) {
	plain, err := e.Sealer.AppendOpen(nil, "message/"+id, record)
	if err != nil {
		return nil, fmt.Errorf("the record of message %s does not open: %w", id, err)
	}
	var m outbox.Message
	if err := json.Unmarshal(plain, &m); err != nil {
		return nil, fmt.Errorf("the record of message %s: %w", id, err)
	}
	m.State = state
	return &m, nil
}

// clone is for those who may change a message that is not theirs.
func clone(m *outbox.Message) (*outbox.Message, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	var c outbox.Message
	return &c, json.Unmarshal(plain, &c)
}

// callerDigest is what messages of a caller are found by: its name may be an address.
func callerDigest(kind, name string) []byte {
	sum := sha256.Sum256([]byte(kind + "\x00" + name))
	return sum[:]
}

// stamp is a time as a column has it: nil for none.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// waits reports whether a message in a state waits to be handed out.
func waits(s outbox.State) bool { return s == outbox.StateQueued || s == outbox.StateScheduled }

// change is a new version of a message that replaces the one of a generation.
type change struct {
	m          *outbox.Message
	generation int64 // of the version before
	job        int64 // of the version before; zero for none
	record     []byte
}

// write is the part of a transaction that stores a change, with the job and the
// content that go with its state. Where selects the row; its parameters begin at $9.
// It reports whether there was one.
func (e *Engine) write(ctx context.Context, tx pgx.Tx, c *change, where string, args ...any) (bool, error) {
	m := c.m
	var job *int64
	if waits(m.State) {
		id, err := e.insertJob(ctx, tx, m, c.generation+1)
		if err != nil {
			return false, err
		}
		job = &id
	} else {
		m.Due = time.Time{}
	}
	var err error
	if c.record, err = e.seal(m); err != nil {
		return false, err
	}
	freed := ""
	if len(m.Idempotency) == 0 {
		freed = ", idempotency = NULL"
	}
	done, err := tx.Exec(ctx, `UPDATE messages SET state = $2, due = $3, expires = $4, forget = $5, generation = $6, job = $7, record = $8, owner = NULL`+freed+`
		WHERE id = $1 AND `+where,
		append([]any{m.ID, string(m.State), stamp(m.Due), stamp(m.Expires), stamp(m.Forget), c.generation + 1, job, c.record}, args...)...)
	if err != nil || done.RowsAffected() == 0 {
		return false, err
	}
	if m.State == outbox.StateSent {
		if _, err := tx.Exec(ctx, `DELETE FROM contents WHERE id = $1`, m.ID); err != nil {
			return false, err
		}
	}
	return true, e.deleteJob(ctx, tx, c.job)
}
