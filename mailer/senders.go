package mailer

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Senders are the addresses that may send: exact ones, whole domains, or any.
// Case does not count, neither in the domain nor in the local part. The zero
// value allows nobody. A Senders may be used by several goroutines at once.
type Senders struct {
	any bool
	// domains and mailboxes are in order. Most lists have one or two: maps would be
	// many times as large.
	domains, mailboxes []string
}

// ParseSenders reads patterns: "user@example.com", "*@example.com" for a domain
// without its subdomains, or "*" for any address. A failure is an [*Error] with
// Code "bad_pattern".
func ParseSenders(patterns ...string) (Senders, error) {
	var s Senders
	for _, p := range patterns {
		if p == "*" {
			s.any = true
			continue
		}
		if rest, ok := strings.CutPrefix(p, "*@"); ok {
			domain, fault := parseDomain(rest)
			if fault != "" {
				return Senders{}, invalidf("", "bad_pattern", "pattern %s %s", excerpt(p), fault)
			}
			s.domains = append(s.domains, domain)
			continue
		}
		if strings.Contains(p, "*") {
			return Senders{}, invalidf("", "bad_pattern", `pattern %s may have "*" only in place of all before the "@"`, excerpt(p))
		}
		local, domain, fault := parseSpec(p)
		if fault != "" {
			return Senders{}, invalidf("", "bad_pattern", "pattern %s %s", excerpt(p), fault)
		}
		s.mailboxes = append(s.mailboxes, asciiLower(local)+"@"+domain)
	}
	s.domains, s.mailboxes = inOrder(s.domains), inOrder(s.mailboxes)
	return s, nil
}

// inOrder sorts a list and leaves out what comes again.
func inOrder(list []string) []string {
	slices.Sort(list)
	return slices.Clip(slices.Compact(list))
}

func has(list []string, s string) bool {
	_, ok := slices.BinarySearch(list, s)
	return ok
}

// Allows reports whether a may send. The null sender may not.
func (s Senders) Allows(a Address) bool {
	if a.IsZero() {
		return false
	}
	if s.any {
		return true
	}
	domain := asciiLower(a.Domain)
	return has(s.domains, domain) || len(s.mailboxes) > 0 && has(s.mailboxes, asciiLower(a.Local)+"@"+domain)
}

// Covers reports whether all senders that o allows are allowed, as far as the
// patterns tell.
func (s Senders) Covers(o Senders) bool {
	if s.any || o.any {
		return s.any
	}
	for _, d := range o.domains {
		if !has(s.domains, d) {
			return false
		}
	}
	for _, m := range o.mailboxes {
		if !has(s.mailboxes, m) && !has(s.domains, m[strings.LastIndexByte(m, '@')+1:]) {
			return false
		}
	}
	return true
}

// addressLike finds what a reader takes for an address.
var addressLike = regexp.MustCompile(`([^\s()<>\[\],;:@]+)@\[?([\pL\pM\pN.-]+\.[\pL\pM\pN-]+)`)

// misleading reports whether the name of a shows an address that is not a's.
// Mail programs show the name first, some nothing else.
func misleading(a Address) bool {
	if slices.ContainsFunc(strings.Fields(a.Name), isForeignWord) {
		return true // mail programs decode what cannot be looked at here
	}
	if isASCII(a.Name) && !strings.Contains(a.Name, "@") {
		return false
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cf, r), r == '\u2800': // invisible
			return -1
		case r == '。' || r == '｡': // dots to IDNA, and to readers
			return '.'
		}
		return r
	}, a.Name)
	for _, shown := range addressLike.FindAllStringSubmatch(norm.NFKC.String(name), -1) {
		local := strings.Trim(shown[1], `"'`)
		domain, fault := parseDomain(shown[2])
		if fault != "" || asciiLower(local) != asciiLower(a.Local) || domain != asciiLower(a.Domain) {
			return true
		}
	}
	return false
}
