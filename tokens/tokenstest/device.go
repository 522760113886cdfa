package tokenstest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// deviceGrant is the grant type of device codes (RFC 8628, section 3.4).
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// PathDevice is the path of the device authorization endpoint, below the issuer.
const PathDevice = "/device_authorization"

// DeviceLife is how long a device code lives.
const DeviceLife = 15 * time.Minute

// device is a device code and what became of it.
type device struct {
	userCode string
	scope    string
	grant    *grant // nil until a person allows it
	denied   bool
	used     bool
	until    time.Time
	interval time.Duration
	asked    time.Time // last
}

// deviceAuthorization answers a device authorization request (RFC 8628, section
// 3.1).
func (s *Server) deviceAuthorization(form url.Values, header http.Header) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.clientLocked(form, header); !ok {
		return a
	}
	d := &device{
		userCode: rand.Text()[:8], scope: form.Get("scope"),
		until: time.Now().Add(DeviceLife), interval: 5 * time.Second, asked: time.Now(),
	}
	code := "device-" + rand.Text()
	if s.devices == nil {
		s.devices = map[string]*device{}
	}
	s.devices[code] = d
	return jsonAnswer(http.StatusOK, map[string]any{
		"device_code": code, "user_code": d.userCode,
		"verification_uri":          s.Issuer + "/device",
		"verification_uri_complete": s.Issuer + "/device?user_code=" + d.userCode,
		"expires_in":                int(DeviceLife.Seconds()), "interval": int(d.interval.Seconds()),
		"message": "Enter " + d.userCode + ".",
	})
}

// deviceToken answers a poll (RFC 8628, section 3.5).
func (s *Server) deviceToken(form url.Values, header http.Header) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.clientLocked(form, header); !ok {
		return a
	}
	d := s.devices[form.Get("device_code")]
	now := time.Now()
	if d == nil || d.used {
		return failure(http.StatusBadRequest, "invalid_grant", "no such device code")
	}
	early := now.Sub(d.asked) < d.interval
	d.asked = now
	switch {
	case !now.Before(d.until):
		return failure(http.StatusBadRequest, "expired_token", "the device code has expired")
	case early:
		d.interval += 5 * time.Second
		return failure(http.StatusBadRequest, "slow_down", "too early")
	case d.denied:
		return failure(http.StatusBadRequest, "access_denied", "the person said no")
	case d.grant == nil:
		return failure(http.StatusBadRequest, "authorization_pending", "nobody has signed in yet")
	}
	d.used = true
	m := s.successLocked(d.grant)
	if !s.WithoutRefresh {
		m["refresh_token"] = s.newRefreshLocked(d.grant)
	}
	if !s.WithoutID && slices.Contains(strings.Fields(d.scope), "openid") {
		m["id_token"] = s.idToken(d.grant, "")
	}
	return jsonAnswer(http.StatusOK, m)
}

// Allow is a person who types a user code, signs in and allows all.
func (s *Server) Allow(userCode, user string) error {
	return s.decide(userCode, func(d *device) { d.grant = &grant{user: user, scope: d.scope} })
}

// Deny is a person who types a user code and says no.
func (s *Server) Deny(userCode string) error {
	return s.decide(userCode, func(d *device) { d.denied = true })
}

func (s *Server) decide(userCode string, f func(*device)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.userCode == userCode {
			f(d)
			return nil
		}
	}
	return fmt.Errorf("no device has the user code %q", userCode)
}
