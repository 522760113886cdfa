package mailertest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"slices"
	"strings"
)

// service is what a session is about: a [Script], a [Sink] or a [Vendor].
type service interface {
	// answer returns the reply to a step, in lines separated by "\n", or one of
	// the deeds. The session would say what is usual. line is what the client
	// said, nil where it said nothing, and valid only during the call.
	answer(step string, line []byte, usual string) string
	// octets is given the content, piece by piece, as it was on the wire. The
	// piece is valid only during the call. MAIL begins new content.
	octets(p []byte)
	// message tells that the content is there in whole, by DATA, which means
	// dot-stuffed, or by BDAT. The answer is asked for next.
	message(byData bool)
}

// dialogue is the server's side of an SMTP session (RFC 5321), with STARTTLS,
// PIPELINING (RFC 2920) and CHUNKING (RFC 3030). It writes replies when it has
// to wait for the client, so that commands that come together are answered
// together.
type dialogue struct {
	service
	offer  []string
	auth   string
	tls    *tls.Config
	strict bool // see Script.Strict

	nc     net.Conn
	r      *bufio.Reader
	out    []byte // replies not written yet
	line   []byte // the BDAT under way
	secure bool
	last   string // what was answered last

	from    bool // MAIL was accepted
	rcpts   int  // so many RCPT were accepted
	stalled bool
	hangup  bool // close after the next reply
}

const lineBuffer = 64 << 10

func (d *dialogue) serve(nc net.Conn, implicit bool) {
	d.use(nc)
	if (!implicit || d.handshake()) && d.say(Greeting, nil, "220 mail.example.com ESMTP") {
		d.run()
	}
	_ = d.flush()
	if !d.stalled {
		d.nc.Close()
	}
}

func (d *dialogue) use(nc net.Conn) {
	d.nc, d.r = nc, bufio.NewReaderSize(nc, lineBuffer)
}

func (d *dialogue) handshake() bool {
	t := tls.Server(d.nc, d.tls)
	d.use(t)
	d.secure = true
	return t.Handshake() == nil
}

// flush writes the replies that wait.
func (d *dialogue) flush() error {
	if len(d.out) == 0 {
		return nil
	}
	_, err := d.nc.Write(d.out)
	d.out = d.out[:0]
	return err
}

// say answers a step. It reports whether the session goes on.
func (d *dialogue) say(step string, line []byte, usual string) bool {
	if d.strict && d.r.Buffered() > 0 && !d.mayGroup(step) {
		d.last, d.hangup = "503 5.5.0 improper use of SMTP command pipelining", true
	} else {
		d.last = d.answer(step, line, usual)
	}
	switch d.last {
	case Close:
		return false
	case Silent:
		return true
	case Stall:
		d.stalled = true
		return false
	}
	for text := d.last; ; {
		line, rest, more := strings.Cut(text, "\n")
		d.out = append(append(d.out, line...), "\r\n"...)
		if !more {
			return !d.hangup
		}
		text = rest
	}
}

// mayGroup reports whether a client may go on before it has the reply to a
// step (RFC 2920, section 3.1).
func (d *dialogue) mayGroup(step string) bool {
	switch step {
	case "MAIL", "RCPT", "RSET", "BDAT", Content:
		return slices.Contains(d.offer, "PIPELINING")
	}
	return false
}

// did reports whether the last answer was of a class.
func (d *dialogue) did(class byte) bool { return d.last[0] == class }

func (d *dialogue) run() {
	for {
		if d.r.Buffered() == 0 && d.flush() != nil {
			return
		}
		line, err := d.r.ReadSlice('\n')
		if err != nil || !d.step(bytes.TrimRight(line, "\r\n")) {
			return
		}
	}
}

func (d *dialogue) step(line []byte) bool {
	if strings.HasPrefix(d.last, "334") {
		return d.say(Challenge, line, "235 2.7.0 welcome")
	}
	verb := verbOf(line)
	usual := "250 2.0.0 ok"
	switch verb {
	case "EHLO":
		d.reset()
		usual = d.hello()
	case "STARTTLS":
		ok := d.say(verb, line, "220 2.0.0 go ahead")
		if ok && d.did('2') {
			return d.flush() == nil && d.handshake()
		}
		return ok
	case "AUTH":
		usual = "235 2.7.0 welcome"
	case "MAIL":
		if d.from {
			usual = "503 5.5.1 nested MAIL"
		}
		ok := d.say(verb, line, usual)
		d.from = d.from || d.did('2')
		return ok
	case "RCPT":
		if !d.from {
			usual = "503 5.5.1 need MAIL first"
		}
		ok := d.say(verb, line, usual)
		if d.did('2') {
			d.rcpts++
		}
		return ok
	case "DATA":
		usual = "354 go ahead"
		if d.rcpts == 0 {
			usual = noRecipients
		}
		ok := d.say(verb, line, usual)
		if ok && d.did('3') {
			return d.content()
		}
		return ok
	case "BDAT":
		return d.chunk(line)
	case "RSET":
		d.reset()
	case "QUIT":
		d.say(verb, line, "221 2.0.0 bye")
		return false
	}
	return d.say(verb, line, usual)
}

const noRecipients = "554 5.5.1 no valid recipients"

// verbOf returns the command of a line in upper case.
func verbOf(line []byte) string {
	word, _, _ := bytes.Cut(line, []byte(" "))
	for _, verb := range [...]string{"EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "AUTH", "STARTTLS", "QUIT"} {
		if len(word) == len(verb) && strings.EqualFold(verb, string(word)) {
			return verb
		}
	}
	return strings.ToUpper(string(word))
}

func (d *dialogue) reset() { d.from, d.rcpts = false, 0 }

func (d *dialogue) hello() string {
	lines := append([]string{"mail.example.com"}, d.offer...)
	if d.tls != nil && !d.secure {
		lines = append(lines, "STARTTLS")
	}
	if d.auth != "" && (d.secure || d.tls == nil) {
		lines = append(lines, "AUTH "+d.auth)
	}
	return reply250(lines)
}

// reply250 makes a reply of several lines.
func reply250(lines []string) string {
	return "250-" + strings.Join(lines[:len(lines)-1], "\n250-") + "\n250 " + lines[len(lines)-1]
}
