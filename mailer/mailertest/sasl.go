package mailertest

import (
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// xoauth2Server refuses by a challenge and then a 535, as Gmail does.
type xoauth2Server struct {
	check  func(user, token string) bool
	failed bool
}

func (x *xoauth2Server) Next(response []byte) ([]byte, bool, error) {
	switch {
	case x.failed:
		return nil, false, smtp.ErrAuthFailed
	case response == nil:
		return []byte{}, false, nil
	}
	user, token := bearer(response)
	if x.check(user, token) {
		return nil, true, nil
	}
	x.failed = true
	return []byte(`{"status":"401","schemes":"bearer","scope":"mail"}`), false, nil
}

// bearer reads the response of XOAUTH2 or OAUTHBEARER (RFC 7628).
func bearer(response []byte) (user, token string) {
	for field := range strings.SplitSeq(string(response), "\x01") {
		if v, ok := strings.CutPrefix(field, "user="); ok {
			user = v
		}
		if v, ok := strings.CutPrefix(field, "n,a="); ok {
			user = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(strings.TrimSuffix(v, ","))
		}
		if v, ok := strings.CutPrefix(field, "auth=Bearer "); ok {
			token = v
		}
	}
	return user, token
}

// refusing says 535 where go-smtp would say 454.
type refusing struct{ sasl.Server }

func (r refusing) Next(response []byte) ([]byte, bool, error) {
	challenge, done, err := r.Server.Next(response)
	if err != nil {
		err = smtp.ErrAuthFailed
	}
	return challenge, done, err
}

type loginServer struct {
	check func(user, password string) bool
	user  *string
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case response == nil:
		return []byte("Username:"), false, nil
	case l.user == nil:
		user := string(response)
		l.user = &user
		return []byte("Password:"), false, nil
	case l.check(*l.user, string(response)):
		return nil, true, nil
	}
	return nil, false, smtp.ErrAuthFailed
}
