package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// deviceGrant is the grant type of device codes (RFC 8628, section 3.4).
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

const (
	// deviceInterval is the pause between polls where the provider names none,
	// and what slow_down adds to it (RFC 8628, sections 3.2 and 3.5).
	deviceInterval = 5 * time.Second
	// deviceIntervalMax bounds the pause to which trouble lengthens a shorter
	// one.
	deviceIntervalMax = time.Minute
	// deviceLife is how long a device code lives where the provider does not
	// say, and deviceLifeMax the longest that is believed.
	deviceLife    = 15 * time.Minute
	deviceLifeMax = time.Hour
)

// Device is a sign-in by device code (RFC 8628): a person opens
// VerificationURI on any device and types UserCode there.
type Device struct {
	UserCode        string
	VerificationURI string
	// VerificationURIComplete has the user code in it; empty where the provider
	// makes none.
	VerificationURIComplete string
	// Message is the provider's own text about it, or empty. It is a stranger's:
	// escape it.
	Message string
	// Interval is how long to wait before [Flow.PollDevice].
	Interval time.Duration
	// Session is sealed; [Flow.PollDevice] wants it back.
	Session string
	// Expires is when the codes are of no more use.
	Expires time.Time
}

// DevicePoll is what came of asking whether a person has signed in.
type DevicePoll struct {
	// Completed is the sign-in, if it has ended. The other fields are empty then.
	Completed *Completed
	// Session takes the place of the one before.
	Session string
	// Wait is how long to wait before asking again.
	Wait time.Duration
	// Trouble is why the provider did not answer the question; nil if it did.
	Trouble error
}

// deviceSession is a sign-in by device code under way.
type deviceSession struct {
	Account Account `json:"account"`
	By      string  `json:"by,omitempty"`
	// Registration is the client that the device code was made for.
	Registration string        `json:"registration"`
	DeviceCode   string        `json:"device_code"`
	Interval     time.Duration `json:"interval"`
	// Next is when the provider may be asked again.
	Next    time.Time `json:"next"`
	Expires time.Time `json:"expires"`
	// Lost: an answer of the provider was lost, which may have had the tokens.
	Lost bool `json:"lost,omitempty"`
}

// BeginDevice begins a sign-in by device code. By names who asks. The error is
// a [*FlowError], or one of the key ring.
func (f *Flow) BeginDevice(ctx context.Context, c *Client, a Account, by string) (*Device, error) {
	p, err := c.deviceProvider(ctx, a)
	if err != nil {
		return nil, err
	}
	body, status, err := c.postForm(ctx, "device authorization", p, p.DeviceAuthorizationEndpoint, url.Values{
		"scope": {strings.Join(p.Scopes, " ")},
	})
	if err != nil {
		return nil, &FlowError{Reason: ReasonExchange, Account: a, Err: err}
	}
	d, code, life, err := parseDevice(body)
	if err != nil {
		return nil, &FlowError{Reason: ReasonExchange, Account: a, Err: &Error{Op: "device authorization", Kind: KindConfig, Account: a, Status: status, Err: err}}
	}
	now := f.now().UTC()
	d.Expires = now.Add(life)
	d.Session, err = f.seal(deviceName, deviceSession{
		Account: a, By: by, Registration: c.registration, DeviceCode: code,
		Interval: d.Interval, Next: now.Add(d.Interval), Expires: d.Expires,
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// deviceProvider returns the provider with its endpoint for device codes, or
// why there can be none.
func (c *Client) deviceProvider(ctx context.Context, a Account) (Provider, error) {
	if err := c.signsIn(a); err != nil {
		return Provider{}, err
	}
	fail := func(r Reason, err error) (Provider, error) {
		return Provider{}, &FlowError{Reason: r, Account: a, Err: err}
	}
	if !c.provider.DeviceCode {
		return fail(ReasonUnavailable, errors.New("sign-in by device code is off for this provider; set device_code to allow it"))
	}
	p, err := c.resolve(ctx)
	if err != nil {
		return fail(ReasonExchange, err)
	}
	if p.DeviceAuthorizationEndpoint == "" && p.Issuer != "" {
		m, err := c.discovered(ctx)
		if err != nil {
			return fail(ReasonExchange, err)
		}
		p.DeviceAuthorizationEndpoint = m.DeviceEndpoint
	}
	if p.DeviceAuthorizationEndpoint == "" {
		return fail(ReasonUnavailable, errors.New("the provider names no endpoint for device codes; set device_authorization_endpoint if it has one"))
	}
	return p, nil
}

// parseDevice reads a device authorization response (RFC 8628, section 3.2).
func parseDevice(body []byte) (d *Device, code string, life time.Duration, err error) {
	var m struct {
		DeviceCode  string  `json:"device_code"`
		UserCode    string  `json:"user_code"`
		URI         string  `json:"verification_uri"`
		GoogleURI   string  `json:"verification_url"` // so it is called there
		URIComplete string  `json:"verification_uri_complete"`
		Message     string  `json:"message"` // Entra's
		ExpiresIn   seconds `json:"expires_in"`
		Interval    seconds `json:"interval"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, "", 0, errors.New("the answer is no JSON object of the right shape")
	}
	if m.URI == "" {
		m.URI = m.GoogleURI
	}
	if m.DeviceCode == "" || m.UserCode == "" || m.URI == "" {
		return nil, "", 0, errors.New("the answer lacks device_code, user_code or verification_uri")
	}
	for _, uri := range []string{m.URI, m.URIComplete} {
		if uri == "" {
			continue
		}
		// A person will type a password there.
		if err := checkEndpoint(uri); err != nil {
			return nil, "", 0, errors.New("verification_uri " + tidy(err.Error(), m.DeviceCode))
		}
	}
	d = &Device{
		UserCode:                tidy(m.UserCode, m.DeviceCode),
		VerificationURI:         m.URI,
		VerificationURIComplete: m.URIComplete,
		Message:                 tidy(m.Message, m.DeviceCode),
		Interval:                m.Interval.or(deviceInterval, deviceLifeMax),
	}
	return d, m.DeviceCode, m.ExpiresIn.or(deviceLife, deviceLifeMax), nil
}

// seconds is a JSON number of seconds, or a string with one.
type seconds float64

// UnmarshalJSON takes what it can't read for nothing.
func (s *seconds) UnmarshalJSON(b []byte) error {
	_ = json.Unmarshal([]byte(strings.Trim(string(b), `"`)), (*float64)(s))
	return nil
}

// or returns the duration, missing where there is none, and most at most.
func (s seconds) or(missing, most time.Duration) time.Duration {
	if s <= 0 {
		return missing
	}
	return time.Duration(min(float64(s), most.Seconds()) * float64(time.Second))
}

// PollDevice asks the provider, once, whether a person has signed in to the
// account with the session's device code, and ends the sign-in if so, as
// [Flow.Complete] does. A poll that comes too early, or while another one is
// under way, does not reach the provider; in this process the session that was
// answered last counts, whichever comes. The error is a [*FlowError]; the
// sign-in is over then, and another has to be begun.
//
// The caller's going away does not stop it: the answer may have the tokens.
func (f *Flow) PollDevice(ctx context.Context, c *Client, a Account, session string) (*DevicePoll, error) {
	fail := func(r Reason, err error) (*DevicePoll, error) {
		return nil, &FlowError{Reason: r, Account: a, Err: err}
	}
	var s deviceSession
	if err := f.open(deviceName, session, &s); err != nil {
		return fail(ReasonSession, fmt.Errorf("this is no session of a device code: %w", err))
	}
	if s.Account.hash() != a.hash() || s.Registration != c.registration {
		return fail(ReasonSession, errors.New("the session was made for another account or client registration"))
	}
	now := f.now()
	if !now.Before(s.Expires) {
		return fail(ReasonExpired, errors.New("the device code has expired; start again"))
	}
	ctx = context.WithoutCancel(ctx)
	turn, ok := f.devices.enter(s, session, now)
	if !ok {
		return &DevicePoll{Session: turn.sealed, Wait: max(turn.Interval, turn.Next.Sub(now))}, nil
	}
	defer f.devices.leave(&turn)
	switch {
	case f.Store.stateSpent(ctx, s.DeviceCode):
		return fail(ReasonSpent, errSpent)
	case now.Before(turn.Next):
		return &DevicePoll{Session: turn.sealed, Wait: turn.Next.Sub(now)}, nil
	}
	p, err := c.deviceProvider(ctx, a)
	if fe, ok := errors.AsType[*FlowError](err); ok && fe.Reason != ReasonExchange {
		return nil, err // else it is the discovery, which may go better next time
	}
	var g *grant
	if err == nil {
		underWay.begin()
		defer underWay.end()
		g, err = c.post(ctx, "device code", p, url.Values{
			"grant_type": {deviceGrant}, "device_code": {s.DeviceCode},
		}, s.DeviceCode)
	}
	if err != nil {
		return f.deviceWaits(&turn, err)
	}
	_ = f.Store.claimState(ctx, s.DeviceCode, now) // a device code is good for one use at the provider, too
	done, reason, err := f.accept(ctx, c, p, expected{account: a, by: s.By}, g)
	if err != nil {
		return fail(reason, err)
	}
	return &DevicePoll{Completed: done}, nil
}

// deviceWaits says whether and when to go on after a poll that brought no token
// (RFC 8628, section 3.5).
func (f *Flow) deviceWaits(s *deviceTurn, err error) (*DevicePoll, error) {
	fail := func(r Reason, err error) (*DevicePoll, error) {
		return nil, &FlowError{Reason: r, Account: s.Account, Err: err}
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return fail(ReasonExchange, err)
	}
	var trouble error
	switch {
	case e.Code == "authorization_pending":
		s.Lost = false // there was nothing to lose
	case e.Code == "slow_down":
		s.Interval += deviceInterval
	case e.Temporary():
		s.Interval, trouble = max(s.Interval, min(2*s.Interval, deviceIntervalMax)), err
		s.Lost = s.Lost || e.Kind == KindAmbiguous
	case e.Code == "access_denied", e.Code == "authorization_declined":
		return fail(ReasonDenied, err)
	case e.Code == "expired_token":
		return fail(ReasonExpired, fmt.Errorf("%w; start again", err))
	case s.Lost && e.Code == "invalid_grant":
		return fail(ReasonExchange, fmt.Errorf("%w; the person may have consented, and the tokens been lost with an answer before: start again", err))
	default:
		return fail(ReasonExchange, fmt.Errorf("%w; start again", err))
	}
	wait := max(s.Interval, e.RetryAfter)
	s.Next = f.now().UTC().Add(wait)
	session, err := f.seal(deviceName, s.deviceSession)
	if err != nil {
		return fail(ReasonStorage, err)
	}
	s.sealed = session
	return &DevicePoll{Session: session, Wait: wait, Trouble: trouble}, nil
}
