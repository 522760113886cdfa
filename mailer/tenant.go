package mailer

import (
	"context"
	"errors"
	"strings"
)

// Tenant is SMTP settings under a name, ready to send with. It must not change
// while it is in use, and may be used concurrently.
type Tenant struct {
	Name   string
	Server Server
	// Auth signs in. Nil: the server asks for no sign-in.
	Auth Authenticator
	// Senders are the addresses allowed in From and MAIL FROM.
	Senders Senders
	// Recipients are those that messages may go to. Nil: any.
	Recipients *Senders
	// Pool keeps the connections of the mailbox. Tenants that share a mailbox
	// may share it where Server and Auth are the same. Nil: each message gets
	// a connection of its own.
	Pool *Pool
	// Limits are the mailbox's. Tenants that share a mailbox share them. Nil: none.
	Limits *Limiter
	// Failover names the tenant that sends while this one cannot; see
	// [Mailer.Send].
	Failover string
	// Breaker remembers that the tenant cannot send. Nil: each message tries it
	// before it goes to Failover.
	Breaker *Breaker
	// Deliver turns mail away from its recipients, for staging.
	Deliver Delivery
	// AllRecipients sends no message of which the server refuses a recipient,
	// whatever its options say.
	AllRecipients bool
	// Paced, if set, is told when the server slows the mailbox down, and when it
	// is well again.
	Paced func(PaceChange)
}

// Submit sends one message over one connection. It applies no sender rules.
// The error is an [*Error].
//
// The end of ctx breaks the submission off as long as no content was written;
// from then on Submit waits for the outcome, within the server's [Timeouts].
// A pooled connection that turns out dead before the content is replaced,
// once.
func (t *Tenant) Submit(ctx context.Context, env Envelope, content Content, o Options) (Receipt, error) {
	if e := checkSendable(&env, content, &o); e != nil {
		return Receipt{}, e
	}
	return t.submitChecked(ctx, env, content, o, nil)
}

// submitChecked submits what checkSendable has let pass.
func (t *Tenant) submitChecked(ctx context.Context, env Envelope, content Content, o Options, a *attempt) (Receipt, error) {
	o.AllRecipients = o.AllRecipients || t.AllRecipients
	if t.Deliver.Astray() {
		return t.submitAstray(ctx, env, content, o)
	}
	return t.submitLimited(ctx, env, content, o, a)
}

// submitLimited submits when it is the message's turn.
func (t *Tenant) submitLimited(ctx context.Context, env Envelope, content Content, o Options, a *attempt) (r Receipt, err error) {
	slot, e := t.Limits.reserve(ctx, len(env.To), o.Wait)
	if e != nil {
		return Receipt{}, e
	}
	defer func() {
		if cause := throttle(r, err); cause != nil && cause.Reply.Code == 432 && t.Pool != nil {
			t.Pool.Drain() // idle connections count, too
		}
		if change := slot.Done(r, err); t.Paced != nil && change != (PaceChange{}) {
			t.Paced(change)
		}
	}()
	return t.submit(ctx, env, content, o, a)
}

// submit sends over a connection of the pool, and once more where that was dead.
func (t *Tenant) submit(ctx context.Context, env Envelope, content Content, o Options, a *attempt) (Receipt, error) {
	pool := t.Pool
	if pool == nil {
		pool = new(Pool)
		pool.Close()
	}
	m := &outgoing{env, content, o}
	for fresh := false; ; fresh = true {
		c, err := pool.get(ctx, m, a.dialer(t.dial), fresh)
		if err != nil {
			return Receipt{}, err
		}
		bounded := a.bound(ctx)
		r, dead, e := transactOn(bounded, pool, c, m)
		switch {
		case e == nil:
			r.Tenant = t.Name
			return r, nil
		case fresh || bounded.Err() != nil || !dead:
			return Receipt{}, e
		}
	}
}

// transactOn runs a transaction on a connection of the pool and gives it back,
// even if a content or a token source panics. Dead says whether a new connection
// may do better.
func transactOn(ctx context.Context, pool *Pool, c *Conn, m *outgoing) (r Receipt, dead bool, e *Error) {
	whole := false
	defer func() {
		if dead = e != nil && wasDead(c, e); dead || !whole {
			c.broken = true
		}
		pool.put(c) // then it is another's
	}()
	r, e = c.transact(ctx, m)
	whole = true
	return r, false, e
}

func (t *Tenant) dial(ctx context.Context) (*Conn, error) {
	c, e := t.Server.connect(ctx, t.Auth)
	if e != nil {
		return nil, e
	}
	return c, nil
}

// Warm signs in and keeps the connection for the next message, if the pool has
// none. The error is an [*Error].
func (t *Tenant) Warm(ctx context.Context) error {
	if t.Pool == nil {
		return nil
	}
	return t.Pool.warm(ctx, t.dial)
}

// SignIn tries whether the server lets a in, without sending anything. A nil a
// means the tenant's own. The pool is left alone. The error is an [*Error].
func (t *Tenant) SignIn(ctx context.Context, a Authenticator) error {
	if a == nil {
		a = t.Auth
	}
	c, e := t.Server.connect(ctx, a)
	if e != nil {
		return e
	}
	c.close()
	return nil
}

// wasDead reports whether a transaction failed because an idle connection had
// ended unnoticed, or the session on it had. As no content was written, the
// message may be sent again without fear of a duplicate.
//
// A verdict about the message or the mailbox is not asked for again: servers
// count refusals, and a throttle wants to be obeyed.
func wasDead(c *Conn, e *Error) bool {
	switch {
	case !c.reused || c.begun:
		return false
	case e.Reply.Code == 0:
		return c.broken
	case saysGoodbye(e.Stage, e.Reply):
		return e.Kind != KindThrottled
	case e.Stage == StageMail || e.Stage == StageRcpt:
		return e.Reply.Code == 530 || e.Reply.Code == 535 || e.Reply.Code == 503
	}
	return false
}

func checkSendable(env *Envelope, content Content, o *Options) *Error {
	bad := func(code, field, what string) *Error {
		return &Error{Stage: StageAccept, Kind: KindInvalid, Code: code, Field: field, Err: errors.New(what)}
	}
	switch {
	case len(env.To) == 0:
		return bad("no_recipients", "to", "no recipients")
	case content == nil:
		return bad("no_content", "", "no content")
	}
	if what := o.DSN.fault(); what != "" {
		return bad("bad_dsn", "dsn", what)
	}
	// Addresses were parsed long ago. This makes sure that none ends its command
	// early, whoever built it.
	if !env.From.IsZero() && !fitsPath(env.From) {
		return bad("bad_address", "from", "malformed sender")
	}
	for _, a := range env.To {
		if !fitsPath(a) {
			return bad("bad_address", "to", "malformed recipient")
		}
	}
	return nil
}

func fitsPath(a Address) bool {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f }
	return a.specFault() == "" && !strings.ContainsFunc(a.Local, bad) && !strings.ContainsFunc(a.Domain, bad)
}
