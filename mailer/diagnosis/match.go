package diagnosis

import (
	"slices"
	"strconv"
	"strings"
)

// maxText is how much of a reply is looked at.
const maxText = 500

// subject is a query made ready to be compared.
type subject struct {
	Query
	digit  string // of the code
	code   string
	text   string // in lower case, single spaces
	status string
	cause  string
}

func newSubject(q Query) subject {
	s := subject{Query: q, status: strings.ToLower(q.Status)}
	if q.Code > 0 {
		s.code = strconv.Itoa(q.Code)
		s.digit = s.code[:1]
	} else {
		s.cause = causeOf(q.Stage, q.Err)
	}
	s.text = strings.Join(strings.Fields(strings.ToLower(q.Text[:min(len(q.Text), maxText)])), " ")
	if s.Grant == "" {
		switch strings.ToUpper(q.Mechanism) {
		case "XOAUTH2", "OAUTHBEARER":
			s.Grant = GrantDelegated
		case "PLAIN", "LOGIN":
			s.Grant = GrantPassword
		}
	}
	return s
}

// score is how specific a match is.
type score struct {
	points int
	length int // of the fragment of text
}

func (s score) above(t score) bool {
	return s.points > t.points || s.points == t.points && s.length > t.length
}

// What a condition that holds is worth: what tells most outweighs all that
// tells less.
const (
	forFault    = 128 // our own word
	forWords    = 64  // text, status, cause
	forVendor   = 48
	forFamily   = 40
	forEnhanced = 32
	forRange    = 24
	forCode     = 4
	forStage    = 2
	forSignIn   = 2 // grant, mechanism
	forDigit    = 1
)

// fits returns the score of the best match of a row.
func (r *row) fits(s *subject) (best score, ok bool) {
	points, ours := 0, len(r.Vendors) == 0
	switch {
	case ours:
	case slices.Contains(r.Vendors, s.Vendor):
		points, ours = forVendor, true
	case slices.Contains(r.Vendors, s.Vendor.family()):
		points, ours = forFamily, true
	}
	for i := range r.Match {
		m := &r.Match[i]
		if !ours && !m.Anywhere {
			continue
		}
		got, fits := m.fits(s)
		got.points += points
		if fits && (!ok || got.above(best)) {
			best, ok = got, true
		}
	}
	return best, ok
}

func (m *match) fits(s *subject) (sc score, ok bool) {
	words := func(list []string, word string, worth int) bool {
		if len(list) == 0 {
			return true
		}
		sc.points += worth
		return word != "" && slices.Contains(list, word)
	}
	switch { // the cheap and selective first
	case !m.fitsCode(s, &sc),
		!words(m.Stages, s.Stage, forStage),
		!words(m.Causes, s.cause, forWords),
		!words(m.Faults, s.Fault, forFault),
		!words(m.Status, s.status, forWords),
		!words(m.Grants, string(s.Grant), forSignIn),
		!words(m.Mechanisms, strings.ToUpper(s.Mechanism), forSignIn),
		!m.fitsEnhanced(s, &sc),
		!m.fitsText(s, &sc):
		return score{}, false
	}
	return sc, true
}

func (m *match) fitsCode(s *subject, sc *score) bool {
	switch {
	case len(m.Codes) == 0:
		return !m.silent || s.code == ""
	case s.code == "":
		return false
	case slices.Contains(m.Codes, s.code):
		sc.points += forCode
		return true
	case slices.Contains(m.Codes, s.digit):
		sc.points += forDigit
		return true
	}
	return false
}

func (m *match) fitsEnhanced(s *subject, sc *score) bool {
	if len(m.enhanced) == 0 {
		return true
	}
	if s.Enhanced == [3]int{} {
		return false
	}
	for _, e := range m.enhanced {
		if e.has(s.Enhanced) {
			if sc.points += forRange; e.exact() {
				sc.points += forEnhanced - forRange
			}
			return true
		}
	}
	return false
}

func (m *match) fitsText(s *subject, sc *score) bool {
	if len(m.fragments) == 0 {
		return true
	}
	for _, parts := range m.fragments {
		if n, ok := find(s.text, parts); ok {
			sc.length = max(sc.length, n)
		}
	}
	if sc.length == 0 {
		return false
	}
	sc.points += forWords
	return true
}

// find looks for the parts of a fragment, one behind the other, and returns
// their length.
func find(text string, parts []string) (length int, ok bool) {
	for _, p := range parts {
		i := strings.Index(text, p)
		if i < 0 {
			return 0, false
		}
		text = text[i+len(p):]
		length += len(p)
	}
	return length, true
}

// enhanced is a set of enhanced codes: a first and a last number for each part.
type enhanced [3][2]int

// maxPart is above all numbers in enhanced codes.
const maxPart = 999

func (e enhanced) has(code [3]int) bool {
	for i, n := range code {
		if n < e[i][0] || n > e[i][1] {
			return false
		}
	}
	return true
}

func (e enhanced) exact() bool {
	for _, part := range e {
		if part[0] != part[1] {
			return false
		}
	}
	return true
}

// parseEnhanced reads 5.7.1, 5.7.606-649 or *.7.*.
func parseEnhanced(s string) (e enhanced, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != len(e) {
		return e, false
	}
	for i, p := range parts {
		if p == "*" {
			e[i] = [2]int{0, maxPart}
			continue
		}
		first, last, isRange := strings.Cut(p, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if errA != nil || errB != nil || a < 0 || a > b || b > maxPart {
			return e, false
		}
		e[i] = [2]int{a, b}
	}
	return e, true
}
