package mailertest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mailbox is what a vendor remembers of one.
type mailbox struct {
	open []*counter // sessions, in the order of their sign-in
	sent []sent
}

// sent is a message taken.
type sent struct {
	at    time.Time
	rcpts int
}

// counter is where one session of a vendor is served.
type counter struct {
	*Vendor
	*dialogue
	mechanism string
	user      string    // who signed in
	expires   time.Time // of the token
	box       *mailbox
	login     []byte // the user, of LOGIN
	failed    bool   // 535 follows what the client answers to the error
	mail      letter
	byData    bool
}

func (c *counter) octets(p []byte)     { c.mail.text.Write(p) }
func (c *counter) message(byData bool) { c.byData = byData }

func (c *counter) answer(step string, line []byte, usual string) string {
	reply := c.reply(step, line, usual)
	c.hangup = strings.HasPrefix(reply, "421")
	return reply
}

func (c *counter) reply(step string, line []byte, usual string) string {
	d := &c.dialect
	if usual[0] != '2' && usual[0] != '3' {
		return usual // out of sequence
	}
	if !c.expires.IsZero() && !c.Now().Before(c.expires) && step != "QUIT" {
		return d.expired
	}
	if c.user != "" && c.Refuses != nil {
		if refusal := c.Refuses(step, c.user); refusal != "" {
			return refusal
		}
	}
	if step == "RCPT" && c.Recipients > 0 && len(c.mail.to) >= c.Recipients {
		return d.tooManyRecipients
	}
	c.mail.hear(step, line)
	switch step {
	case Greeting:
		return d.greeting
	case "EHLO":
		return c.hello()
	case "AUTH":
		return c.signIn(line)
	case Challenge:
		return c.respond(string(line))
	case "MAIL":
		return c.mailFrom(line)
	case "RCPT":
		return d.rcpt
	case "DATA":
		return d.data
	case Content:
		return c.verdict()
	case "BDAT":
		if bytes.HasSuffix(bytes.ToUpper(line), []byte(" LAST")) {
			return c.verdict()
		}
		return d.ok
	case "QUIT":
		return d.bye
	case "STARTTLS":
		return d.startTLS
	}
	return d.ok
}

func (c *counter) hello() string {
	d := &c.dialect
	lines := []string{d.name}
	if c.Size > 0 {
		lines = append(lines, "SIZE "+strconv.FormatInt(c.Size, 10))
	}
	lines = append(lines, d.offer...)
	switch {
	case c.secure:
		lines = append(lines, "AUTH "+d.auth)
	case c.TLS != nil:
		lines = append(lines, "STARTTLS")
	}
	return reply250(lines)
}

func (c *counter) signIn(line []byte) string {
	d := &c.dialect
	words := strings.Fields(string(line))
	switch {
	case !c.secure:
		return d.noTLS
	case len(words) < 2 || !slices.Contains(strings.Fields(d.auth), strings.ToUpper(words[1])):
		return d.badMechanism
	}
	c.mechanism, c.failed, c.login = strings.ToUpper(words[1]), false, nil
	switch {
	case len(words) > 2:
		return c.respond(words[2])
	case c.mechanism == "LOGIN":
		return "334 VXNlcm5hbWU6"
	}
	return "334 "
}

// respond takes the credentials, or the answer to the error that came for
// them.
func (c *counter) respond(line string) string {
	d := &c.dialect
	response, err := base64.StdEncoding.DecodeString(line)
	if c.mechanism == "LOGIN" && c.login == nil {
		c.login = response
		return "334 UGFzc3dvcmQ6"
	}
	user, secret := c.credentials(response)
	if c.failed || err != nil || user == "" {
		return d.denied
	}
	if c.Refuses != nil {
		if refusal := c.Refuses("AUTH", user); refusal != "" {
			return refusal
		}
	}
	ok := c.Accepts == nil || c.Accepts(user, secret)
	if ok {
		c.enter(user)
		if c.Expires != nil {
			c.expires = c.Expires(secret)
		}
	}
	c.mu.Lock()
	c.logins = append(c.logins, Login{c.mechanism, user, ok})
	c.mu.Unlock()
	switch {
	case ok:
		return d.welcome
	case d.challenge != "" && c.mechanism != "PLAIN" && c.mechanism != "LOGIN":
		c.failed = true
		return d.challenge
	}
	return d.denied
}

func (c *counter) credentials(response []byte) (user, secret string) {
	switch c.mechanism {
	case "LOGIN":
		return string(c.login), string(response)
	case "PLAIN":
		if parts := strings.Split(string(response), "\x00"); len(parts) == 3 {
			return parts[1], parts[2]
		}
		return "", ""
	}
	return bearer(response)
}

func (c *counter) enter(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mailboxes == nil {
		c.mailboxes = make(map[string]*mailbox)
	}
	key := strings.ToLower(user)
	if c.mailboxes[key] == nil {
		c.mailboxes[key] = new(mailbox)
	}
	c.user, c.box = user, c.mailboxes[key]
	c.box.open = append(c.box.open, c)
	c.most = max(c.most, len(c.box.open))
}

func (c *counter) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.box != nil {
		c.box.open = slices.DeleteFunc(c.box.open, func(o *counter) bool { return o == c })
	}
}

func (c *counter) mailFrom(line []byte) string {
	d := &c.dialect
	_, size, _ := bytes.Cut(bytes.ToUpper(line), []byte(" SIZE="))
	size, _, _ = bytes.Cut(size, []byte(" "))
	n, _ := strconv.ParseInt(string(size), 10, 64)
	switch {
	case !c.secure:
		return d.noTLS
	case c.user == "":
		return d.noAuth
	case c.Size > 0 && n > c.Size:
		return d.tooBig
	}
	return d.mail
}

// verdict applies the limits to a message that is there in whole.
func (c *counter) verdict() string {
	d := &c.dialect
	m := c.mail.message(c.user, c.byData)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		now := c.Now()
		today, next := c.usedLocked(now)
		switch {
		case c.Size > 0 && int64(len(m.Data)) > c.Size:
			return d.tooBig
		case d.sendAsDenied != "" && !c.maySendAs(m.From):
			return fmt.Sprintf(d.sendAsDenied, c.user, m.From)
		case c.Connections > 0 && slices.Index(c.box.open, c) >= c.Connections:
			c.limited++
			return d.tooManyConnections
		case c.PerDay > 0 && today+d.counts(len(m.To)) > c.PerDay:
			c.limited++
			return d.quota
		case next <= 0:
			c.box.sent = append(c.box.sent, sent{now, len(m.To)})
			c.messages = append(c.messages, m)
			return d.accepted(m, now)
		case c.Slow == nil:
			c.limited++
			return d.tooFast
		}
		c.mu.Unlock()
		c.Slow(next)
		c.mu.Lock()
	}
}

// usedLocked returns how much of PerDay is used up, and how long it is until
// PerMinute allows another message.
func (c *counter) usedLocked(now time.Time) (today int, next time.Duration) {
	c.box.sent = slices.DeleteFunc(c.box.sent, func(s sent) bool { return now.Sub(s.at) >= c.Day })
	for _, s := range c.box.sent {
		today += c.dialect.counts(s.rcpts)
	}
	if n := len(c.box.sent); c.PerMinute > 0 && n >= c.PerMinute {
		next = c.box.sent[n-c.PerMinute].at.Add(c.Minute).Sub(now)
	}
	return today, next
}

func (c *counter) maySendAs(from string) bool {
	if c.MaySendAs != nil {
		return c.MaySendAs(c.user, from)
	}
	return strings.EqualFold(from, c.user)
}
