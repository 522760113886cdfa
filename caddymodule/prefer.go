package caddymodule

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// maxWait is how long a request waits for what becomes of its message.
const maxWait = 25 * time.Second

// preferences are a request's wishes (RFC 7240): to be answered at once, or after
// a time.
type preferences struct {
	respondAsync bool
	// wait is set where a time was given.
	wait    time.Duration
	waitSet bool
}

// readPreferences reads the Prefer fields of a request. Of what comes twice the
// first counts, and what is not understood does not (section 2).
func readPreferences(h http.Header) preferences {
	var p preferences
	for _, field := range h.Values("Prefer") {
		for part := range strings.SplitSeq(field, ",") {
			part, _, _ = strings.Cut(part, ";")
			name, value, _ := strings.Cut(part, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				p.respondAsync = true
			case "wait":
				n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
				if err != nil || n < 0 || p.waitSet {
					continue
				}
				p.wait, p.waitSet = min(time.Duration(min(n, 1000))*time.Second, maxWait), true
			}
		}
	}
	return p
}

// async reports whether the answer is to be given as soon as the message is
// accepted. With a time it is given then (section 4.3).
func (p preferences) async() bool { return p.respondAsync && !p.waitSet || p.waitSet && p.wait == 0 }

// patience is how long to wait for what becomes of the message.
func (p preferences) patience() time.Duration {
	if !p.waitSet {
		return maxWait
	}
	return p.wait
}

// apply notes which preferences were followed in the header of an answer, and
// returns its status.
func (p preferences) apply(h http.Header, r mailer.Receipt) int {
	var applied []string
	status := http.StatusOK
	if p.respondAsync && r.Status != mailer.StatusSent {
		applied, status = append(applied, "respond-async"), http.StatusAccepted
	}
	if p.waitSet {
		applied = append(applied, "wait="+strconv.Itoa(int(p.wait/time.Second)))
	}
	if len(applied) > 0 {
		h.Set("Preference-Applied", strings.Join(applied, ", "))
	}
	return status
}
