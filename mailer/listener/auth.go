package listener

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// signInWait is how long a client waits at most until its password is looked at.
const signInWait = 30 * time.Second

// AuthMechanisms are what EHLO offers: nothing where a password must not be said.
func (t *session) AuthMechanisms() []string {
	if t.config.Authenticate == nil || !t.mayAuth() {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

func (t *session) mayAuth() bool {
	return t.client.TLS != nil || t.config.mayUsePlaintext(t.client.Addr.Addr())
}

// signInFirst tells a client that has not signed in what to do.
func (t *session) signInFirst() *smtp.SMTPError {
	switch {
	case t.config.Authenticate == nil:
		return reply(550, 5, 7, 1, "This address may not send here: the operator has to list it, or to set up users")
	case t.mayAuth():
		return reply(530, 5, 7, 0, "Sign in first: give this device or program a user name and a password for sending (SMTP authentication)")
	case t.config.TLS == nil:
		return reply(530, 5, 7, 0, "Nobody can sign in from this address without TLS, which is not offered here: the operator has to change one of them")
	}
	return reply(530, 5, 7, 0, "Turn TLS (STARTTLS) on in this device or program, then sign in")
}

// Auth begins to sign in (RFC 4954).
func (t *session) Auth(mechanism string) (sasl.Server, error) {
	var e *smtp.SMTPError
	switch {
	case t.mail != nil:
		e = reply(503, 5, 5, 1, "AUTH comes before MAIL")
	case t.config.Authenticate == nil:
		e = reply(502, 5, 5, 1, "There are no users here: turn authentication off in this device or program")
	case !t.mayAuth():
		e = t.signInFirst()
		e.Code, e.EnhancedCode = 538, smtp.EnhancedCode{5, 7, 11}
	case mechanism != sasl.Plain && mechanism != sasl.Login:
		e = reply(504, 5, 5, 4, "Only PLAIN and LOGIN are offered here")
	}
	if e != nil {
		return nil, e
	}
	check := func(user, password string) error { return t.signIn(mechanism, user, password) }
	if mechanism == sasl.Login {
		return &login{session: t, check: check}, nil
	}
	return &plain{session: t, check: check}, nil
}

// plain is the server's side of PLAIN (RFC 4616).
type plain struct {
	session *session
	check   func(user, password string) error
}

func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	if response == nil {
		p.session.challenged = true
		return nil, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return nil, true, reply(501, 5, 5, 2, "That is no answer of PLAIN")
	}
	if len(parts[0]) > 0 && !bytes.Equal(parts[0], parts[1]) {
		return nil, true, reply(535, 5, 7, 8, "Nobody can act for another user here: leave the authorization identity empty")
	}
	return nil, true, p.check(string(parts[1]), string(parts[2]))
}

// login is the server's side of LOGIN. Some devices give up on any other prompts.
type login struct {
	session *session
	check   func(user, password string) error
	user    string
	asked   bool
}

func (l *login) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil:
		l.session.challenged = true
		return []byte("Username:"), false, nil
	case !l.asked:
		l.user, l.asked = string(response), true
		l.session.challenged = true
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.user, string(response))
}

// signIn checks a user name and a password.
func (t *session) signIn(mechanism, user, password string) error {
	if t.server.ledger.banned(t.client.Addr.Addr(), time.Now()) > 0 {
		t.hangUp("passwords")
		return reply(421, 4, 7, 0, bannedText)
	}
	ctx, cancel := context.WithTimeout(t.ctx, signInWait)
	defer cancel()
	id, err := t.server.authenticate(ctx, t, user, password)
	switch {
	case err == nil && id != nil:
		t.server.ledger.right(t.client.Addr.Addr(), user)
		t.user, t.client.Mechanism = id, mechanism
		t.identify()
		return nil
	case err == nil, errors.Is(err, ErrWrongPassword):
		return t.wrongPassword(user)
	case !errors.Is(err, errNoTurn):
		t.config.Logger.Error("checking a password", slog.String("session", t.client.Session), slog.Any("error", err))
	}
	t.cause = err
	return reply(454, 4, 7, 0, "The password could not be checked: try again later")
}

// authenticate recognizes who signs in, or waits for its turn to check the password.
func (s *Server) authenticate(ctx context.Context, t *session, user, password string) (*Identity, error) {
	if t.config.Recognize != nil {
		if id := t.config.Recognize(t.client, user, password); id != nil {
			return id, nil
		}
	}
	if err := s.checks.take(ctx, t.stop, s.ledger.standing(t.client.Addr.Addr(), time.Now()) == suspect); err != nil {
		return nil, err
	}
	t.checking.Store(true)
	defer func() {
		t.checking.Store(false)
		s.checks.give()
	}()
	return t.config.Authenticate(ctx, t.client, user, password)
}

const (
	wrongText  = "The user name or the password is wrong"
	bannedText = "Too many wrong passwords came from this address: wait some minutes, and set the password right in this device or program"
)

// wrongPassword has the client wait.
func (t *session) wrongPassword(user string) error {
	l := t.config.Limits
	delay, banned := t.server.ledger.wrong(t.client.Addr.Addr(), user, time.Now(), l)
	if told := t.config.Hooks.WrongPassword; told != nil {
		told(t.client, printable(user, 64), delay, banned)
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.stop:
	case <-t.ctx.Done():
	}
	t.cause = ErrWrongPassword
	t.wrong++
	if t.wrong >= l.WrongPasswords || banned {
		t.hangUp("passwords")
		return reply(421, 4, 7, 0, wrongText+", and not for the first time; good-bye")
	}
	return reply(535, 5, 7, 8, wrongText)
}
