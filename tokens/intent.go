package tokens

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"
)

// prefixIntents holds one sealed record per instance: whose refresh tokens it
// is presenting just now.
const prefixIntents = "oauth_mail/intents"

const (
	// intentBeat is how often an instance shows that it still works on what it
	// has noted, where that takes long.
	intentBeat = 2500 * time.Millisecond
	// intentSilence is how long a record is the same until its instance counts as
	// dead.
	intentSilence = 5 * time.Second
	// intentKeep is how long a settled record lies before it is deleted.
	intentKeep = time.Minute
	// intentLife is how long an intent matters: no provider's grace is that long.
	intentLife = time.Hour
	// intentVersion is the version of the JSON inside the record.
	intentVersion = 1
)

// intent notes that an account's refresh token is about to be presented. A
// process that dies between the provider's answer and the storage has lost the
// next one; some providers take the old one again for some seconds.
type intent struct {
	Account    Account   `json:"account"`
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`
}

// intents are this instance's, and what is known of the others'. One write
// covers all that wait for it; what is done is left out of the next one.
type intents struct {
	store *Store
	key   string

	mu    sync.Mutex
	noted map[Account]*noted
	// cut are the accounts whose refreshes are being taken up here.
	cut map[Account]bool
	// batch is the next write; nil while nobody waits for one.
	batch *intentBatch
	// writing is set while one is under way, wrote is when the last one ended,
	// and lies is set while there is a record in the storage.
	writing bool
	wrote   time.Time
	lies    bool

	reading sync.Mutex // held by who reads the others' records
	others  map[string]*otherIntents
}

type noted struct {
	intent
	durable bool
	// presented is set when the refresh has begun: only its end makes it done.
	presented bool
	done      bool
	// failed is set when it is done in vain: the stored token is still the one
	// that it began with, as if it had been cut short.
	failed bool
}

func newIntents(s *Store) *intents {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return &intents{
		store: s, key: prefixIntents + "/" + hex.EncodeToString(id[:]) + ".int",
		noted: map[Account]*noted{}, cut: map[Account]bool{}, others: map[string]*otherIntents{},
	}
}

// note returns when the intents are stored.
func (n *intents) note(list ...intent) error {
	b := n.begin(list...)
	if b == nil {
		return nil
	}
	<-b.done
	return b.err
}

// present is note for a refresh that begins; done ends it.
func (n *intents) present(i intent) error {
	b := n.begin(i)
	n.mu.Lock()
	if own := n.noted[i.Account]; own != nil {
		own.presented = true
	}
	n.mu.Unlock()
	if b == nil {
		return nil
	}
	<-b.done
	return b.err
}

// begin has intents stored and returns the write to wait for; nil if they are.
func (n *intents) begin(list ...intent) *intentBatch {
	n.mu.Lock()
	defer n.mu.Unlock()
	missing := false
	for _, i := range list {
		if old := n.noted[i.Account]; old == nil || old.done || old.Generation != i.Generation {
			n.noted[i.Account] = &noted{intent: i}
		}
		missing = missing || !n.holdsLocked(i)
	}
	if !missing {
		return nil
	}
	return n.writeLocked()
}

// holds reports whether an intent is stored.
func (n *intents) holds(i intent) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.holdsLocked(i)
}

func (n *intents) holdsLocked(i intent) bool {
	old := n.noted[i.Account]
	return old != nil && old.durable && !old.done && old.Generation == i.Generation
}

// knows reports whether the refreshes of accounts are noted, or about to be.
func (n *intents) knows(sources []*Source) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range sources {
		if i := n.noted[s.account]; i == nil || i.done {
			return false
		}
	}
	return true
}

// takeUp says that an account's refresh is being taken up, until the func that
// it returns is called.
func (n *intents) takeUp(a Account) (end func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[a] = true
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.cut, a)
	}
}

// takingUp reports whether an account's refresh is being taken up.
func (n *intents) takingUp(a Account) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[a]
}

// done says that an account's refresh is over. Nothing is written for that.
func (n *intents) done(a Account, failed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := n.noted[a]; i != nil {
		i.done, i.failed = true, failed
	}
}

// withdraw says that an account's refresh will not be made, unless it has begun.
func (n *intents) withdraw(a Account) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := n.noted[a]; i != nil && !i.presented {
		i.done = true
	}
}
