package mailer

import "github.com/emersion/go-sasl"

// loginClient is LOGIN, which no standard defines (draft-murchison-sasl-login
// comes nearest). The server asks for the name and then for the password; in
// which words it asks differs, so they are not looked at.
type loginClient struct {
	user, password string
	asked          int
}

func (l *loginClient) Start() (string, []byte, error) { return sasl.Login, nil, nil }

func (l *loginClient) Next([]byte) ([]byte, error) {
	l.asked++
	switch l.asked {
	case 1:
		return []byte(l.user), nil
	case 2:
		return []byte(l.password), nil
	}
	return nil, sasl.ErrUnexpectedServerChallenge
}
