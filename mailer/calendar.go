package mailer

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Calendar is an event for the recipient's calendar, such as an invitation (RFC 6047).
type Calendar struct {
	// Method is what is to be done with it, such as REQUEST or CANCEL (RFC 5546); empty
	// for what Content says.
	Method string
	// Content is an iCalendar object (RFC 5545). Lines may end in LF, CR or CRLF.
	Content string
}

// calendarMethods are those of RFC 5546, section 1.4.
var calendarMethods = []string{"PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER"}

// method is the parameter of the media type; empty where the content has none either.
func (c *Calendar) method() string { return strings.ToUpper(cmp.Or(c.Method, c.said())) }

// said is the METHOD of the content; empty for none.
func (c *Calendar) said() string {
	for line := range strings.Lines(endLines(c.Content)) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch name, _, _ = strings.Cut(name, ";"); asciiLower(name) {
		case "method":
			return trimWSP(value)
		case "begin":
			if asciiLower(trimWSP(value)) != "vcalendar" {
				return "" // those of the calendar come before its parts
			}
		}
	}
	return ""
}

// check reports what programs would not make an entry of.
func (c *Calendar) check() error {
	const field = "ical"
	lines := asciiLower(strings.TrimSpace(c.Content))
	switch {
	case !utf8.ValidString(c.Content):
		return invalidf(field+".content", codeEncoding, "calendar is not valid UTF-8")
	case !strings.HasPrefix(lines, "begin:vcalendar") || !strings.HasSuffix(lines, "end:vcalendar"):
		return invalidf(field+".content", "bad_calendar", "calendar does not begin with BEGIN:VCALENDAR and end with END:VCALENDAR")
	}
	said := c.said()
	for _, m := range []string{c.Method, said} {
		if m != "" && !isCalendarMethod(m) {
			return invalidf(field+".method", "bad_calendar", "method %s is none of %s", excerpt(m), strings.Join(calendarMethods, ", "))
		}
	}
	if c.Method != "" && !strings.EqualFold(c.Method, said) { // RFC 6047, section 2.4
		return invalidf(field+".method", "bad_calendar", "the content does not have the line METHOD:%s", strings.ToUpper(c.Method))
	}
	return nil
}

func isCalendarMethod(s string) bool {
	return slices.ContainsFunc(calendarMethods, func(m string) bool { return strings.EqualFold(m, s) })
}
