package listener

import (
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// Hooks are told what happens, for log, metrics and inventory. Any may be nil. They
// are called by many sessions at once, with no lock held, and hold the session up.
// None is told a password.
type Hooks struct {
	// Ended is told of a session that was let in, when it is over.
	Ended func(Session)
	// TurnedAway is told of a connection that was not let in, and why: "banned",
	// "per_address", "full" or "shutdown".
	TurnedAway func(c Client, why string)
	// WrongPassword is told the user name as it was typed, printable and 64 characters
	// at most. People type passwords in its place: show it only if there is such a
	// user. Banned is set if that was one too many.
	WrongPassword func(c Client, user string, delay time.Duration, banned bool)
	// Accepted is told of messages that Send took.
	Accepted func(Client, *Identity, Accepted)
	// Refused is told of commands and messages that were refused, wrong passwords
	// excepted.
	Refused func(Client, Refused)
}

// Session is a connection that is over.
type Session struct {
	Client
	// Identity is nil where nobody signed in, and no message came from a network
	// that need not.
	Identity *Identity
	Begin    time.Time
	// Messages is how many were accepted.
	Messages int
	// End is what ended it: "quit", "gone" (by the client without a word), "idle",
	// "shutdown", "faults", "passwords", "content" (broken off, too slow or too
	// large), "handshake", "protocol", "made_room", "sign_in" (took too long),
	// "messages", "revoked", "internal", or "tls_too_early": the client is set to TLS from the
	// start, and has to be set to STARTTLS.
	End string
}

// Accepted is a message that was taken.
type Accepted struct {
	Receipt  mailer.Receipt
	Envelope mailer.Envelope
	From     mailer.Address
	Size     int64
	// Repaired tells what was mended in it.
	Repaired []string
}

// Refused is a command or message that was refused.
type Refused struct {
	// Identity is nil as long as it is not known.
	Identity *Identity
	// ID is the message's, once there was content.
	ID string
	// Command is in lower case: "auth", "mail", "rcpt", "data" … Content belongs to
	// "data". It is "other" for what is no command.
	Command string
	// Code, Enhanced and Text are what the client was told.
	Code     int
	Enhanced mailer.EnhancedCode
	Text     string
	// Err is the cause. It is nil where the text says all.
	Err error
}
