package listener

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// ErrWrongPassword says that a user is unknown or the password is not the user's.
var ErrWrongPassword = errors.New("wrong user name or password")

// Config is what sessions begin with. It must not change once a [Server] has it.
// The functions may be called by many sessions at once; those that may be left
// out say so.
type Config struct {
	// Hostname stands in the greeting.
	Hostname string
	// TLS is for STARTTLS, or for the handshake that begins the session. Nil: there
	// is no TLS.
	TLS *tls.Config
	// Implicit begins sessions with the handshake (RFC 8314, section 3.3).
	Implicit bool
	// PlaintextFrom are the networks whose clients may sign in without TLS.
	PlaintextFrom []netip.Prefix

	// Authenticate finds out who signs in. It takes the same time whether the user
	// exists or not. A wrong user or password is [ErrWrongPassword]; any other error
	// is taken for trouble of ours, which passes. It may be costly: in the process, so
	// many calls run at once as are half of the processors that Go uses. Nil: nobody
	// can sign in.
	Authenticate func(ctx context.Context, c Client, user, password string) (*Identity, error)
	// Recognize is asked before, without waiting, and costs next to nothing. It finds
	// who signs in if it can, by a password that was right before; else it returns nil.
	// If it is nil, all are checked by Authenticate.
	Recognize func(c Client, user, password string) *Identity
	// Network finds the identity of clients that need not sign in; nil for those that
	// have to. It is asked at the beginning of each message. If it is nil, all have to.
	Network func(Client) *Identity
	// Revoked reports that somebody may no longer send, though the session began when
	// he might. It is asked at the beginning of each message. If it is nil, all may.
	Revoked func(*Identity) bool
	// Send takes a message. It must be done with its content when it returns. The
	// error is a [*mailer.Error].
	Send func(context.Context, mailer.Submission) (mailer.Receipt, error)
	// Outbox says that Send stores messages and returns. Without one, Send tells what
	// the mail server said, and a message goes to all its recipients or to none:
	// nobody else would tell the client about one of them.
	Outbox bool

	// Intake reads the messages. Its MaxSize is 36 MiB where it is zero; From and
	// DefaultFrom are those of the identity, and Trace is written here.
	Intake mailer.Intake
	Limits Limits
	Hooks  Hooks
	// Logger is told what goes wrong in here; refusals go to the hooks. Nil: nobody.
	Logger *slog.Logger
}

// Client is a connection, as far as it is known.
type Client struct {
	// Addr is the client's address; not valid where it has none, as on a Unix socket.
	Addr netip.AddrPort
	// Local is the address that it connected to.
	Local netip.AddrPort
	// ServerName is the host that it asked for in the handshake, if it did.
	ServerName string
	// TLS is nil as long as there is none.
	TLS *tls.ConnectionState
	// Greeting is what it said with EHLO or HELO: 255 printable characters at most.
	Greeting string
	// Mechanism is how it signed in: "PLAIN", "LOGIN", or empty.
	Mechanism string
	// Session is an id for logs.
	Session string
}

// Identity is on whose behalf a client sends.
type Identity struct {
	// Kind and Name make the submission's [mailer.Caller]: "user" or "network", and a
	// name from the configuration.
	Kind, Name string
	Tenant     string
	// From, if set, is the sender of all messages, in the header and on the envelope.
	From mailer.Address
	// DefaultFrom is the sender of messages that have none, or on the envelope one
	// that is no address, such as "root" and "root@localhost".
	DefaultFrom mailer.Address
}

// Limits bound what clients can cost. Zero fields have the values in brackets.
type Limits struct {
	// Connections is how many may be open at once (100). Where there are as many, one
	// that has not signed in makes room for another address: first of those from which
	// came wrong passwords lately, or connections that led to nothing.
	Connections int
	// PerAddress is how many one address may have (10). Where it has as many, one that
	// has not signed in makes room. Of IPv6 the first 64 bits count.
	PerAddress int
	// Recipients of a message (100).
	Recipients int
	// Messages that one connection may bring (1,000).
	Messages int
	// Faults is how many commands of a connection may be refused (20).
	Faults int
	// Idle is how long a client may take for a line, to read a reply, and to send
	// nothing within content (60 s).
	Idle time.Duration
	// SignIn is how long it may take until it is known who it is (2 min).
	SignIn time.Duration
	// Content is how long it may take for the whole content of a message (10 min).
	Content time.Duration
	// MinRate is how fast content has to come, in octets a second, on average after
	// the first 30 s (500).
	MinRate int
	// Send is how long Send may take (5 min).
	Send time.Duration
	// WrongPasswords is how many one connection may try (3).
	WrongPasswords int
	// WrongPerAddress is how many an address may try (20) before it is turned away
	// for the time of Ban (10 min). They are forgotten after that time, or when
	// somebody signs in from there, as is that connections led to nothing.
	WrongPerAddress int
	Ban             time.Duration
	// LongestDelay bounds the wait for the answer to a wrong password (10 s). It
	// begins with half a second and doubles with each by the address or for the user.
	LongestDelay time.Duration
}

const defaultMaxSize = 36 << 20

func (l Limits) withDefaults() Limits {
	return Limits{
		Connections:     cmp.Or(l.Connections, 100),
		PerAddress:      cmp.Or(l.PerAddress, 10),
		Recipients:      cmp.Or(l.Recipients, 100),
		Messages:        cmp.Or(l.Messages, 1000),
		Faults:          cmp.Or(l.Faults, 20),
		Idle:            cmp.Or(l.Idle, time.Minute),
		SignIn:          cmp.Or(l.SignIn, 2*time.Minute),
		Content:         cmp.Or(l.Content, 10*time.Minute),
		MinRate:         cmp.Or(l.MinRate, 500),
		Send:            cmp.Or(l.Send, 5*time.Minute),
		WrongPasswords:  cmp.Or(l.WrongPasswords, 3),
		WrongPerAddress: cmp.Or(l.WrongPerAddress, 20),
		Ban:             cmp.Or(l.Ban, 10*time.Minute),
		LongestDelay:    cmp.Or(l.LongestDelay, 10*time.Second),
	}
}

// withDefaults returns a copy that the server may keep.
func (c *Config) withDefaults() *Config {
	d := *c
	d.Limits = c.Limits.withDefaults()
	d.Intake.MaxSize = cmp.Or(c.Intake.MaxSize, defaultMaxSize)
	d.Hostname = cmp.Or(c.Hostname, "localhost")
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return &d
}

// mayUsePlaintext reports whether a client may sign in without TLS.
func (c *Config) mayUsePlaintext(a netip.Addr) bool {
	for _, p := range c.PlaintextFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
