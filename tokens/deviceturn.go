package tokens

import (
	"sync"
	"time"
)

// deviceTurns has the device codes that were asked about in this process: one
// poll each at a time, and none before its time, though an old session comes
// again. Its zero value is ready.
type deviceTurns struct {
	mu    sync.Mutex
	codes map[string]deviceTurn // by the device code's digest
}

// deviceTurn is the newest session of a device code, opened and sealed.
type deviceTurn struct {
	deviceSession
	sealed string
	// busy: a poll is under way.
	busy bool
}

// enter returns the newest session that is known of the device code of the given
// one. Ok is false while another poll is under way; else leave has to follow.
func (d *deviceTurns) enter(s deviceSession, sealed string, now time.Time) (turn deviceTurn, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, t := range d.codes {
		if !t.busy && !now.Before(t.Expires) {
			delete(d.codes, key)
		}
	}
	key := stateKey(s.DeviceCode)
	turn, known := d.codes[key]
	if turn.busy {
		return turn, false
	}
	if !known || s.Next.After(turn.Next) { // another instance may have asked
		turn = deviceTurn{deviceSession: s, sealed: sealed}
	}
	turn.busy = true
	if d.codes == nil {
		d.codes = map[string]deviceTurn{}
	}
	d.codes[key] = turn
	return turn, true
}

// leave ends a turn, with the session as it is then.
func (d *deviceTurns) leave(turn *deviceTurn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	turn.busy = false
	d.codes[stateKey(turn.DeviceCode)] = *turn
}
