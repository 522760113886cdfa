package mailer

import (
	"errors"
	"strings"
	"testing"
)

const invitation = "BEGIN:VCALENDAR\nVERSION:2.0\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:Lunch\nMETHOD:CANCEL\nEND:VEVENT\nEND:VCALENDAR\n"

// TestCalendar: an event goes beside the other forms of the body, with what is to be
// done with it in its type. What programs would not make an entry of is refused.
func TestCalendar(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		calendar Calendar
		html     string
		want     string // in the message
		code     string
	}{
		"beside text":        {calendar: Calendar{"REQUEST", invitation}, want: "Content-Type: multipart/alternative;"},
		"after HTML":         {calendar: Calendar{"REQUEST", invitation}, html: "<p>x</p>", want: "<p>x</p>\r\n--"},
		"method in the type": {calendar: Calendar{"request", invitation}, want: "\r\nContent-Type: text/calendar; charset=utf-8; method=REQUEST\r\n"},
		"method of its own":  {calendar: Calendar{"", invitation}, want: "; method=REQUEST\r\n"},
		"no method":          {calendar: Calendar{"", "begin:vcalendar\r\nEND:VCALENDAR"}, want: "\r\nContent-Type: text/calendar; charset=utf-8\r\n"},
		"old line ends":      {calendar: Calendar{"CANCEL", "BEGIN:VCALENDAR\rMethod:cancel\rEND:VCALENDAR"}, want: "BEGIN:VCALENDAR\r\nMethod:cancel\r\nEND"},
		"not ASCII":          {calendar: Calendar{"", "BEGIN:VCALENDAR\nX-A:昼食\nEND:VCALENDAR"}, want: "text/calendar; charset=utf-8\r\nContent-Transfer-Encoding: "},
		"another method":     {calendar: Calendar{"CANCEL", invitation}, code: "bad_calendar"},
		"only in an event":   {calendar: Calendar{"CANCEL", strings.Replace(invitation, "METHOD:REQUEST\n", "", 1)}, code: "bad_calendar"},
		"unknown method":     {calendar: Calendar{"", strings.Replace(invitation, "REQUEST", "STEAL", 1)}, code: "bad_calendar"},
		"a header in it":     {calendar: Calendar{"REQUEST\r\nBcc: x@example.net", invitation}, code: "bad_calendar"},
		"a header in its":    {calendar: Calendar{"", strings.Replace(invitation, "REQUEST", "REQUEST; x=y", 1)}, code: "bad_calendar"},
		"no calendar":        {calendar: Calendar{"", "hello"}, code: "bad_calendar"},
		"cut":                {calendar: Calendar{"", invitation[:60]}, code: "bad_calendar"},
		"no UTF-8":           {calendar: Calendar{"", "BEGIN:VCALENDAR\n\xff\nEND:VCALENDAR"}, code: codeEncoding},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := plainMessage()
			m.HTML, m.Calendar = tt.html, &tt.calendar
			c, err := m.Compose()
			if tt.code != "" {
				wantCode(t, err, tt.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := textOf(t, c); !strings.Contains(got, tt.want) || strings.Contains(got, "Bcc") {
				t.Errorf("%q is not in:\n%s", tt.want, got)
			}
		})
	}
	m := plainMessage()
	m.Text, m.Calendar = "", &Calendar{Content: invitation}
	c, err := m.Compose()
	if err != nil {
		t.Fatal(err)
	}
	if got := textOf(t, c); !strings.Contains(got, "MIME-Version: 1.0\r\nContent-Type: text/calendar;") {
		t.Errorf("alone:\n%s", got)
	}
}

// TestSender: who sends on behalf of another stands in the header and in the envelope.
func TestSender(t *testing.T) {
	t.Parallel()
	desk := Address{"Desk", "desk", "x.jp"}
	m := plainMessage()
	m.Sender = desk
	c, err := m.Compose()
	if err != nil {
		t.Fatal(err)
	}
	if got := textOf(t, c); !strings.Contains(got, "<ann@x.jp>\r\nSender: Desk <desk@x.jp>\r\n") || m.Envelope().From != desk {
		t.Errorf("envelope from %v:\n%s", m.Envelope().From, got)
	}
	m.Sender = m.From
	if c, err = m.Compose(); err != nil || strings.Contains(textOf(t, c), "Sender:") {
		t.Errorf("the same as From: %v", err)
	}
	m.Sender = Address{"ceo@bank.example", "desk", "x.jp"}
	_, err = m.Compose()
	wantCode(t, err, "misleading_name")
	m.Sender = Address{"", "用户", "x.jp"}
	if c, err = m.Compose(); err != nil || !c.UTF8Header() {
		t.Errorf("an address that needs SMTPUTF8: %v", err)
	}
}

// textOf is a message as it is written.
func textOf(t *testing.T, c Content) string {
	t.Helper()
	var b strings.Builder
	if _, err := c.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// wantCode checks that a message is refused, and why.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindInvalid || e.Code != code {
		t.Errorf("got %v, want an error with the code %s", err, code)
	}
}
