package mailer

import "strings"

// The limits of RFC 5321, section 4.5.3.1, in octets. A path is 256 octets
// with its angle brackets, hence 254 for the mailbox in it.
const (
	maxLocal   = 64
	maxDomain  = 253
	maxMailbox = 254

	// Ours. A display name longer than a line is no name; the others bound the
	// time that a hostile text can cost.
	maxName  = 998
	maxInput = 8 << 10
	maxList  = 128 << 10
)

// invalidMailbox stands in for an Address that was not made by the parser and
// could break out of an SMTP path. The domain is reserved (RFC 2606).
const invalidMailbox = "invalid@invalid.invalid"

// Address is one mailbox (RFC 5322, section 3.4), in parts, as [ParseAddress]
// makes it. Its zero value is the null sender.
type Address struct {
	// Name is the display name, decoded, without control characters. Encoded
	// words in charsets other than UTF-8, ISO-8859-1 and US-ASCII stay in it
	// as they came.
	Name string
	// Local is the local part, unquoted. Its case is kept.
	Local string
	// Domain is in lower case; international domains are A-labels.
	Domain string
}

// ParseAddress reads exactly one mailbox: "a@example.com",
// "Name <a@example.com>" or "a@example.com (Name)".
//
// It is lenient on the name: commas, dots and other specials need no quotes.
// It is strict on the address: no quoted local part, no source route, no
// address literal, no comment inside. The one exception are local parts with
// misplaced dots (foo.@docomo.ne.jp), which Japanese carriers handed out; they
// are accepted with and without quotes. The domain needs a dot, unless it is
// localhost.
//
// A failure is an [*Error] with Code "line_break" for CR, LF and NUL, and
// "bad_address" for everything else.
func ParseAddress(s string) (Address, error) {
	var a Address
	code, fault := textFault(s)
	if fault == "" {
		code = codeBadAddress
		a, fault = parseMailbox(s)
	}
	if fault == "" {
		code, fault = nameFault(a.Name)
	}
	if fault == "" {
		return a, nil
	}
	if code != codeLineBreak {
		code = codeBadAddress
	}
	return Address{}, invalidf("", code, "address %s %s", excerpt(s), fault)
}

// ParseAddressList reads mailboxes that are separated by commas. What parses as
// one mailbox is one mailbox, so "Acme, Inc. <a@example.com>" has one element.
// Commas in quotes, comments and angle brackets do not separate, and neither
// does a comma after words without "@": those belong to the name that follows.
// The list has at least one element. Failures are those of [ParseAddress].
func ParseAddressList(s string) ([]Address, error) {
	a, err := ParseAddress(s)
	if err == nil {
		return []Address{a}, nil
	}
	if len(s) > maxList {
		return nil, invalidf("", codeBadAddress, "address list %s is too long", excerpt(s))
	}
	var list []Address
	start, last, hasAt := 0, 0, false // start of the mailbox, of the piece
	for _, comma := range append(commas(s), len(s)) {
		hasAt = hasAt || strings.Contains(s[last:comma], "@")
		last = comma
		mailbox := s[start:comma]
		if !hasAt && comma < len(s) && trimWSP(mailbox) != "" {
			continue
		}
		start, hasAt = comma+1, false
		if trimWSP(mailbox) == "" {
			continue
		}
		if a, err = ParseAddress(mailbox); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	if len(list) == 0 {
		return nil, err
	}
	return list, nil
}

// IsZero reports whether a is the null sender.
func (a Address) IsZero() bool { return a.Local == "" && a.Domain == "" }

// Equal reports whether a and b are the same mailbox: the domain without regard
// to case, the local part exactly. Names do not count.
func (a Address) Equal(b Address) bool {
	return a.Local == b.Local && asciiLower(a.Domain) == asciiLower(b.Domain)
}

// NeedsSMTPUTF8 reports whether the address can only be used with a server that
// offers SMTPUTF8 (RFC 6531). International domains alone do not need it.
func (a Address) NeedsSMTPUTF8() bool { return !isASCII(a.Local) }

// Mailbox returns the address as it stands in an SMTP path, without angle
// brackets: local@domain, the local part quoted where it is no dot-atom. The
// null sender gives "". The result never holds a space, an angle bracket or a
// control character: for an Address that no parser would make it is a mailbox
// under the reserved domain "invalid".
func (a Address) Mailbox() string {
	local, at, domain := a.path()
	return local + at + domain
}

// path is Mailbox in three pieces.
func (a Address) path() (local, at, domain string) {
	switch {
	case a.IsZero():
		return "", "", ""
	case a.specFault() != "":
		return invalidMailbox, "", ""
	}
	return quoteLocal(a.Local), "@", a.Domain
}

// String returns the address as it stands in a header field (RFC 5322, section
// 3.4), the name quoted or as encoded words (RFC 2047). It is not folded and
// has no line break.
func (a Address) String() string {
	words := phraseWords(a.Name, maxEncodedWord)
	if len(words) == 0 {
		return a.Mailbox()
	}
	return strings.Join(words, " ") + " <" + a.Mailbox() + ">"
}

// fault says what is wrong with a, or nothing. Composing asks it, since an
// Address need not come from the parser.
func (a Address) fault() (code, fault string) {
	if code, fault = nameFault(a.Name); fault != "" {
		return code, fault
	}
	if f := a.specFault(); f != "" {
		return codeBadAddress, f
	}
	return "", ""
}

// nameFault says what is wrong with a display name. Encoded words may hide in
// it what the text itself does not show.
func nameFault(s string) (code, fault string) {
	if code, fault = textFault(s); fault != "" {
		return code, "has a name that " + fault
	}
	if len(s) > maxName {
		return codeBadAddress, "has a name that is too long"
	}
	return "", ""
}

func (a Address) specFault() string {
	if f := localFault(a.Local); f != "" {
		return f
	}
	if f := domainFault(asciiLower(a.Domain)); f != "" {
		return f
	}
	if len(quoteLocal(a.Local))+1+len(a.Domain) > maxMailbox {
		return "is too long"
	}
	return ""
}

// parseMailbox reads one mailbox, or says what is wrong with it. The name is
// still to be checked.
func parseMailbox(s string) (a Address, fault string) {
	if len(s) > maxInput {
		return a, "is too long"
	}
	s, comment := cutComment(trimWSP(s))
	if s == "" {
		return a, "is empty"
	}

	var q quotes
	var opens, closes, at, separator int
	open := len(s)
	for i := range len(s) {
		if !q.plain(s[i]) {
			continue
		}
		switch s[i] {
		case '<':
			opens++
			open = min(open, i)
		case '>':
			closes++
		case '@':
			if opens == 0 {
				at++
			}
		case ',', ';':
			if opens == 0 {
				separator++
			}
		}
	}
	if q.in {
		return a, "has a quote that is not closed"
	}

	spec := s
	if opens > 0 || closes > 0 {
		if opens != 1 || closes != 1 || !strings.HasSuffix(s, ">") {
			return a, `must have one "<", and ">" at its end`
		}
		// a@x.example, B <b@x.example> are two recipients. Taking the first for
		// a part of the second one's name would lose it without a word.
		if at > 0 && separator > 0 {
			return a, "looks like more than one address"
		}
		spec = trimWSP(s[open+1 : len(s)-1])
		a.Name = decodePhrase(s[:open])
	}
	if a.Name == "" && comment != "" {
		a.Name = collapseWSP(decodeWords(comment))
	}
	a.Local, a.Domain, fault = parseSpec(spec)
	return a, fault
}
