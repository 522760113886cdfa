package listener

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"
)

// feed is a session as go-smtp sees it: a connection that yields one command at a
// time, none before the one ahead of it was answered.
type feed struct{ *session }

func (f feed) Read(p []byte) (int, error) {
	if len(f.pending) == 0 {
		if err := f.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.pending)
	f.pending = f.pending[n:]
	return n, nil
}

// more gets the next line for go-smtp. Behind a panic there is none.
func (t *session) more() (err error) {
	defer t.rescue()
	t.pending, err = t.next()
	return err
}

// Write takes a reply, or a line of one.
func (f feed) Write(p []byte) (int, error) {
	line := string(p)
	if f.swallow {
		f.swallow = false
		return len(p), nil
	}
	if f.ehlo {
		line = f.offer(line)
	}
	if len(line) > 3 && line[3] == ' ' {
		f.ehlo = false
		if line[0] == '4' || line[0] == '5' {
			f.refused(line)
		}
	}
	f.say(line)
	return len(p), nil
}

// offer changes a line of the reply to EHLO.
func (t *session) offer(line string) string {
	if line != "250-CHUNKING\r\n" {
		return line
	}
	line = "" // BDAT gains nothing here, and would run beside the session
	if len(t.AuthMechanisms()) > 0 {
		line += "250-AUTH=PLAIN LOGIN\r\n" // old programs look for that
	}
	if t.client.TLS != nil {
		line += "250-REQUIRETLS\r\n"
	}
	return line
}

func (f feed) Close() error {
	f.quit("protocol")
	return nil
}

func (f feed) LocalAddr() net.Addr              { return f.raw.LocalAddr() }
func (f feed) RemoteAddr() net.Addr             { return f.raw.RemoteAddr() }
func (f feed) SetDeadline(time.Time) error      { return nil }
func (f feed) SetReadDeadline(time.Time) error  { return nil }
func (f feed) SetWriteDeadline(time.Time) error { return nil }

// chatterMost is how many commands may come between messages that bring none on.
const chatterMost = 100

// next returns the next line for go-smtp. The error is io.EOF, for the end of the
// session.
func (t *session) next() ([]byte, error) {
	for t.over == "" {
		switch {
		case t.contentEnd:
			t.contentEnd = false
			return []byte(".\r\n"), nil
		case t.faults > t.config.Limits.Faults, t.chatter > chatterMost:
			t.leaveWith("faults", "421 4.7.0 Too much of this was refused or led nowhere; good-bye\r\n")
			continue
		}
		line, err := t.line(t.patience())
		if err != nil {
			t.lost(err)
			continue
		}
		if fed := t.command(line); fed != "" {
			return []byte(fed), nil
		}
	}
	return nil, io.EOF
}

// patience is how long to wait for a command.
func (t *session) patience() time.Time {
	by := time.Now().Add(t.config.Limits.Idle)
	if end := t.begin.Add(t.config.Limits.SignIn); !t.known.Load() && end.Before(by) {
		return end
	}
	return by
}

// leaveWith says good-bye.
func (t *session) leaveWith(end, words string) {
	t.say(words)
	t.hangUp(end)
}

// lost ends the session for an error of reading a command.
func (t *session) lost(err error) {
	switch {
	case errors.Is(err, errLongLine):
		t.leaveWith("protocol", "500 5.5.2 This line is too long for a command; good-bye\r\n")
	case errors.Is(err, errTLS):
		t.leaveWith("tls_too_early", "500 5.5.2 TLS is begun by STARTTLS here; good-bye\r\n")
	case errors.Is(err, errBareLF):
		t.leaveWith("protocol", "500 5.5.2 A command has a bare LF in it; good-bye\r\n")
	case t.why() == "shutdown":
		t.leaveWith("shutdown", "421 4.3.2 This server is being restarted; try again in a moment\r\n")
	case t.why() != "":
		t.leaveWith(t.why(), "421 4.7.0 Others wait for this connection; sign in sooner, or try again later\r\n")
	case !errors.Is(err, os.ErrDeadlineExceeded):
		t.hangUp("gone")
	case t.known.Load() || time.Now().Before(t.begin.Add(t.config.Limits.SignIn)):
		t.leaveWith("idle", "421 4.4.2 Nothing came for too long; good-bye\r\n")
	default:
		t.leaveWith("sign_in", "421 4.7.0 Nobody signed in for too long; good-bye\r\n")
	}
}

// once is a listener that accepts one connection.
type once struct{ conn net.Conn }

func (o *once) Accept() (net.Conn, error) {
	if o.conn == nil {
		return nil, net.ErrClosed
	}
	conn := o.conn
	o.conn = nil
	return conn, nil
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

// trouble is go-smtp's log.
type trouble struct {
	log     *slog.Logger
	session string
}

func (l trouble) Printf(format string, v ...any) {
	if strings.HasPrefix(format, "panic") {
		l.log.Error("panic in an SMTP session", slog.String("session", l.session), slog.Any("panic", v[1:]))
		return
	}
	l.log.Debug("SMTP session ended", slog.String("session", l.session), slog.Any("error", v[len(v)-1]))
}

func (l trouble) Println(v ...any) {
	l.log.Debug("SMTP session", slog.String("session", l.session), slog.Any("error", v))
}
