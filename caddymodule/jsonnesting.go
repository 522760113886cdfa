package caddymodule

import (
	"fmt"
	"slices"
	"strings"
)

// enter begins an object or a list.
func (r *jsonReader) enter(bracket byte) error {
	if !r.take(bracket) {
		if r.peek() == 0 {
			return r.broken()
		}
		if bracket == '{' {
			return r.wrong("must be an object")
		}
		return r.wrong("must be a list")
	}
	if r.depth++; r.depth > maxDepth {
		return r.fatal("is nested too deep")
	}
	r.path = append(r.path, nowhere)
	return nil
}

// exit ends an object or a list.
func (r *jsonReader) exit() {
	r.depth--
	r.path = r.path[:len(r.path)-1]
}

// leave reads on behind an error of a value, up to where the brackets are closed that
// were opened within a depth.
func (r *jsonReader) leave(depth int) error {
	if r.inString {
		if err := r.skipString(); err != nil {
			return err
		}
	}
	for r.depth > depth {
		switch c := r.peek(); c {
		case 0:
			return r.broken()
		case '"':
			r.pos++
			if err := r.skipString(); err != nil {
				return err
			}
			continue
		case '{', '[':
			r.depth++
		case '}', ']':
			r.depth--
		}
		r.pos++
	}
	return nil
}

// names are the members that an object may have, by their index: 64 at most.
type names []string

func (n names) find(name []byte) int {
	for i, s := range n {
		if string(name) == s {
			return i
		}
	}
	return -1
}

// memberWalk walks through an object.
type memberWalk struct {
	known names
	name  string // of the member whose value comes next
	index int    // of that name in known, or -1
	count int
	seen  uint64              // of those that are known
	other map[string]struct{} // of the others, in lower case
}

// object reads an object: each reads the value of the member that m is at. What is
// null is passed over: it is as good as absent.
func (r *jsonReader) object(m *memberWalk, each func() error) error {
	if err := r.enter('{'); err != nil {
		return err
	}
	for {
		more, err := r.next(m)
		if err != nil || !more {
			return err
		}
		if r.peek() == 'n' {
			err = r.literal("null")
		} else {
			err = each()
		}
		if err != nil {
			return err
		}
	}
}

// next goes to the value of the next member. More is false behind the last one, where
// the object is left.
func (r *jsonReader) next(m *memberWalk) (more bool, err error) {
	if r.take('}') {
		r.exit()
		return false, nil
	}
	at := &r.path[len(r.path)-1]
	*at = nowhere
	if m.count > 0 && !r.take(',') || !r.take('"') {
		return false, r.broken()
	}
	raw, err := r.short()
	if err != nil {
		return false, err
	}
	if m.count++; m.count > maxMembers || len(raw) > maxName {
		return false, r.wrong(fmt.Sprintf("has more than %d members, or one with a name of over %d octets", maxMembers, maxName))
	}
	if m.index = m.known.find(raw); m.index >= 0 {
		m.name = m.known[m.index]
	} else {
		m.name = string(raw)
	}
	at.name = m.name
	folded := m.name
	if m.index < 0 {
		folded = strings.ToLower(folded)
	}
	if !m.add(folded) {
		return false, r.wrong("comes twice")
	}
	if m.index < 0 && slices.Contains(m.known, folded) {
		return false, r.wrong("must be written `" + folded + "`")
	}
	if !r.take(':') {
		return false, r.broken()
	}
	return true, nil
}

// add notes the member, and reports whether it is new.
func (m *memberWalk) add(folded string) bool {
	if m.index >= 0 {
		old := m.seen
		m.seen |= 1 << m.index
		return m.seen != old
	}
	if _, ok := m.other[folded]; ok {
		return false
	}
	if m.other == nil {
		m.other = make(map[string]struct{})
	}
	m.other[folded] = struct{}{}
	return true
}

func (r *jsonReader) skipObject() error {
	if err := r.enter('{'); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if r.take('}') {
			r.exit()
			return nil
		}
		if n > 0 && !r.take(',') || !r.take('"') {
			return r.broken()
		}
		if err := r.skipString(); err != nil {
			return err
		}
		if !r.take(':') {
			return r.broken()
		}
		if err := r.skip(); err != nil {
			return err
		}
	}
}

// endless is the limit of a list that has none.
const endless = -1

// list reads a list of as many items at most: each reads one.
func (r *jsonReader) list(most int, each func() error) error {
	if err := r.enter('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := r.item(n)
		if err != nil || !more {
			return err
		}
		if n == most {
			r.path[len(r.path)-1] = nowhere
			return invalid(r.place(), "too_many", "there are more than %d", most)
		}
		if err := each(); err != nil {
			return err
		}
	}
}

// item goes to the next item of a list, of which there were n before. More is false
// behind the last one, where the list is left.
func (r *jsonReader) item(n int) (more bool, err error) {
	r.path[len(r.path)-1] = nowhere
	if r.take(']') {
		r.exit()
		return false, nil
	}
	if n > 0 && !r.take(',') || r.peek() == 0 || n > 0 && r.peek() == ']' {
		return false, r.broken()
	}
	r.path[len(r.path)-1].index = n
	return true, nil
}
