package mailer

import (
	"fmt"
	"slices"
	"strings"
)

// maxEnvelopeID is the length of an ENVID (RFC 3461, section 4.4).
const maxEnvelopeID = 100

// fault says what is wrong with the wishes.
func (d DSN) fault() string {
	for _, n := range d.Notify {
		switch n {
		case NotifyNever, NotifySuccess, NotifyFailure, NotifyDelay:
		default:
			return "there is no such event to notify of"
		}
	}
	switch {
	case slices.Contains(d.Notify, NotifyNever) && len(d.Notify) > 1:
		return "NEVER excludes all other events"
	case d.Return != "" && d.Return != ReturnFull && d.Return != ReturnHeaders:
		return "a report holds FULL or HDRS"
	case len(d.EnvelopeID) > maxEnvelopeID || strings.ContainsFunc(d.EnvelopeID, func(r rune) bool { return r < ' ' || r > '~' }):
		return "the envelope id has more than 100 characters, or such as do not print"
	}
	return ""
}

// param returns the parameter of RCPT.
func (d DSN) param() string {
	if len(d.Notify) == 0 {
		return ""
	}
	words := make([]string, len(d.Notify))
	for i, n := range d.Notify {
		words[i] = string(n)
	}
	return " NOTIFY=" + strings.Join(words, ",")
}

// xtext encodes a parameter (RFC 3461, section 4).
func xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c <= '~' && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}
