package mailertest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Server is a submission server on loopback TCP that records what it gets. It
// wants a sign-in by XOAUTH2, OAUTHBEARER, PLAIN or LOGIN over TLS. It may be
// used concurrently.
type Server struct {
	Addr     string // host:port
	Host     string
	Port     int
	CertPool *x509.CertPool
	CA       []byte // the authority's certificate, in PEM

	mu         sync.Mutex
	mechanisms []string
	tokens     map[string]string // to user
	accepts    func(user, token string) bool
	passwords  map[string]string // by user
	refused    map[string]*smtp.SMTPError
	verdicts   []*smtp.SMTPError
	messages   []Message
	logins     []Login
	sessions   int
}

// Message is what the server took.
type Message struct {
	User string // who had signed in
	From string
	To   []string
	Data string // without dot-stuffing
}

// Login is one try to sign in.
type Login struct {
	Mechanism string
	User      string
	OK        bool
}

// NewServer starts a server that offers STARTTLS. It stops when the test ends.
func NewServer(t testing.TB) *Server { return newServer(t, false) }

// NewTLSServer starts a server that begins with the TLS handshake.
func NewTLSServer(t testing.TB) *Server { return newServer(t, true) }

func newServer(t testing.TB, implicit bool) *Server {
	t.Helper()
	config, pool := NewCertificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr)
	s := &Server{
		Addr: at.String(), Host: "127.0.0.1", Port: at.Port, CertPool: pool,
		CA:         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[1]}),
		mechanisms: []string{"XOAUTH2", sasl.OAuthBearer, sasl.Plain, sasl.Login},
		tokens:     make(map[string]string),
		passwords:  make(map[string]string),
		refused:    make(map[string]*smtp.SMTPError),
	}
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, secure := c.TLSConnectionState(); secure { // STARTTLS begins anew
			s.sessions++
		}
		return &session{s: s}, nil
	}))
	srv.Domain = "mail.example.com"
	srv.EnableSMTPUTF8 = true
	srv.MaxLineLength = 16 << 10
	srv.MaxMessageBytes = 64 << 20
	srv.ReadTimeout, srv.WriteTimeout = time.Minute, time.Minute
	srv.ErrorLog = log.New(io.Discard, "", 0)
	if implicit {
		l = tls.NewListener(l, config)
	}
	srv.TLSConfig = config
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return s
}

// Offer sets the SASL mechanisms offered.
func (s *Server) Offer(mechanisms ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mechanisms = mechanisms
}

// AllowToken accepts an access token for a user.
func (s *Server) AllowToken(user, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = user
}

// AcceptTokens has f decide about access tokens that AllowToken did not name.
func (s *Server) AcceptTokens(f func(user, token string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepts = f
}

// RejectToken accepts an access token no longer.
func (s *Server) RejectToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, token)
}

// AllowPassword accepts a password for a user.
func (s *Server) AllowPassword(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[user] = password
}

// RejectRecipient refuses an address at RCPT from now on.
func (s *Server) RejectRecipient(addr string, code int, enhanced [3]int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[strings.ToLower(addr)] = &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}

// RejectNextContent refuses the content of the next message; called several
// times, of as many messages.
func (s *Server) RejectNextContent(code int, enhanced [3]int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdicts = append(s.verdicts, &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text})
}

// Messages returns the messages taken so far.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Logins returns the tries to sign in so far.
func (s *Server) Logins() []Login {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.logins)
}

// Sessions counts the sessions that came as far as EHLO under TLS.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

func (s *Server) login(mechanism, user string, ok bool) bool {
	s.logins = append(s.logins, Login{mechanism, user, ok})
	return ok
}

func (s *Server) checkToken(mechanism, user, token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, ok := s.tokens[token]
	if !ok && s.accepts != nil {
		return s.login(mechanism, user, s.accepts(user, token))
	}
	return s.login(mechanism, user, ok && owner == user)
}

func (s *Server) checkPassword(mechanism, user, password string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, ok := s.passwords[user]
	return s.login(mechanism, user, ok && want == password)
}

// session is one connection. go-smtp never calls it concurrently.
type session struct {
	s    *Server
	user string
	from string
	to   []string
}

func (c *session) AuthMechanisms() []string {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return slices.Clone(c.s.mechanisms)
}

func (c *session) Auth(mechanism string) (sasl.Server, error) {
	switch {
	case !slices.Contains(c.AuthMechanisms(), mechanism):
	case mechanism == "XOAUTH2":
		return &xoauth2Server{check: func(user, token string) bool {
			return c.admit(user, c.s.checkToken(mechanism, user, token))
		}}, nil
	case mechanism == sasl.OAuthBearer:
		return refusing{sasl.NewOAuthBearerServer(func(o sasl.OAuthBearerOptions) *sasl.OAuthBearerError {
			user := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(o.Username)
			if !c.admit(user, c.s.checkToken(mechanism, user, o.Token)) {
				return &sasl.OAuthBearerError{Status: "invalid_token", Schemes: "bearer"}
			}
			return nil
		})}, nil
	case mechanism == sasl.Plain:
		return sasl.NewPlainServer(func(_, user, password string) error {
			if !c.admit(user, c.s.checkPassword(mechanism, user, password)) {
				return smtp.ErrAuthFailed
			}
			return nil
		}), nil
	case mechanism == sasl.Login:
		return &loginServer{check: func(user, password string) bool {
			return c.admit(user, c.s.checkPassword(mechanism, user, password))
		}}, nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

func (c *session) admit(user string, ok bool) bool {
	if ok {
		c.user = user
	}
	return ok
}

func (c *session) Mail(from string, _ *smtp.MailOptions) error {
	if c.user == "" {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	c.from = from
	return nil
}

func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if err := c.s.refused[strings.ToLower(to)]; err != nil {
		return err
	}
	c.to = append(c.to, to)
	return nil
}

func (c *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if len(c.s.verdicts) > 0 {
		err := c.s.verdicts[0]
		c.s.verdicts = c.s.verdicts[1:]
		return err
	}
	c.s.messages = append(c.s.messages, Message{User: c.user, From: c.from, To: slices.Clone(c.to), Data: string(data)})
	return nil
}

func (c *session) Reset() { c.from, c.to = "", nil }

func (c *session) Logout() error { return nil }
