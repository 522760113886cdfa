package main

import (
	"bytes"
	"io"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

var (
	errAuthNeeded = &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	errAuthFailed = &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "Authentication failed: the token is not valid for this mailbox"}
)

// An inboxSession is one connection to an inbox. go-smtp calls it from one goroutine at a time.
type inboxSession struct {
	inbox *inbox
	user  string // who signed in; empty before

	from string
	to   []string
}

var _ smtp.AuthSession = (*inboxSession)(nil)

// AuthMechanisms implements [smtp.AuthSession].
func (s *inboxSession) AuthMechanisms() []string {
	return []string{"XOAUTH2", sasl.OAuthBearer}
}

// Auth implements [smtp.AuthSession].
func (s *inboxSession) Auth(mechanism string) (sasl.Server, error) {
	switch mechanism {
	case "XOAUTH2":
		return &xoauth2Server{admit: s.admit}, nil
	case sasl.OAuthBearer:
		return newOAuthBearerServer(s.admit), nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

// admit lets user in when token is his. OAUTHBEARER may leave the user out (RFC 7628 section 3.1).
func (s *inboxSession) admit(user, token string) bool {
	email, err := s.inbox.owner(token)
	if err != nil || (user != "" && user != email) {
		return false
	}
	s.user = email
	return true
}

// Mail implements [smtp.Session].
func (s *inboxSession) Mail(from string, _ *smtp.MailOptions) error {
	if s.user == "" {
		return errAuthNeeded
	}
	s.from = from
	return nil
}

// Rcpt implements [smtp.Session].
func (s *inboxSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

// Data implements [smtp.Session].
func (s *inboxSession) Data(r io.Reader) error {
	var raw bytes.Buffer
	_, err := raw.ReadFrom(r)
	if err != nil {
		return err
	}
	m := parseMail(raw.Bytes())
	m.Arrived = s.inbox.now()
	m.SignedInAs, m.MailFrom, m.RcptTo = s.user, s.from, s.to
	s.inbox.add(m)
	return nil
}

// Reset implements [smtp.Session].
func (s *inboxSession) Reset() { s.from, s.to = "", nil }

// Logout implements [smtp.Session].
func (s *inboxSession) Logout() error { return nil }
