package mailer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Probe is what a connection test tries.
type Probe struct {
	// From is the sender that MAIL names; without one, nothing is tried after the
	// sign-in.
	From Address
	// Limit is the longest that the test may take: 60 s.
	Limit time.Duration
	// Report is told of each stage when it ends, on the goroutine of the test. It
	// may be nil.
	Report func(Step)
}

// Verdict is the outcome of a connection test.
type Verdict struct {
	Tenant string
	Server string // host and port
	// Steps are the stages that the tenant's settings call for, in their order,
	// with those that were skipped. After an access token was refused and another
	// one was to be had, they come a second time.
	Steps []Step
	Took  time.Duration
	// Err is why the test failed; nil if it did not. Its stage is that of the last
	// step that was not skipped.
	Err *Error
}

// A test waits no longer than this for a server that would be waited for longer
// if there was a message to send.
const (
	testLimit   = time.Minute
	testDial    = 15 * time.Second
	testAnswer  = 30 * time.Second
	testLookTLS = 5 * time.Second
)

// Test connects and signs in just as [Tenant.Submit] does, and begins a
// transaction that it takes back: no message is sent. It has a connection of its
// own and leaves the pool alone. It drops an access token that the server
// refuses, as Submit would. The end of ctx ends it.
//
// That a server takes the sender here does not prove that the mailbox may send
// as it: some say no to the content. Only a test mail shows that.
func (t *Tenant) Test(ctx context.Context, p Probe) Verdict {
	began := time.Now()
	limit := cmp.Or(p.Limit, testLimit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("connection test was ended after %v: %w", limit, context.DeadlineExceeded))
	defer cancel()
	s := t.Server
	s.Sessions = nil // the certificate of today is to be seen
	s.Timeouts = s.Timeouts.withDefaults()
	s.Timeouts.Dial = min(s.Timeouts.Dial, testDial)
	s.Timeouts.Greeting = min(s.Timeouts.Greeting, testAnswer)
	s.Timeouts.Command = min(s.Timeouts.Command, testAnswer)

	r := &testRun{tenant: t, probe: p, left: s.stages(), round: 1}
	err := s.try(withTrace(ctx, func(st Step) {
		if st.Stage == StageGreeting {
			s.explainSilence(ctx, st.Err)
		}
		r.step(st)
	}), t.Auth, p.From)
	r.finish(err)
	return Verdict{Tenant: t.Name, Server: s.addr(), Steps: r.steps, Took: time.Since(began), Err: err}
}

// try goes through a session without a message.
func (s Server) try(ctx context.Context, a Authenticator, from Address) *Error {
	c, e := s.enter(ctx, a)
	if e != nil {
		return e
	}
	defer c.close()
	if from.IsZero() {
		return nil
	}
	e = traced(ctx, StageMail, func(f *Facts) *Error {
		params, e := c.fromParams(from)
		if e != nil {
			return e
		}
		raw, e := c.expect(ctx, StageMail, 2, "MAIL FROM:<"+from.Mailbox()+">"+params)
		if f != nil {
			f.From = from.Mailbox()
		}
		f.reply(raw)
		return e
	})
	if e != nil {
		return e
	}
	return traced(ctx, StageReset, func(*Facts) *Error { return c.reset(ctx) })
}

// fromParams checks a sender and returns the parameters of MAIL that it needs.
func (c *Conn) fromParams(from Address) (string, *Error) {
	bad := func(code, what string) *Error {
		return &Error{Stage: StageMail, Kind: KindInvalid, Code: code, Field: "from", Server: c.addr, Err: errors.New(what)}
	}
	switch {
	case !fitsPath(from):
		return "", bad(codeBadAddress, "malformed sender")
	case !from.NeedsSMTPUTF8():
		return "", nil
	case !c.offers("SMTPUTF8"):
		return "", bad("smtputf8_required", "address needs SMTPUTF8, which the server does not offer")
	}
	return " SMTPUTF8", nil
}

// explainSilence finds out why a server did not greet: one that speaks TLS from
// the start waits for the client, as the client waits for it.
func (s Server) explainSilence(ctx context.Context, e *Error) {
	if e == nil || s.Security == ImplicitTLS || !errors.Is(e.Err, os.ErrDeadlineExceeded) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, testLookTLS)
	defer cancel()
	c := &Conn{server: s, addr: s.addr(), timeouts: s.Timeouts}
	if c.dial(ctx) != nil {
		return
	}
	defer c.raw.Close()
	if failed := c.handshake(ctx); failed != nil {
		if _, shown := errors.AsType[*tls.CertificateVerificationError](failed.Err); !shown {
			return
		}
	}
	e.Kind, e.Code = KindConfig, "implicit_tls"
	e.Err = errors.New("server said nothing, but it answers a TLS handshake: it speaks TLS from the start, which the settings have to say (smtps://)")
}

// stages are those that a session with the server goes through.
func (s Server) stages() []Stage {
	begin := []Stage{StageDNS, StageConnect}
	end := []Stage{StageToken, StageAuth, StageMail, StageReset}
	switch s.Security {
	case ImplicitTLS:
		return slices.Concat(begin, []Stage{StageTLS, StageGreeting, StageEHLO}, end)
	case Plaintext:
		return slices.Concat(begin, []Stage{StageGreeting, StageEHLO, StageTLS}, end)
	case StartTLS:
	}
	return slices.Concat(begin, []Stage{StageGreeting, StageEHLO, StageSTARTTLS, StageTLS, StageEHLO}, end)
}

// testRun is a test under way.
type testRun struct {
	tenant *Tenant
	probe  Probe
	left   []Stage // stages that are still to come
	round  int
	steps  []Step
}

// step takes a stage that was gone through, and those before it that were not.
func (r *testRun) step(s Step) {
	if !slices.Contains(r.left, s.Stage) { // from the beginning
		r.round++
		r.left = r.tenant.Server.stages()
	}
	for len(r.left) > 0 {
		next := r.left[0]
		r.left = r.left[1:]
		if next == s.Stage {
			break
		}
		r.add(Step{Stage: next, Skipped: r.why(next)})
	}
	r.add(s)
}

func (r *testRun) add(s Step) {
	s.Round = r.round
	if s.Err != nil && s.Err.Server == "" {
		named := *s.Err // the authenticator's own
		named.Server = r.tenant.Server.addr()
		s.Err = &named
	}
	r.steps = append(r.steps, s)
	if r.probe.Report != nil {
		r.probe.Report(s)
	}
}

// finish adds what did not come to pass.
func (r *testRun) finish(e *Error) {
	if e != nil && (len(r.steps) == 0 || r.steps[len(r.steps)-1].Err == nil) {
		r.step(Step{Stage: e.Stage, Began: time.Now(), Err: e}) // before its stage could begin
	}
	for _, s := range r.left {
		why := "an earlier stage failed"
		if e == nil {
			why = r.why(s)
		}
		r.add(Step{Stage: s, Skipped: why})
	}
	r.left = nil
}

// why tells why a stage was skipped though none before it failed.
func (r *testRun) why(s Stage) string {
	t := r.tenant
	_, literal := netip.ParseAddr(t.Server.Host)
	_, password := t.Auth.(Password)
	switch {
	case s == StageDNS && literal == nil:
		return "the server is given as an address"
	case s == StageDNS && !t.Server.Proxy.IsZero():
		return "the proxy looks the server up"
	case s == StageTLS && t.Server.Security == Plaintext:
		return "the settings say plaintext: mails and passwords can be read on the way"
	case (s == StageToken || s == StageAuth) && t.Auth == nil:
		return "the settings say that nobody signs in"
	case s == StageToken && password:
		return "a password signs in"
	case s == StageToken:
		return "there is no way to use it"
	case (s == StageMail || s == StageReset) && r.probe.From.IsZero():
		return "no sender was given to try"
	}
	return "it was not called for"
}
