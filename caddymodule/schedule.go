package caddymodule

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// maxSchedule is how far ahead a message may be scheduled.
	maxSchedule = 30 * 24 * time.Hour
	// lateSchedule is how much in the past a time may lie: clocks differ, and requests
	// take their time.
	lateSchedule = 5 * time.Minute
)

// inTime is a time from now, as Resend has it.
var inTime = regexp.MustCompile(`^in +([0-9]{1,5}) *(min|minute|hour|day)s?$`)

var timeUnits = map[string]time.Duration{"min": time.Minute, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour}

// readSchedule reads when a message is to go: a time (RFC 3339), or such as "in 2
// hours".
func readSchedule(field, s string, now time.Time) (time.Time, error) {
	t, ok := parseSchedule(s, now)
	switch {
	case !ok:
		return t, invalid(field, "bad_time", "%q must be a time such as 2027-01-31T09:00:00+09:00, or such as \"in 2 hours\": in a number of min, hours or days", clipped(s))
	case t.After(now.Add(maxSchedule)):
		return t, invalid(field, "bad_time", "it may lie 30 days ahead at most")
	case t.Before(now.Add(-lateSchedule)):
		return t, invalid(field, "bad_time", "%s lies in the past; leave the field out to send now", t.Format(time.RFC3339))
	}
	return t, nil
}

// parseMove reads the body of a request that gives a message another time. It may
// repeat the id of the message, as Resend's SDKs for Go do.
func parseMove(body []byte) (at time.Time, id string, err error) {
	if err := checkText(body); err != nil {
		return at, "", err
	}
	var text string
	err = decodeObject(body, "", fields{"scheduled_at": decodeText(&text), "id": decodeText(&id)}, func(path, _ string, _ json.RawMessage) error {
		return invalid(path, "unsupported", "of a message that was accepted only scheduled_at can be changed")
	})
	if err == nil && text != "" {
		at, err = readSchedule("scheduled_at", text, time.Now())
	}
	if err == nil && at.IsZero() {
		err = missing("scheduled_at")
	}
	return at, id, err
}

func parseSchedule(s string, now time.Time) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if m := inTime.FindStringSubmatch(strings.ToLower(s)); m != nil {
		n, err := strconv.Atoi(m[1])
		return now.Add(time.Duration(n) * timeUnits[m[2]]), err == nil
	}
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil
}

// clipped is the beginning of what a caller wrote.
func clipped(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strings.ToValidUTF8(s, "")
}
