package mailer

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// parseSpec reads local@domain.
func parseSpec(s string) (local, domain, fault string) {
	if s == "" {
		return "", "", "is empty"
	}
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return "", "", `has no "@"`
	}
	local, domain = s[:i], s[i+1:]
	if strings.HasPrefix(local, `"`) {
		// The quoted form of a dotted carrier address, as Mailbox prints it.
		inner, ok := strings.CutSuffix(local[1:], `"`)
		if !ok || localFault(inner) != "" || isDotAtom(inner) {
			return "", "", "has a quoted local part"
		}
		local = inner
	}
	if f := localFault(local); f != "" {
		return "", "", f
	}
	if domain, fault = parseDomain(domain); fault != "" {
		return "", "", fault
	}
	if len(quoteLocal(local))+1+len(domain) > maxMailbox {
		return "", "", "is too long"
	}
	return local, domain, ""
}

// encodedWord is what RFC 2047 makes of text.
var encodedWord = regexp.MustCompile(`=\?[^?]+\?[bBqQ]\?[^?]*\?=`)

// localFault says what is wrong with an unquoted local part.
func localFault(s string) string {
	if len(s) <= maxLocal && isUsualLocal(s) {
		return ""
	}
	if strings.Trim(s, ".") == "" {
		return `has nothing before the "@"`
	}
	if len(quoteLocal(s)) > maxLocal {
		return `is too long before the "@"`
	}
	if strings.Contains(s, "=?") && encodedWord.MatchString(s) { // a reader that decodes it shows another address
		return `has an encoded word before the "@"`
	}
	for _, r := range s {
		switch {
		case r == '.' || r < utf8.RuneSelf && isAtext(byte(r)):
		case r == ' ' || r == '\t':
			return "has a space in it"
		case r == ',' || r == ';':
			return "looks like more than one address"
		case r == '@':
			return `has more than one "@"`
		case r == '(' || r == ')':
			return "has a comment in it"
		case r < utf8.RuneSelf || !isUTF8Atext(r):
			return `has a character before the "@" that is not allowed`
		}
	}
	return ""
}

// isUsualLocal reports whether s is a dot-atom of what most local parts are made of.
func isUsualLocal(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '-' && c != '_' && c != '+' {
			return false
		}
	}
	return isDotAtom(s)
}

// isUTF8Atext reports whether r may stand in a local part under RFC 6531. More
// than that RFC forbids, we refuse what cannot be seen, and what a server that
// normalizes would turn into an ASCII special.
func isUTF8Atext(r rune) bool {
	if r == utf8.RuneError || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
		return false
	}
	for _, n := range norm.NFKC.String(string(r)) {
		if n < utf8.RuneSelf && !isAlnum(byte(n)) {
			return false
		}
	}
	return true
}

// lookupProfile is the lookup profile of RFC 5891 with the lengths checked too.
var lookupProfile = idna.New(
	idna.MapForLookup(),
	idna.BidiRule(),
	idna.Transitional(false),
	idna.StrictDomainName(true),
	idna.VerifyDNSLength(true),
)

// parseDomain returns s in lower case and as A-labels (RFC 5891, lookup).
func parseDomain(s string) (domain, fault string) {
	if strings.HasPrefix(s, "[") {
		return "", "has an address literal instead of a domain"
	}
	domain = asciiLower(s)
	if !isASCII(s) || strings.Contains(domain, "xn--") {
		var err error
		if domain, err = lookupProfile.ToASCII(s); err != nil {
			return "", "has a domain that is not valid"
		}
		domain = asciiLower(domain)
	}
	return domain, domainFault(domain)
}

// domainFault says what is wrong with a domain in lower case.
func domainFault(s string) string {
	if s == "" {
		return `has nothing after the "@"`
	}
	if len(s) > maxDomain {
		return "has a domain that is too long"
	}
	if s == "localhost" {
		return ""
	}
	label, begin := s, 0
	for i := range len(s) + 1 {
		if i < len(s) && s[i] != '.' {
			continue
		}
		if label, begin = s[begin:i], i+1; !isLDH(label) {
			return "has a domain that is not valid"
		}
	}
	if label == s {
		return "has a domain without a dot"
	}
	for i := range len(label) {
		if label[i] < '0' || label[i] > '9' {
			return ""
		}
	}
	return "has an IP address instead of a domain"
}

// isLDH reports whether s is a label of letters, digits and hyphens in lower
// case (RFC 1123, section 2.1).
func isLDH(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (('a' > c || c > 'z') && ('0' > c || c > '9')) {
			return false
		}
	}
	return true
}

// quoteLocal quotes a local part that is no dot-atom.
func quoteLocal(s string) string {
	if isDotAtom(s) {
		return s
	}
	return `"` + s + `"`
}

// isDotAtom looks at the dots alone: the characters were checked before.
func isDotAtom(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}
