//go:build endurance

package endurance

import (
	"io"
	"net"
	"testing"

	"github.com/emersion/go-smtp"
)

// startBareRelay starts what go-smtp alone makes of a relay: each session has a
// connection to the server behind, and hands a message on while it comes in. It stores
// nothing, so that no relay on that library which does store can be faster.
func startBareRelay(b *testing.B, behind string) (address string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		c, err := smtp.Dial(behind)
		return &bareSession{c}, err
	}))
	s.Domain = "bare.example"
	go func() { _ = s.Serve(l) }()
	b.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

type bareSession struct{ behind *smtp.Client }

func (s *bareSession) Mail(from string, _ *smtp.MailOptions) error { return s.behind.Mail(from, nil) }
func (s *bareSession) Rcpt(to string, _ *smtp.RcptOptions) error   { return s.behind.Rcpt(to, nil) }

func (s *bareSession) Data(r io.Reader) error {
	w, err := s.behind.Data()
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	return w.Close()
}

func (s *bareSession) Reset()        {}
func (s *bareSession) Logout() error { return s.behind.Close() }
