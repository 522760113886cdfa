package diagnosis

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// The table. Rows that are alike in everything are told apart by their order,
// the general ones standing last.
var (
	//go:embed exchange.json
	exchangeJSON []byte
	//go:embed google.json
	googleJSON []byte
	//go:embed others.json
	othersJSON []byte
	//go:embed general.json
	generalJSON []byte
)

// row is a row of the table.
type row struct {
	ID      string   `json:"id"`
	Class   Class    `json:"class"`
	Who     Who      `json:"who"`
	Vendors []Vendor `json:"vendors"`
	Match   []match  `json:"match"`
	En      *Text    `json:"en"`
	Ja      *Text    `json:"ja"`

	texts [2]Text
}

func (r *row) diagnosis() Diagnosis {
	return Diagnosis{ID: r.ID, Class: r.Class, Who: r.Who, texts: &r.texts}
}

// match is a set of conditions. An empty list is none.
type match struct {
	Anywhere   bool     `json:"anywhere"`
	Stages     []string `json:"stages"`
	Codes      []string `json:"codes"`
	Enhanced   []string `json:"enhanced"`
	Text       []string `json:"text"`
	Status     []string `json:"status"`
	Grants     []string `json:"grants"`
	Mechanisms []string `json:"mechanisms"`
	Causes     []string `json:"causes"`
	Faults     []string `json:"faults"`

	silent    bool // for where no server replied
	enhanced  []enhanced
	fragments [][]string // of text, each in its parts
}

// table reads the table, once. It is part of the program: that it can be read
// is certain since the tests have passed.
var table = sync.OnceValue(func() []row {
	var all []row
	for _, data := range [][]byte{exchangeJSON, googleJSON, othersJSON, generalJSON} {
		rows, err := parse(data)
		if err != nil {
			panic("diagnosis: " + err.Error())
		}
		all = append(all, rows...)
	}
	return all
})

// rowsByID finds the rows of the table.
var rowsByID = sync.OnceValue(func() map[string]*row {
	rows := table()
	of := make(map[string]*row, len(rows))
	for i := range rows {
		of[rows[i].ID] = &rows[i]
	}
	return of
})

// parse reads a file of the table and checks it.
func parse(data []byte) ([]row, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var rows []row
	if err := d.Decode(&rows); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the list")
	}
	for i := range rows {
		if err := rows[i].prepare(); err != nil {
			return nil, fmt.Errorf("row %d, %s: %w", i+1, rows[i].ID, err)
		}
	}
	return rows, nil
}

var (
	idPattern = regexp.MustCompile(`^[a-z_]+\.[a-z0-9_]+$`)

	classes = []Class{Permanent, Temporary, Throttle, Authorization}
	people  = []Who{WhoSender, WhoOperator, WhoOwner, WhoAdministrator, WhoProvider, WhoRecipient, WhoNobody}
	grants  = []string{string(GrantDelegated), string(GrantApp), string(GrantPassword), string(GrantNone)}
	stages  = []string{
		"accept", "limit", "dns", "connect", "tls", "greeting", "ehlo", "starttls", "token", "auth", "mail", "rcpt", "data", "final", "rset",
	}
)

// prepare checks a row and makes its conditions ready.
func (r *row) prepare() error {
	switch {
	case !idPattern.MatchString(r.ID):
		return errors.New("an id is two words of small letters with a dot between")
	case !slices.Contains(classes, r.Class):
		return fmt.Errorf("no such class: %q", r.Class)
	case !slices.Contains(people, r.Who):
		return fmt.Errorf("no such who: %q", r.Who)
	case len(r.Match) == 0:
		return errors.New("no match")
	case r.En == nil || r.Ja == nil:
		return errors.New("a language is missing")
	}
	r.texts = [2]Text{*r.En, *r.Ja}
	for _, v := range r.Vendors {
		if !v.known() {
			return fmt.Errorf("no such vendor: %q", v)
		}
	}
	for i := range r.Match {
		if err := r.Match[i].prepare(); err != nil {
			return fmt.Errorf("match %d: %w", i+1, err)
		}
	}
	return nil
}

func (m *match) prepare() error {
	for name, l := range map[string]struct{ has, may []string }{
		"stages": {m.Stages, stages},
		"grants": {m.Grants, grants},
		"causes": {m.Causes, causes},
	} {
		for _, word := range l.has {
			if !slices.Contains(l.may, word) {
				return fmt.Errorf("%s: no such word: %q", name, word)
			}
		}
	}
	for _, c := range m.Codes {
		if len(c) != 1 && len(c) != 3 || strings.Trim(c, "0123456789") != "" {
			return fmt.Errorf("codes: %q is neither a code nor a digit", c)
		}
	}
	for _, s := range m.Enhanced {
		e, ok := parseEnhanced(s)
		if !ok {
			return fmt.Errorf("enhanced: %q is no enhanced code", s)
		}
		m.enhanced = append(m.enhanced, e)
	}
	for _, t := range m.Text {
		parts := strings.Split(t, " … ")
		if t != strings.ToLower(t) || slices.ContainsFunc(parts, func(p string) bool { return len(p) < 4 }) {
			return fmt.Errorf("text: %q has capitals, or a part of less than four letters", t)
		}
		m.fragments = append(m.fragments, parts)
	}
	if m.Anywhere && len(m.Text) == 0 {
		return errors.New("anywhere: a code alone means something else elsewhere; text is missing")
	}
	about := len(m.Codes) + len(m.Enhanced) + len(m.Text)
	m.silent = about == 0 && len(m.Stages)+len(m.Causes)+len(m.Faults) > 0
	return nil
}
