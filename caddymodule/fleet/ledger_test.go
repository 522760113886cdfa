//go:build fleet

package fleet

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// ledger stands before an authorization server and keeps book of every refresh
// token.
type ledger struct {
	server *tokenstest.Server
	// away is how long an answer is under way, when the server has acted.
	away time.Duration

	mu     sync.Mutex
	tokens map[string]*entry // by refresh token
	totals totals
	// early is how many refreshes came before half of the access token's life,
	// and the stagger of a fleet, had gone by.
	early int
	// latest is when the last refresh of each account came.
	latest map[int]time.Time
}

// entry is what is known of a refresh token.
type entry struct {
	account int
	issued  time.Time
	// presented is when it came first; zero: not yet.
	presented time.Time
	// next is what was last given for it.
	next *entry
	// cut is set when it came again though nobody has seen the next one: the
	// answer was cut off from the storage. Lost: it was refused then.
	cut, lost bool
}

// totals are the figures of a run.
type totals struct {
	posts, refreshes int
	// again counts requests with a token that was redeemed before.
	again int
	// cut counts refreshes whose answer did not reach the storage, and lost those
	// of them that were refused when they were tried again. Some are cut more
	// than once.
	cut, lost int
	// slowest is the longest time from a cut to an answer.
	slowest time.Duration
	// refused counts requests that were refused, for whatever reason.
	refused int
}

func newLedger(s *tokenstest.Server) *ledger {
	return &ledger{server: s, tokens: map[string]*entry{}, latest: map[int]time.Time{}}
}

// issue makes a grant for an account.
func (l *ledger) issue(account int, user string, at time.Time) (access, refresh string) {
	access, refresh = l.server.Issue(user, "smtp.send")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens[refresh] = &entry{account: account, issued: at}
	return access, refresh
}

// ServeHTTP passes a request on and books it with its answer.
func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	l.totals.posts++
	e := l.tokens[r.PostForm.Get("refresh_token")]
	if e != nil {
		l.presentLocked(e, now)
	}
	l.mu.Unlock()

	rec := httptest.NewRecorder()
	l.server.ServeHTTP(rec, r)
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	_ = json.Unmarshal(rec.Body.Bytes(), &answer)

	l.mu.Lock()
	if rec.Code == http.StatusOK && e != nil {
		l.totals.refreshes++
		e.next = &entry{account: e.account, issued: now}
		l.tokens[answer.RefreshToken] = e.next
		if e.cut {
			l.totals.slowest = max(l.totals.slowest, now.Sub(e.presented))
		}
	} else {
		l.totals.refused++
		if e != nil && e.cut && !e.lost {
			e.lost = true
			l.totals.lost++
		}
	}
	l.mu.Unlock()
	time.Sleep(l.away) // the answer's way through the network
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

func (l *ledger) presentLocked(e *entry, now time.Time) {
	l.latest[e.account] = now
	if e.presented.IsZero() {
		e.presented = now
		// Half of the life less 7 percent, and a little for the clocks.
		if now.Sub(e.issued) < l.server.Life*42/100 {
			l.early++
		}
		return
	}
	l.totals.again++
	if !e.cut && e.next != nil && e.next.presented.IsZero() {
		e.cut = true
		l.totals.cut++
	}
}

func (l *ledger) figures() totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals
}

// tooEarly returns how many refreshes came before they were due.
func (l *ledger) tooEarly() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.early
}

// refreshedSince reports how many accounts were refreshed after a time.
func (l *ledger) refreshedSince(at time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, last := range l.latest {
		if last.After(at) {
			n++
		}
	}
	return n
}
