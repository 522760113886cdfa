//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	someone = "someone@example.net"
	another = "another@example.net"
	nobody  = "refused@example.net"
	busy    = "later@example.net"
)

// shapeDoorsOf makes doors for all shapes of a transaction that servers have.
func shapeDoorsOf(t testing.TB) []*door {
	t.Helper()
	return slices.Concat(doorsOf(t, onPostfix, shapeDoors...), doorsOf(t, onExim, shapeDoors...), doorsOf(t, onSMTPServer, shapeDoors...))
}

// errorOf returns the error of a submission that must fail.
func errorOf(t testing.TB, what string, err error) *mailer.Error {
	t.Helper()
	e, ok := errors.AsType[*mailer.Error](err)
	if !ok {
		t.Fatalf("%s: error %v", what, err)
	}
	return e
}

func kindsOf(out []mailer.RecipientOutcome) []mailer.Kind {
	var kinds []mailer.Kind
	for _, o := range out {
		kinds = append(kinds, o.Kind)
	}
	return kinds
}

// All shapes of a transaction, at all servers: what they take arrives, octet for
// octet; what they refuse does not; and the connection serves the next message.
func TestTransactions(t *testing.T) {
	t.Parallel()
	const small, medium, large = 1 << 10, 300 << 10, 10 << 20 // one flight, more than one, many writes
	tests := []struct {
		name    string
		from    string
		to      []string
		all     bool
		fields  string
		sizes   []int
		kinds   []mailer.Kind
		arrives []string
		stage   mailer.Stage
		kind    mailer.Kind
		code    int
		anew    bool // the connection is not used again
		not     string
	}{
		{name: "taken", to: []string{someone, another, "third@example.net"}, sizes: []int{small, medium, large}, kinds: []mailer.Kind{0, 0, 0}, arrives: []string{someone, another, "third@example.net"}},
		{name: "taken, all wanted", to: []string{someone, another}, all: true, sizes: []int{small, medium}, kinds: []mailer.Kind{0, 0}, arrives: []string{someone, another}},
		{name: "one refused", to: []string{someone, nobody, another}, sizes: []int{small, medium}, kinds: []mailer.Kind{0, mailer.KindRejected, 0}, arrives: []string{someone, another}},
		{name: "first and last refused", to: []string{nobody, someone, busy}, sizes: []int{small, medium}, kinds: []mailer.Kind{mailer.KindRejected, 0, mailer.KindTemporary}, arrives: []string{someone}},
		{
			name: "one refused, all wanted", to: []string{someone, nobody, another}, all: true, sizes: []int{small, medium},
			kinds: []mailer.Kind{0, mailer.KindRejected, 0}, stage: mailer.StageRcpt, kind: mailer.KindRejected, code: 550,
		},
		{
			name: "one later, all wanted", to: []string{someone, another, busy}, all: true, sizes: []int{small, medium},
			kinds: []mailer.Kind{0, 0, mailer.KindTemporary}, stage: mailer.StageRcpt, kind: mailer.KindTemporary, code: 450,
		},
		{
			name: "all refused", to: []string{nobody, busy}, sizes: []int{small, medium, large},
			kinds: []mailer.Kind{mailer.KindRejected, mailer.KindTemporary}, stage: mailer.StageRcpt, kind: mailer.KindTemporary, code: 550,
		},
		{name: "sender refused", from: "refused@example.com", to: []string{someone, nobody, another}, sizes: []int{small, medium}, stage: mailer.StageMail, kind: mailer.KindRejected, code: 553},
		{name: "sender refused, all wanted", from: "refused@example.com", to: []string{someone, another}, all: true, sizes: []int{small, medium}, stage: mailer.StageMail, kind: mailer.KindRejected, code: 553},
		{
			name: "sender refused late", from: "late@example.com", to: []string{someone, another}, sizes: []int{small, medium}, not: onSMTPServer,
			kinds: []mailer.Kind{mailer.KindRejected, mailer.KindRejected}, stage: mailer.StageRcpt, kind: mailer.KindRejected, code: 553,
		},
		{
			name: "content refused", to: []string{someone, another}, fields: "X-Refuse: yes\r\n", sizes: []int{small, medium},
			kinds: []mailer.Kind{0, 0}, stage: mailer.StageFinal, kind: mailer.KindRejected, anew: true,
		},
	}
	doors := shapeDoorsOf(t)
	l := startLab(t, doors...)
	var mu sync.Mutex
	arrivals := 0
	t.Run("doors", func(t *testing.T) {
		for _, d := range doors {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				c := l.newClient(t, d, nil)
				connections := 1
				type sent struct {
					what string
					letter
					to []string
				}
				var taken []sent
				for _, tt := range tests {
					if tt.not == d.server {
						continue
					}
					for _, size := range tt.sizes {
						what := fmt.Sprintf("%s, %d octets", tt.name, size)
						m := newLetterOf(size, tt.fields)
						flights := c.flights.Load()
						r, err := c.Submit(t.Context(), c.envelope(t, tt.from, tt.to...), m, mailer.Options{AllRecipients: tt.all})
						flights = c.flights.Load() - flights
						out := r.Recipients
						if tt.stage == "" {
							if err != nil {
								t.Fatalf("%s: %v", what, err)
							}
							if r.Reply.Code != 250 || r.Status != mailer.StatusSent || d.server != onSMTPServer && r.QueueID == "" {
								t.Errorf("%s: receipt %+v", what, r)
							}
							// Behind the first message the connection is there.
							if want := d.flights(len(tt.to), m.Size(), tt.all); len(taken) > 0 && flights != int64(want) {
								t.Errorf("%s: %d flights, want %d", what, flights, want)
							}
							taken = append(taken, sent{what, m, tt.arrives})
						} else {
							e := errorOf(t, what, err)
							if out = e.Recipients; e.Stage != tt.stage || e.Kind != tt.kind || tt.code != 0 && e.Reply.Code != tt.code {
								t.Errorf("%s: %s %s: %v; want %s %s, code %d", what, e.Stage, e.Kind, e, tt.stage, tt.kind, tt.code)
							}
						}
						if got := kindsOf(out); !slices.Equal(got, tt.kinds) {
							t.Errorf("%s: recipients %v, want %v", what, got, tt.kinds)
						}
						if tt.anew {
							connections++
						}
						// The next message comes over what is there.
						m = newLetterOf(small, "")
						if _, err := c.Submit(t.Context(), c.envelope(t, "", someone), m, mailer.Options{}); err != nil {
							t.Fatalf("the message after %s: %v", what, err)
						}
						taken = append(taken, sent{"the message after " + what, m, []string{someone}})
					}
				}
				for _, s := range taken {
					c.checkArrived(t, s.what, s.letter, s.to...)
				}
				c.checkConnections(t, connections)
				mu.Lock()
				arrivals += len(taken)
				mu.Unlock()
			})
		}
	})
	if n := len(l.mailbox.all()); n != arrivals {
		t.Errorf("%d messages were delivered, want %d: what was refused arrived", n, arrivals)
	}
	l.checkManners(t)
}

// A server may refuse the message when content is to begin. Exim has no say there
// with CHUNKING.
func TestContentNotWanted(t *testing.T) {
	t.Parallel()
	doors := slices.Concat(doorsOf(t, onPostfix, shapeDoors...), doorsOf(t, onExim, shapeDoors[:2]...))
	l := startLab(t, doors...)
	for _, d := range doors {
		c := l.newClient(t, d, nil)
		for _, size := range []int{1 << 10, 300 << 10} {
			what := fmt.Sprintf("%s, %d octets", d.name, size)
			_, err := c.Submit(t.Context(), c.envelope(t, "nodata@example.com", someone), newLetterOf(size, ""), mailer.Options{})
			if e := errorOf(t, what, err); e.Kind != mailer.KindRejected || e.Reply.Code != 554 || e.Stage != mailer.StageData && e.Stage != mailer.StageFinal {
				t.Errorf("%s: %s %s: %v", what, e.Stage, e.Kind, e)
			}
			m := newLetterOf(size, "")
			if _, err := c.Submit(t.Context(), c.envelope(t, "", someone), m, mailer.Options{}); err != nil {
				t.Fatalf("the message after %s: %v", what, err)
			}
			c.checkArrived(t, "the message after "+what, m, someone)
		}
	}
	if n := len(l.mailbox.all()); n != 2*len(doors) {
		t.Errorf("%d messages were delivered, want %d", n, 2*len(doors))
	}
	l.checkManners(t)
}

// Many recipients travel in groups; a server that loses patience while it refuses
// them has still said why.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	impatient := shapeDoors[3]
	impatient.name, impatient.impatient = "impatient", true
	impatientGrouped := shapeDoors[1]
	impatientGrouped.name, impatientGrouped.impatient = "impatient-pipelining", true
	shape := shapeDoorsOf(t)
	hasty := doorsOf(t, onPostfix, impatient, impatientGrouped)
	l := startLab(t, slices.Concat(shape, hasty)...)
	var many []string
	for i := range 150 {
		many = append(many, fmt.Sprintf("r%d@example.net", i))
	}
	for _, d := range shape {
		c := l.newClient(t, d, nil)
		to := slices.Insert(slices.Clone(many), 120, nobody)
		m := newLetterOf(1<<10, "")
		r, err := c.Submit(t.Context(), c.envelope(t, "", to...), m, mailer.Options{})
		if err != nil {
			t.Errorf("%s: %v", d.name, err)
			continue
		}
		for i, o := range r.Recipients {
			if refused := i == 120; (o.Kind == mailer.KindRejected) != refused {
				t.Errorf("%s: recipient %d: %+v", d.name, i, o)
			}
		}
		c.checkArrived(t, "many recipients", m, many...)
	}
	for _, d := range hasty {
		c := l.newClient(t, d, nil)
		for range 2 { // on a new connection, and on one that has been used
			_, err := c.Submit(t.Context(), c.envelope(t, "refused@example.com", many[:30]...), newLetterOf(1<<10, ""), mailer.Options{})
			if e := errorOf(t, d.name, err); e.Stage != mailer.StageMail || e.Kind != mailer.KindRejected || e.Reply.Code != 553 {
				t.Errorf("%s: %s %s: %v; want the sender's refusal", d.name, e.Stage, e.Kind, e)
			}
			m := newLetterOf(1<<10, "")
			if _, err := c.Submit(t.Context(), c.envelope(t, "", someone), m, mailer.Options{}); err != nil {
				t.Fatalf("%s: %v", d.name, err)
			}
			c.checkArrived(t, "the message after a refused sender", m, someone)
		}
	}
}

// Messages that wait for one connection go over it one behind the other, in all
// shapes, whatever becomes of those before them.
func TestWaitingMessages(t *testing.T) {
	t.Parallel()
	doors := shapeDoorsOf(t)
	l := startLab(t, doors...)
	t.Run("doors", func(t *testing.T) {
		for _, d := range doors {
			for _, size := range []int{1 << 10, 300 << 10} {
				// One that travels in a single flight is followed by none, and what
				// cannot travel behind another is none the worse for being short.
				if (size > 256<<10) != d.pipelining {
					continue
				}
				t.Run(d.name, func(t *testing.T) {
					t.Parallel()
					l.sendWaiting(t, d, size, false)
					l.sendWaiting(t, d, size, true)
				})
			}
		}
	})
	l.checkManners(t)
}

// sendWaiting submits messages at once that have to wait for one connection. With
// refusals set some of them are refused.
func (l *lab) sendWaiting(t *testing.T, d *door, size int, refusals bool) {
	t.Helper()
	const messages = 20
	c := l.newClient(t, d, nil)
	before := l.mail[d.server].connections(d)
	contentRefused := func(i int) bool { return refusals && i%8 == 3 }
	senderRefused := func(i int) bool { return refusals && i%10 == 6 }
	rcptRefused := func(i int) bool { return refusals && i%8 == 1 && !senderRefused(i) }
	letters := make([]letter, messages)
	results := make([]error, messages)
	kinds := make([][]mailer.Kind, messages)
	for i := range letters {
		fields := ""
		if contentRefused(i) {
			fields = "X-Refuse: yes\r\n"
		}
		letters[i] = newLetterOf(size, fields)
	}
	var wg sync.WaitGroup
	for i, m := range letters {
		env := c.envelope(t, "", someone, another)
		switch {
		case senderRefused(i):
			env = c.envelope(t, "refused@example.com", someone)
		case rcptRefused(i):
			env = c.envelope(t, "", someone, nobody)
		}
		wg.Go(func() {
			r, err := c.Submit(t.Context(), env, m, mailer.Options{})
			results[i], kinds[i] = err, kindsOf(r.Recipients)
		})
	}
	wg.Wait()
	connections := 1
	for i, m := range letters {
		what := fmt.Sprintf("message %d, refusals %v", i, refusals)
		switch {
		case contentRefused(i):
			connections++
			if e := errorOf(t, what, results[i]); e.Stage != mailer.StageFinal || e.Kind != mailer.KindRejected {
				t.Errorf("%s: %s %s: %v", what, e.Stage, e.Kind, e)
			}
		case senderRefused(i):
			if e := errorOf(t, what, results[i]); e.Stage != mailer.StageMail || e.Kind != mailer.KindRejected || e.Reply.Code != 553 {
				t.Errorf("%s: %s %s: %v", what, e.Stage, e.Kind, e)
			}
		case results[i] != nil:
			t.Errorf("%s: %v", what, results[i])
		case rcptRefused(i):
			if !slices.Equal(kinds[i], []mailer.Kind{0, mailer.KindRejected}) {
				t.Errorf("%s: recipients %v", what, kinds[i])
			}
			c.checkArrived(t, what, m, someone)
		default:
			c.checkArrived(t, what, m, someone, another)
		}
	}
	// The last message may have had its content refused.
	last := l.mail[d.server].connections(d)
	if c.Pool.Close(); refusals && last == before+connections-1 {
		connections--
	}
	c.checkConnections(t, before+connections)
	// A connection is opened in at most 8 flights. What waits behind content costs
	// one more; the first ones, behind which nobody may wait yet, two.
	if want := int64(8 + messages + 5); !refusals && d.pipelining && c.flights.Load() > want {
		t.Errorf("%d flights for %d messages, want at most %d", c.flights.Load(), messages, want)
	}
}

// What the transport gives a meaning of its own, and what it has limits for,
// arrives as it was sent.
func TestContentsExact(t *testing.T) {
	t.Parallel()
	var allLengths, controls, high strings.Builder
	for n := range 999 {
		allLengths.WriteString(strings.Repeat(".", min(n, 1+n%3)) + strings.Repeat("x", max(0, n-1-n%3)) + "\r\n")
	}
	for b := range 128 {
		if b != 0 && b != '\r' && b != '\n' {
			fmt.Fprintf(&controls, "%c: a control character\r\n", b)
		}
	}
	for b := 128; b < 256; b++ {
		high.WriteString(string([]byte{byte(b)}) + " an octet\r\n")
	}
	composed := &mailer.Message{
		From: address(t, "sender@example.com"), To: []mailer.Address{address(t, someone)},
		Subject: "No line end", Text: "..\n.\nthe last line has no end",
	}
	content, err := composed.Compose()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if _, err := content.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	contents := []struct {
		name         string
		fields, body string
		from, to     string
	}{
		{name: "dots", body: "\r\n.\r\n..\r\n...\r\n.a\r\n..b\r\n. \r\n.\t\r\na.\r\n"},
		{name: "a dot first", body: "\r\n.\r\n"},
		{name: "commands behind a dot", body: "\r\n.\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n.\r\nBDAT 5 LAST\r\nQUIT\r\n"},
		{name: "nothing but dots, across all buffers", body: "\r\n" + strings.Repeat(".\r\n", 50000)},
		{name: "lines of all lengths", body: "\r\n" + allLengths.String()},
		{name: "lines of 998 dots", body: "\r\n" + strings.Repeat(strings.Repeat(".", 998)+"\r\n", 70)},
		{name: "a header line of 998", fields: "X-Long: " + strings.Repeat("y", 998-len("X-Long: ")) + "\r\n", body: "\r\nA body.\r\n"},
		{name: "empty body", body: "\r\n"},
		{name: "empty lines only", body: "\r\n\r\n\r\n\r\n"},
		{name: "spaces", body: "\r\n  before\r\nbehind  \r\n \r\n\t\r\n"},
		{name: "lines like other headers", body: "\r\nFrom here\r\n>From there\r\nSubject: no subject\r\n"},
		{name: "control characters", body: "\r\n" + controls.String()},
		{name: "all octets above 127", fields: "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n", body: "\r\n" + high.String()},
		{name: "UTF-8 body", fields: "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n", body: "\r\n.送信者\r\nGrüße\r\n"},
		{name: "SMTPUTF8", fields: "Subject: ご注文の確認\r\nTo: 受信者 <受信@example.net>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n", body: "\r\n.送信者\r\n", to: "受信@example.net"},
		{name: "SMTPUTF8 sender", body: "\r\nASCII.\r\n", from: "送信@example.com"},
		{name: "composed"},
	}
	doors := shapeDoorsOf(t)
	l := startLab(t, doors...)
	for _, d := range doors {
		c := l.newClient(t, d, nil)
		var sent []letter
		for _, tt := range contents {
			to := tt.to
			if to == "" {
				to = someone
			}
			m := newLetter(tt.fields, tt.body)
			if tt.name == "composed" {
				m.text = strings.Replace(text.String(), composed.MessageID, m.id, 1) // its own at each door
			}
			if _, err := c.Submit(t.Context(), c.envelope(t, tt.from, to), m, mailer.Options{}); err != nil {
				t.Errorf("%s by %s: %v", tt.name, d.name, err)
				m.text = ""
			}
			sent = append(sent, m)
		}
		for i, m := range sent {
			if m.text == "" {
				continue
			}
			to := contents[i].to
			if to == "" {
				to = someone
			}
			c.checkArrived(t, contents[i].name, m, to)
		}
		c.checkConnections(t, 1)
	}
	l.checkManners(t)
}
