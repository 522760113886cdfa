package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

func sendCommand() *cobra.Command {
	cmd := verb("send --to <address> --subject <subject> [--text <file>|-]", "Sends a mail by the server that runs", cobra.NoArgs, (*commandLine).send)
	f := cmd.Flags()
	f.String("tenant", "", "Tenant to send by (default: the only one, or default)")
	f.String("from", "", "Sender (default: the tenant's own)")
	for _, name := range []string{"to", "cc", "bcc"} {
		f.StringArray(name, nil, "Recipient; may be repeated")
	}
	f.String("reply-to", "", "Where answers go")
	f.String("subject", "", "Subject")
	f.String("text", "-", "File with the text; - is the standard input")
	f.String("html", "", "File with an HTML body")
	f.StringArray("attach", nil, "File to attach; may be repeated")
	f.String("raw", "", "File with a whole message (RFC 5322) to send as it is; - is the standard input")
	f.String("idempotency-key", "", "Repeating the command with this key sends nothing again")
	return cmd
}

// send sends a mail that it puts together, or a whole one.
func (c *commandLine) send([]string) error {
	tenant, err := c.tenant(c.text("tenant"))
	if err != nil {
		return err
	}
	header := http.Header{}
	var message []byte
	if name := c.text("raw"); name != "" {
		message, err = c.rawMail(name, header)
	} else {
		message, err = c.composeMail(tenant, header)
	}
	if err != nil {
		return err
	}
	if key := c.text("idempotency-key"); key != "" {
		header.Set("Idempotency-Key", key)
	}
	answer, err := c.post(tenant, header, message)
	if p, ok := errors.AsType[*answerError](err); ok {
		if p.Name == "" {
			return p.exit()
		}
		return &exit{exitTestFailed, p.Error()}
	}
	if err != nil {
		return err
	}
	var v sent
	return c.show(answer, &v, func() { c.printSent(v) })
}

// rawMail reads a whole message. Its recipients are those given, or those in its header.
func (c *commandLine) rawMail(name string, header http.Header) ([]byte, error) {
	message, err := c.readFile(name)
	if err != nil {
		return nil, err
	}
	var to []string
	for _, flag := range []string{"to", "cc", "bcc"} {
		to = append(to, c.texts(flag)...)
	}
	if len(to) == 0 {
		to = headerRecipients(message)
	}
	if len(to) == 0 {
		return nil, &exit{exitUsage, "the message names no recipient; say --to"}
	}
	header[envelopeToHeader] = to
	if from := c.text("from"); from != "" {
		header.Set(envelopeFromHeader, from)
	}
	return message, nil
}

// composeMail puts a mail together.
func (c *commandLine) composeMail(tenant string, header http.Header) ([]byte, error) {
	m := &mailer.Message{Subject: c.text("subject"), Date: time.Now()}
	for _, list := range []struct {
		flag string
		to   *[]mailer.Address
	}{{"to", &m.To}, {"cc", &m.Cc}, {"bcc", &m.Bcc}} {
		for _, text := range c.texts(list.flag) {
			addresses, err := mailer.ParseAddressList(text)
			if err != nil {
				return nil, &exit{exitUsage, "--" + list.flag + ": " + reason(err).Error()}
			}
			*list.to = append(*list.to, addresses...)
		}
	}
	if len(m.To)+len(m.Cc)+len(m.Bcc) == 0 {
		return nil, &exit{exitUsage, "say --to whom"}
	}
	from := c.text("from")
	if from == "" {
		sender, err := c.senderOf(tenant)
		if err != nil {
			return nil, err
		}
		from = sender
	}
	var err error
	if m.From, err = mailer.ParseAddress(from); err != nil {
		return nil, &exit{exitUsage, "--from: " + reason(err).Error()}
	}
	if reply := c.text("reply-to"); reply != "" {
		if m.ReplyTo, err = mailer.ParseAddressList(reply); err != nil {
			return nil, &exit{exitUsage, "--reply-to: " + reason(err).Error()}
		}
	}
	if err := c.mailBody(m); err != nil {
		return nil, err
	}
	content, err := m.Compose()
	if err != nil {
		return nil, &exit{exitUsage, reason(err).Error()}
	}
	for _, a := range m.Envelope().To {
		header.Add(envelopeToHeader, a.Mailbox())
	}
	var b bytes.Buffer
	_, err = content.WriteTo(&b)
	return b.Bytes(), err
}

// mailBody reads texts and attachments.
func (c *commandLine) mailBody(m *mailer.Message) error {
	if name := c.text("html"); name != "" {
		html, err := c.readFile(name)
		if err != nil {
			return err
		}
		m.HTML = string(html)
	}
	if name := c.text("text"); name != "-" || m.HTML == "" {
		text, err := c.readFile(name)
		if err != nil {
			return err
		}
		m.Text = string(text)
	}
	for _, name := range c.texts("attach") {
		content, err := c.readFile(name)
		if err != nil {
			return err
		}
		m.Attachments = append(m.Attachments, mailer.Attachment{Filename: filepath.Base(name), Source: mailer.Bytes(content)})
	}
	return nil
}

// maxMail is the most octets of a mail that a command takes, since it has it in memory.
// What the server takes, the server says.
const maxMail = 256 << 20

// readFile reads a file that goes into a mail; "-" is the standard input.
func (c *commandLine) readFile(name string) ([]byte, error) {
	source := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, &exit{exitUsage, err.Error()}
		}
		defer f.Close()
		source = f
	}
	content, err := io.ReadAll(io.LimitReader(source, maxMail+1))
	if err == nil && len(content) > maxMail {
		err = fmt.Errorf("%s is too large: a command takes a mail of up to %s", name, octets(maxMail))
	}
	return content, err
}

// senderOf is the sender of a tenant, where it has one.
func (c *commandLine) senderOf(tenant string) (string, error) {
	var v struct {
		Tenants []struct {
			Name string `json:"name"`
			From string `json:"from"`
		} `json:"tenants"`
	}
	if err := c.get("/tenants", &v); err != nil {
		return "", err
	}
	for _, t := range v.Tenants {
		if t.Name == tenant && t.From != "" {
			return t.From, nil
		}
	}
	return "", &exit{exitUsage, "tenant " + tenant + " has no sender of its own; say --from"}
}

// headerRecipients are the addresses in the fields To, Cc and Bcc of a message, as they
// are written.
func headerRecipients(message []byte) []string {
	var to []string
	for _, f := range headerFields(message) {
		switch f.Name {
		case "to", "cc", "bcc":
			if v := strings.TrimSpace(f.Value); v != "" {
				to = append(to, v)
			}
		}
	}
	return to
}

// headerFields reads the header of a message leniently; names are in lower case.
func headerFields(message []byte) []mailer.HeaderField {
	var fields []mailer.HeaderField
	for line := range strings.Lines(string(message[:headerEnd(message)])) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" && (line[0] == ' ' || line[0] == '\t') {
			if n := len(fields); n > 0 {
				fields[n-1].Value += " " + strings.TrimSpace(line)
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		fields = append(fields, mailer.HeaderField{Name: strings.ToLower(strings.TrimSpace(name)), Value: strings.TrimSpace(value)})
	}
	return fields
}

// headerEnd is where the header of a message ends.
func headerEnd(message []byte) int {
	end := len(message)
	for _, empty := range []string{"\n\n", "\n\r\n"} {
		if i := bytes.Index(message, []byte(empty)); i >= 0 {
			end = min(end, i+1)
		}
	}
	return end
}
