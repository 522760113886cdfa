package endurance

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// Ledger keeps book of messages: what was posted, what was answered, what arrived.
// It may be used concurrently.
type Ledger struct {
	mu      sync.Mutex
	entries []entry
	// strangers are messages that nobody posted.
	strangers int
	statuses  map[int]int
}

// entry is a message. Its number is its subject.
type entry struct {
	size     int
	status   int // of the answer, or the code of a reply; 0: there was none
	refused  bool
	sent     bool
	arrivals int
	damaged  bool
	// early is set where it was said to be sent before it arrived.
	early bool
}

// Figures sum a ledger up. A message is accepted that was answered with 2xx, by HTTP
// or by SMTP.
type Figures struct {
	Posted, Accepted, Arrived int
	// Lost were accepted and never arrived, Again arrived more than once, by how
	// many copies; Unwanted arrived though they were refused, or were never posted.
	Lost, Again, Unwanted int
	// Damaged arrived with another content, Early were called sent while they had
	// not arrived.
	Damaged, Early int
	// Statuses counts answers, and replies of SMTP; 0 is none.
	Statuses map[int]int
	// Missing are the first of those lost.
	Missing []int
}

func (f Figures) String() string {
	return fmt.Sprintf("%d posted, %d accepted, %d arrived: %d lost %v, %d copies too many, %d unwanted, %d damaged, %d called sent too early; answers %v",
		f.Posted, f.Accepted, f.Arrived, f.Lost, f.Missing, f.Again, f.Unwanted, f.Damaged, f.Early, f.Statuses)
}

// open enters a message with a text of about that many octets.
func (l *Ledger) open(size int) (number int, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry{size: size})
	number = len(l.entries) - 1
	return number, content(number, size)
}

// content is a text of lines that no two messages share.
func content(number, size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%d/%d ....................................................\n", number, i)
	}
	return b.String()
}

// answered enters the answer to a message; status 0 is none. Sent tells that the
// answer called it sent.
func (l *Ledger) answered(number, status int, sent bool) {
	refused := status >= http.StatusBadRequest && status < http.StatusInternalServerError || status == http.StatusInsufficientStorage
	l.enter(number, status, refused, sent)
}

// replied enters the reply of SMTP to a message; code 0 is none.
func (l *Ledger) replied(number, code int) { l.enter(number, code, code >= 400, false) }

func (l *Ledger) enter(number, status int, refused, sent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.entries[number]
	e.status, e.refused, e.sent = status, refused, sent
	e.early = sent && e.arrivals == 0
	if l.statuses == nil {
		l.statuses = make(map[int]int)
	}
	l.statuses[status]++
}

// Arrived enters a message that came out at the other end.
func (l *Ledger) Arrived(m mailertest.Message) {
	head, text, _ := strings.Cut(m.Data, "\r\n\r\n")
	number := -1
	if _, rest, ok := strings.Cut(head, "\r\nSubject: message "); ok {
		subject, _, _ := strings.Cut(rest, "\r\n")
		if n, err := strconv.Atoi(subject); err == nil {
			number = n
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if number < 0 || number >= len(l.entries) {
		l.strangers++
		return
	}
	e := &l.entries[number]
	e.arrivals++
	e.damaged = e.damaged || text != strings.ReplaceAll(content(number, e.size), "\n", "\r\n")
}

// Figures counts.
func (l *Ledger) Figures() Figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := Figures{Posted: len(l.entries), Unwanted: l.strangers, Statuses: maps.Clone(l.statuses)}
	for number, e := range l.entries {
		f.Arrived += min(e.arrivals, 1)
		f.Again += max(0, e.arrivals-1)
		if e.damaged {
			f.Damaged++
		}
		if e.early {
			f.Early++
		}
		switch {
		case e.status >= 200 && e.status < 300:
			f.Accepted++
			if e.arrivals == 0 {
				f.Lost++
				if len(f.Missing) < 10 {
					f.Missing = append(f.Missing, number)
				}
			}
		case e.refused && e.arrivals > 0:
			f.Unwanted++
		}
	}
	return f
}

// Check fails the test where not everything has come out even, but for so many
// copies.
func (f Figures) Check(t testing.TB, copies int) {
	t.Helper()
	if f.Lost != 0 || f.Unwanted != 0 || f.Damaged != 0 || f.Early != 0 {
		t.Errorf("messages were lost, sent unasked, damaged, or said to be sent: %v", f)
	}
	if f.Again > copies {
		t.Errorf("%d copies too many, at most %d could be on their way", f.Again, copies)
	}
	if f.Statuses[http.StatusOK] == 0 || f.Statuses[http.StatusAccepted] == 0 || f.Statuses[http.StatusForbidden] == 0 {
		t.Errorf("not all kinds of answers have come: %v", f.Statuses)
	}
}

// CheckReplies fails the test where SMTP did not have its part.
func (f Figures) CheckReplies(t testing.TB) {
	t.Helper()
	if f.Statuses[250] == 0 || f.Statuses[553] == 0 {
		t.Errorf("not all kinds of replies have come: %v", f.Statuses)
	}
}
