package mailer

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// Stage is the part of a submission in which something happened.
type Stage string

// The stages of a submission, in their order.
const (
	StageAccept   Stage = "accept"   // checks of our own, before any connection
	StageLimit    Stage = "limit"    // waiting for a slot of the mailbox
	StageDNS      Stage = "dns"      // looking up the server
	StageConnect  Stage = "connect"  // TCP
	StageTLS      Stage = "tls"      // handshake and verification
	StageGreeting Stage = "greeting" // the server's first words
	StageEHLO     Stage = "ehlo"
	StageSTARTTLS Stage = "starttls"
	StageToken    Stage = "token" // getting an access token
	StageAuth     Stage = "auth"
	StageMail     Stage = "mail"
	StageRcpt     Stage = "rcpt"
	StageData     Stage = "data"  // DATA or BDAT, and writing the content
	StageFinal    Stage = "final" // the reply after the end of the content
)

// Kind classifies a failure by what is to be done about the message.
type Kind int

// The kinds of failure. Each maps to one [Outcome].
const (
	// KindNone is the absence of a failure.
	KindNone Kind = iota
	// KindInvalid: the submission itself is malformed. Sending it again cannot
	// help.
	KindInvalid
	// KindSender: the caller or the tenant may not use this sender.
	KindSender
	// KindRejected: the server refused the message or recipient for good.
	KindRejected
	// KindTemporary: network trouble or a 4yz reply. Later tries may succeed.
	KindTemporary
	// KindThrottled: the server, or a limit of ours, asks to go slower.
	KindThrottled
	// KindUnauthorized: the mailbox cannot sign in until a person acts.
	KindUnauthorized
	// KindConfig: a setting of ours or of the server is wrong; a person must
	// change it.
	KindConfig
	// KindUnknown: the reply to the content was lost; the message may have
	// been sent.
	KindUnknown
)

var kindNames = [...]string{"none", "invalid", "sender", "rejected", "temporary", "throttled", "unauthorized", "config", "unknown"}

func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return kindNames[k]
}

// Outcome is what an outbox does with a message after a try.
type Outcome int

// The outcomes of a try.
const (
	Done  Outcome = iota // handed over
	Retry                // try again later
	Park                 // keep, until a person has put the mailbox right
	Dead                 // give up and report
	Doubt                // may have been sent: the tenant's policy decides
)

// Outcome returns what is to become of a message that failed with kind k.
func (k Kind) Outcome() Outcome {
	switch k {
	case KindNone:
		return Done
	case KindTemporary, KindThrottled:
		return Retry
	case KindUnauthorized, KindConfig:
		return Park
	case KindUnknown:
		return Doubt
	case KindInvalid, KindSender, KindRejected:
		return Dead
	}
	return Dead
}

// EnhancedCode is an enhanced status code (RFC 3463), such as 5.7.1. The zero
// value means that the server gave none.
type EnhancedCode [3]int

func (e EnhancedCode) String() string {
	if e == (EnhancedCode{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", e[0], e[1], e[2])
}

// Reply is a reply of a mail server (RFC 5321, section 4.2). Its text is a
// stranger's: it has no control characters and at most 500 octets, and it is
// not to be trusted further than that.
type Reply struct {
	Code     int
	Enhanced EnhancedCode
	// Text is the reply without codes; lines are joined by a space.
	Text string
}

func (r Reply) String() string {
	var b strings.Builder
	if r.Code != 0 {
		fmt.Fprintf(&b, "%03d ", r.Code)
	}
	if e := r.Enhanced.String(); e != "" {
		b.WriteString(e + " ")
	}
	b.WriteString(r.Text)
	return strings.TrimSpace(b.String())
}

// Error is a failed submission. It never holds a token or a password.
type Error struct {
	Stage Stage
	Kind  Kind
	// Server is the host and port of the mail server, where one was to be asked.
	Server string
	// Reply is the server's reply, where there was one.
	Reply Reply
	// RetryAfter is how long to wait before the next try, where that is known.
	RetryAfter time.Duration
	// Recipients tells about each recipient, where the server spoke of them.
	Recipients []RecipientOutcome
	// Field names the field of the submission that is at fault, with Kind
	// KindInvalid or KindSender: "subject", "to", "headers.X-Name" …
	Field string
	// Code refines Kind for programs: "bad_address", "line_break",
	// "sender_not_allowed", "over_upstream_size" …
	Code string
	// AuthStatus is the status in the challenge with which XOAUTH2 and
	// OAUTHBEARER announce a refusal: "401", "invalid_token" … It is as much a
	// stranger's text as the reply.
	AuthStatus string
	// Grant is how the mailbox signs in, with a refusal of the sign-in.
	Grant diagnosis.Grant
	// DiagnosisID names the diagnosis of an error that no longer holds what led to it.
	DiagnosisID string
	// Err is the cause, where it is not a reply.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Stage))
	if e.Server != "" {
		b.WriteString(" " + e.Server)
	}
	if e.Field != "" {
		b.WriteString(" " + e.Field)
	}
	if e.Reply.Code != 0 {
		b.WriteString(": server replied " + e.Reply.String())
	}
	if e.AuthStatus != "" {
		b.WriteString(" (status " + e.AuthStatus + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }
