package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"os/user"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// readMail reads the mail up to its end: that of the input, or a line with a dot alone.
func readMail(in io.Reader, wholeInput bool) ([]byte, error) {
	in = io.LimitReader(in, maxMail+1)
	var message []byte
	if wholeInput {
		var err error
		if message, err = io.ReadAll(in); err != nil {
			return nil, err
		}
	} else {
		lines := bufio.NewReader(in)
		for {
			line, err := lines.ReadBytes('\n')
			if text := strings.TrimRight(string(line), "\r\n"); text == "." && len(line) > 1 {
				break
			}
			message = append(message, line...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
		}
	}
	switch {
	case len(message) > maxMail:
		return nil, errors.New("the mail is too large: it may have " + octets(maxMail))
	case len(bytes.TrimSpace(message)) == 0:
		return nil, errors.New("there is no mail on the standard input")
	}
	return message, nil
}

// settleSender puts a From in place where the mail has none that can be used, as cron's
// "root (Cron Daemon)" cannot.
func (c *commandLine) settleSender(message []byte, call sendmailCall, s sendmailSettings) ([]byte, error) {
	for _, f := range headerFields(message) {
		if f.Name != "from" {
			continue
		}
		if _, err := mailer.ParseAddressList(f.Value); err == nil {
			return message, nil
		}
	}
	from := s.from
	switch {
	case from != "":
	case strings.Contains(call.sender, "@"):
		from = call.sender
	case s.domain != "":
		name := call.sender
		if u, err := user.Current(); name == "" && err == nil {
			name = u.Username
		}
		from = name + "@" + s.domain
	case s.site != "":
		return withoutFrom(message), nil // it puts the tenant's there
	default:
		tenantFrom, err := c.senderOf(cmp.Or(s.tenant, defaultTenant))
		if e, ok := errors.AsType[*exit](err); ok && e.code == exitAway {
			return nil, &exit{exitTempFail, e.text}
		}
		if err != nil {
			return nil, &exit{exitConfig, "the mail has no From that can be used; say which, with from in " + sendmailSettingsFile}
		}
		from = tenantFrom
	}
	address, err := mailer.ParseAddress(from)
	if err != nil {
		return nil, &exit{exitConfig, "from: " + reason(err).Error()}
	}
	if call.name != "" {
		address.Name = call.name
	}
	intake := mailer.Intake{DefaultFrom: address}
	received, err := intake.Read(bytes.NewReader(withoutFrom(message)), mailer.NewID())
	if err != nil {
		return nil, &exit{exitDataErr, reason(err).Error()}
	}
	defer received.Close()
	var out bytes.Buffer
	if _, err := received.Content.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// withoutFrom leaves the From fields out of a message.
func withoutFrom(message []byte) []byte {
	end := headerEnd(message)
	var out []byte
	skip := false
	for line := range bytes.Lines(message[:end]) {
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := bytes.Cut(line, []byte(":"))
			skip = strings.EqualFold(string(bytes.TrimSpace(name)), "from")
		}
		if !skip {
			out = append(out, line...)
		}
	}
	return append(out, message[end:]...)
}
