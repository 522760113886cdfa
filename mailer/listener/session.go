package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// session is one connection. Its methods that go-smtp calls run on one goroutine.
type session struct {
	*wire
	server *Server
	config *Config
	smtp   *smtp.Server // its own, so that it can be told of TLS
	begin  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	end    sync.Once

	client Client
	user   *Identity // who signed in
	who    *Identity // who it was last, by network or as a user
	// known is set once it is known who it is. It does not have to make room then.
	known atomic.Bool
	// checking is set while a password is being checked.
	checking atomic.Bool
	standing standing // of its address, when it came

	pending    []byte // for go-smtp to read
	swallow    bool   // the next reply is to a command that the client did not say
	introduced bool   // go-smtp was greeted on behalf of the client
	ehlo       bool   // the reply to EHLO is being written
	extended   bool   // the client said EHLO, not HELO
	challenged bool   // the next line answers a challenge of AUTH
	contentEnd bool   // go-smtp waits for the end of the content, which was read
	over       string // what ended the session; empty as long as it lasts
	faults     int    // replies that refuse
	verb       string // the command at hand, in lower case
	id         string // of the message whose content it is
	cause      error  // of its refusal
	chatter    int    // commands since the last message that bring none on
	wrong      int    // wrong passwords
	messages   int

	mail *transaction
}

// transaction is a message on its way in.
type transaction struct {
	identity *Identity
	env      mailer.Envelope
	options  mailer.Options
	utf8     bool // SMTPUTF8 was asked for
}

func newSession(s *Server, c *Config, nc net.Conn) *session {
	ctx, cancel := context.WithCancel(context.Background())
	t := &session{
		wire: newWire(nc, c.Limits.Idle), server: s, config: c, begin: time.Now(), ctx: ctx, cancel: cancel,
		client: Client{Addr: addrPort(nc.RemoteAddr()), Local: addrPort(nc.LocalAddr()), Session: mailer.NewID()},
	}
	t.identify()
	return t
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		p, err := netip.ParseAddrPort(a.String())
		if err != nil {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	p := tcp.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// identify returns who the client is, nil while that is not known.
func (t *session) identify() *Identity {
	id := t.user
	if id == nil && t.config.Network != nil {
		id = t.config.Network(t.client)
	}
	if id != nil {
		t.who = id
		t.known.Store(true)
	}
	return id
}

// run serves the session, which goes on when it returns.
func (t *session) run() {
	defer t.rescue()
	if t.config.Implicit && !t.handshake() {
		t.quit("handshake")
		return
	}
	c := t.config
	t.smtp = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return t, nil }))
	t.smtp.Domain = c.Hostname
	t.smtp.MaxRecipients = c.Limits.Recipients
	t.smtp.MaxMessageBytes = c.Intake.MaxSize
	t.smtp.MaxLineLength = 0 // lines are bounded here
	t.smtp.AllowInsecureAuth = true
	t.smtp.EnableSMTPUTF8 = true
	t.smtp.EnableDSN = true
	t.smtp.EnableREQUIRETLS = true
	t.smtp.ErrorLog = trouble{t.config.Logger, t.client.Session}
	if t.client.TLS == nil {
		t.smtp.TLSConfig = c.TLS // STARTTLS is offered
	}
	_ = t.smtp.Serve(&once{conn: feed{t}})
}

// quit ends the session. Only the first call counts.
func (t *session) quit(end string) {
	t.end.Do(func() {
		if t.over == "" {
			t.over = end
		}
		if ended := t.config.Hooks.Ended; ended != nil {
			ended(Session{Client: t.client, Identity: t.who, Begin: t.begin, Messages: t.messages, End: t.over})
		}
		_ = t.close()
		t.cancel()
		t.server.leave(t)
	})
}

// rescue ends a session in which something of ours panicked. The process has more
// to do than this.
func (t *session) rescue() {
	if p := recover(); p != nil {
		t.config.Logger.Error("panic in an SMTP session", slog.String("session", t.client.Session), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		t.quit("internal")
	}
}

// hangUp ends the session once the reply to the command at hand is written.
func (t *session) hangUp(why string) {
	if t.over == "" {
		t.over = why
	}
}

// Mail begins a transaction.
func (t *session) Mail(from string, o *smtp.MailOptions) error {
	if t.mail != nil {
		return reply(503, 5, 5, 1, "A message has been begun already: end it with DATA, or drop it with RSET")
	}
	id := t.identify()
	if id == nil {
		return t.signInFirst()
	}
	if t.config.Revoked != nil && t.config.Revoked(id) {
		t.hangUp("revoked")
		return reply(421, 4, 7, 0, "Who may send here has changed: connect again")
	}
	if t.messages >= t.config.Limits.Messages {
		t.hangUp("messages")
		return reply(421, 4, 7, 0, "So many messages are enough for one connection: open another")
	}
	if o.RequireTLS && t.client.TLS == nil {
		return reply(530, 5, 7, 0, "REQUIRETLS needs a connection with TLS")
	}
	m := &transaction{identity: id, utf8: o.UTF8}
	if e := m.sender(from); e != nil {
		t.cause = e
		return reply(553, 5, 1, 7, "The sender is no address that can be used; it must be like name@example.com")
	}
	m.options = mailer.Options{
		AllRecipients: !t.config.Outbox,
		Async:         t.config.Outbox,
		RequireTLS:    o.RequireTLS,
		DSN:           mailer.DSN{Return: mailer.DSNReturn(o.Return), EnvelopeID: o.EnvelopeID},
	}
	t.mail = m
	return nil
}

// sender decides on the envelope's sender.
func (m *transaction) sender(from string) error {
	if !m.identity.From.IsZero() {
		m.env.From = m.identity.From
		return nil
	}
	a, err := mailbox(from)
	switch {
	case from == "", !m.identity.DefaultFrom.IsZero() && (err != nil || a.Domain == "localhost"): // quirks.go completes names
		m.env.From = m.identity.DefaultFrom
	case err != nil:
		return err
	default:
		m.env.From = a
	}
	return nil
}

// Rcpt adds a recipient.
func (t *session) Rcpt(to string, o *smtp.RcptOptions) error {
	m := t.mail
	if m == nil {
		return reply(503, 5, 5, 1, "MAIL comes first")
	}
	a, err := mailbox(to)
	if err != nil {
		t.cause = err
		return reply(553, 5, 1, 3, "The recipient is no address that can be used; it must be like name@example.com")
	}
	for _, n := range o.Notify {
		if n == smtp.DSNNotifyDelayed {
			n = "DELAY"
		}
		m.notify(mailer.DSNEvent(n))
	}
	if !slices.ContainsFunc(m.env.To, a.Equal) {
		m.env.To = append(m.env.To, a)
	}
	return nil
}

// notify adds what a recipient's sender wants to be told. Here it is for all of
// them, so that NEVER counts only where nobody wants more.
func (m *transaction) notify(n mailer.DSNEvent) {
	d := &m.options.DSN
	never := slices.Contains(d.Notify, mailer.NotifyNever)
	switch {
	case n == mailer.NotifyNever && len(d.Notify) > 0, slices.Contains(d.Notify, n):
	case never:
		d.Notify = []mailer.DSNEvent{n}
	default:
		d.Notify = append(d.Notify, n)
	}
}

var errNoMailbox = errors.New("no plain mailbox")

// mailbox reads an address as go-smtp hands it over, without quotes. What was in
// quotes may look like anything: the address must be all there is.
func mailbox(s string) (mailer.Address, error) {
	a, err := mailer.ParseAddress(s)
	if err != nil {
		return mailer.Address{}, err
	}
	if n := len(a.Local); a.Name != "" || len(s) <= n+1 || s[:n] != a.Local || s[n] != '@' {
		return mailer.Address{}, errNoMailbox
	}
	return a, nil
}

// Reset drops the transaction.
func (t *session) Reset() { t.mail = nil }

// Logout is called at the end of the session, which the connection's Close is, too.
func (t *session) Logout() error { return nil }
