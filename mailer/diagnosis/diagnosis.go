// Package diagnosis says what a failure to submit mail means, whose job it is
// and what to do about it, in English and in Japanese.
//
// The answers are a table, in the JSON files beside this one: whoever finds a
// sentence wrong can correct it there and needs no Go. Each row tells in "match"
// when it applies:
//
//   - "codes": the reply code, or its first digit
//   - "enhanced": the enhanced code, the last part perhaps a range, 5.7.606-649,
//     any part perhaps *
//   - "text": a part of the reply, in lower case; an ellipsis stands for anything
//   - "stages", "grants", "mechanisms": where in the session, and how the tenant
//     signs in
//   - "status": of the challenge with which a token is refused
//   - "causes", "faults": what went wrong where no server replied
//
// Of each list one has to fit, and of the objects in "match" one. A match that
// says nothing of a reply is for where there was none. Rows with "vendors" apply
// to servers of these only, except where a match has "anywhere": its text is
// unmistakable, whoever passes it on. Of several rows that apply the most specific
// wins.
//
// What is passed on may come from a stranger, such as the server of a recipient.
// So a 5yz reply that slows a mailbox down needs "stages" that speak of the
// mailbox, which excludes "rcpt", and "enhanced" besides "text".
//
// Whether anything sends a message again, and when, depends on the program that
// sends. So the texts do not promise it; they say what a later try can bring.
package diagnosis

// Class is what is to become of the message, in the words of the table.
type Class string

// The classes. After a reply with a 4yz code a later try can succeed even if it
// is of class authorization or permanent: the server has said so.
const (
	Permanent     Class = "permanent"     // for this message, or this set-up
	Temporary     Class = "temporary"     // it passes; a later try can succeed
	Throttle      Class = "throttle"      // so too, more slowly
	Authorization Class = "authorization" // a person has to permit something
)

// Who is whose job it is to do something.
type Who string

// Those who may have to do something.
const (
	WhoSender        Who = "sender"        // who wrote the message, or the program that did
	WhoOperator      Who = "operator"      // of this program
	WhoOwner         Who = "mailbox owner" // or whoever can sign in to the mailbox
	WhoAdministrator Who = "administrator" // of the mail service: Exchange, Google Workspace, the mail server
	WhoProvider      Who = "provider"
	WhoRecipient     Who = "recipient"
	WhoNobody        Who = "nobody" // it passes
)

// Grant is how a tenant signs in.
type Grant string

// The ways of signing in. Empty means that it is not known; the mechanism then
// tells tokens from passwords.
const (
	GrantDelegated Grant = "delegated" // a person's token
	GrantApp       Grant = "app"       // an application's own token
	GrantPassword  Grant = "password"
	GrantNone      Grant = "none"
)

// Language is one that the texts are written in.
type Language string

// The languages.
const (
	English  Language = "en"
	Japanese Language = "ja"
)

// Query is what is known of a failure. All fields may be empty.
type Query struct {
	// Vendor is whose server it is; see [VendorOf].
	Vendor Vendor
	Grant  Grant
	// Mechanism is the SASL mechanism, in upper case.
	Mechanism string
	// Stage is where in the session it happened: "dns", "connect", "tls",
	// "greeting", "ehlo", "starttls", "token", "auth", "mail", "rcpt", "data",
	// "final", "rset"; "limit" and "accept" before it.
	Stage string
	// Code, Enhanced and Text are the server's reply. Of a text that is longer
	// than 500 octets the beginning counts.
	Code     int
	Enhanced [3]int
	Text     string
	// Status is that of the challenge with which a token was refused.
	Status string
	// Fault is our own word for what is wrong, where no server replied, such as
	// "starttls_not_offered".
	Fault string
	// Err is the cause, where it is not a reply.
	Err error
}

// Diagnosis is a row of the table.
type Diagnosis struct {
	// ID names the row for good, such as exchange.smtp_auth_disabled_tenant.
	ID    string
	Class Class
	Who   Who

	texts *[2]Text
}

// Text is what a person reads. The parts between backticks are commands, or
// words of a configuration, and the same in all languages.
type Text struct {
	// Meaning is what is wrong, in one or a few sentences.
	Meaning string `json:"meaning"`
	// Do is what to do, step by step.
	Do []string `json:"do"`
}

// In returns the text in a language. One that is not known means English. The
// steps must not be changed.
func (d Diagnosis) In(l Language) Text {
	switch {
	case d.texts == nil:
		return Text{}
	case l == Japanese:
		return d.texts[1]
	}
	return d.texts[0]
}

// Advice is a diagnosis in one language, for answers in JSON. The words of Who
// are the same in all.
type Advice struct {
	ID      string   `json:"id"`
	Meaning string   `json:"meaning"`
	Who     Who      `json:"who"`
	Do      []string `json:"do"`
}

// Advice returns the diagnosis in a language, as In does.
func (d Diagnosis) Advice(l Language) Advice {
	t := d.In(l)
	return Advice{ID: d.ID, Meaning: t.Meaning, Who: d.Who, Do: t.Do}
}

// Find returns the row that fits best; there always is one. It may be called
// concurrently. The first call reads the table.
//
// Whether a reply asks to wait, asks to go slower or refuses for good does not
// depend on whose server it is or how the tenant signs in; these only add to what
// it means.
func Find(q Query) Diagnosis {
	s := newSubject(q)
	if q.Code <= 0 {
		return s.best("").diagnosis()
	}
	anybody := s
	anybody.Vendor, anybody.Grant, anybody.Mechanism, anybody.status = "", "", "", ""
	return s.best(anybody.best("").fate()).diagnosis()
}

// best returns the row that fits best among those of one fate, or among all.
func (s *subject) best(fate Class) *row {
	var best *row
	var top score
	rows := table()
	for i := range rows {
		r := &rows[i]
		if fate != "" && r.fate() != fate {
			continue
		}
		if fits, ok := r.fits(s); ok && (best == nil || fits.above(top)) {
			best, top = r, fits
		}
	}
	return best
}

// fate is the class as far as it matters to the message.
func (r *row) fate() Class {
	if r.Class == Authorization {
		return Permanent
	}
	return r.Class
}

// ByID returns the row with an id; false: there is none, or not any more. It may be
// called concurrently.
func ByID(id string) (Diagnosis, bool) {
	r := rowsByID()[id]
	if r == nil {
		return Diagnosis{}, false
	}
	return r.diagnosis(), true
}

// All returns every row, in the order of the table.
func All() []Diagnosis {
	rows := table()
	all := make([]Diagnosis, len(rows))
	for i := range rows {
		all[i] = rows[i].diagnosis()
	}
	return all
}
