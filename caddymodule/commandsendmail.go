package caddymodule

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// The exit codes of sendmail, as sysexits.h has them. Whoever called keeps the message
// where it is not 0, and tries again where it is exitTempFail.
const (
	exitSysUsage    = 64
	exitDataErr     = 65
	exitNoUser      = 67
	exitUnavailable = 69
	exitTempFail    = 75
	exitNoPerm      = 77
	exitConfig      = 78
)

func sendmailCommand() *cobra.Command {
	cmd := verb("sendmail [-t] [-i] [-f <address>] [<address>...]", "Takes a mail as sendmail does, for cron, PHP and the like", nil, (*commandLine).sendmail)
	cmd.Long = `Takes a mail from the standard input and hands it to the server that runs, as
sendmail(8) does. It may be called by a link of the name sendmail, too.

  -t         recipients are those in To, Cc and Bcc
  -i, -oi    a line with a single dot does not end the mail
  -f, -r     envelope sender
  -F         name of the sender, where the mail has no From

Other options of sendmail are taken and have no effect. Settings are read
from ` + sendmailSettingsFile + `, or the file that the
variable ` + sendmailSettingsVariable + ` names, a line each:

  tenant <name>           tenant to send by (default: default)
  from <address>          From where a mail has none that can be used
  domain <name>           what to append to recipients without a domain
  alias <name> <address>  where mail for a local name goes
  address <address>       Caddy's admin API

Exit codes are those of sysexits.h: 0 the server has taken it; 75 try again;
64 wrong arguments; 65 the mail is at fault; 67 no such recipient; 69 refused
for good; 77 not allowed; 78 wrong settings.`
	cmd.DisableFlagParsing = true
	return cmd
}

const (
	sendmailSettingsFile     = "/etc/caddy/oauth-mail-sendmail.conf"
	sendmailSettingsVariable = "OAUTH_MAIL_SENDMAIL"
)

// callAsSendmail lets a link called sendmail to this program be what its name says.
// Nothing of Caddy's has run before that would see another name.
func callAsSendmail() {
	switch strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") {
	case "sendmail":
		os.Args = append([]string{os.Args[0], "oauth-mail", "sendmail"}, os.Args[1:]...)
	case "mailq":
		os.Args = []string{os.Args[0], "oauth-mail", "outbox"}
	}
}

// sendmailCall is what the arguments say.
type sendmailCall struct {
	// headers: -t, recipients are in the header. wholeInput: -i, to the end of the
	// input.
	headers, wholeInput bool
	sender, name        string
	recipients          []string
	help                bool
}

// parseSendmail reads arguments by sendmail's rules: a value may stand behind its letter
// or be the next argument, and letters that take none may stand together.
func parseSendmail(args []string) (call sendmailCall, err error) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			call.recipients = append(call.recipients, args[i+1:]...)
			return call, nil
		case arg == "--help":
			call.help = true
			return call, nil
		case len(arg) < 2 || arg[0] != '-':
			call.recipients = append(call.recipients, arg)
			continue
		}
	letters:
		for j := 1; j < len(arg); j++ {
			rest := arg[j+1:]
			value := func() (string, error) {
				if rest != "" {
					return rest, nil
				}
				if i++; i >= len(args) {
					return "", fmt.Errorf("-%c wants a value", arg[j])
				}
				return args[i], nil
			}
			switch c := arg[j]; c {
			case 't':
				call.headers = true
			case 'i':
				call.wholeInput = true
			case 'f', 'r':
				if call.sender, err = value(); err != nil {
					return call, err
				}
				break letters
			case 'F':
				if call.name, err = value(); err != nil {
					return call, err
				}
				break letters
			case 'o': // -oi, -odi, -oem: the value is never the next argument
				call.wholeInput = call.wholeInput || rest == "i" || rest == "itrue"
				break letters
			case 'B', 'C', 'D', 'h', 'L', 'N', 'O', 'p', 'R', 'V', 'X':
				if _, err = value(); err != nil {
					return call, err
				}
				break letters
			case 'b':
				if rest != "m" {
					return call, fmt.Errorf("-b%s is not known: this command takes mail, and nothing else; see caddy oauth-mail outbox", rest)
				}
				break letters
			case 'e', 'd', 'q': // the value stands behind
				break letters
			case 'G', 'm', 'n', 's', 'U', 'v':
			default:
				return call, fmt.Errorf("-%c is not known", c)
			}
		}
	}
	return call, nil
}

// sendmailSettings are those of the machine: the caller knows none.
type sendmailSettings struct {
	tenant, from, domain, address string
	alias                         map[string]string
}

func readSendmailSettings() (s sendmailSettings, err error) {
	s = sendmailSettings{tenant: defaultTenant, alias: map[string]string{}}
	name, named := os.LookupEnv(sendmailSettingsVariable)
	if !named {
		name = sendmailSettingsFile
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) && !named {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		single := map[string]*string{"tenant": &s.tenant, "from": &s.from, "domain": &s.domain, "address": &s.address}[words[0]]
		switch {
		case single != nil && len(words) == 2:
			*single = words[1]
		case words[0] == "alias" && len(words) == 3:
			s.alias[strings.ToLower(words[1])] = words[2]
		default:
			return s, fmt.Errorf("%s:%d: %q is not understood", name, number, strings.TrimSpace(line))
		}
	}
	return s, nil
}

// whole makes a local name an address.
func (s sendmailSettings) whole(name string) (string, error) {
	if strings.Contains(name, "@") {
		return name, nil
	}
	if to := s.alias[strings.ToLower(name)]; to != "" {
		return to, nil
	}
	if s.domain == "" {
		return "", &exit{exitNoUser, fmt.Sprintf("nobody is called %q: say where its mail goes, with alias or domain in %s", name, sendmailSettingsFile)}
	}
	return name + "@" + s.domain, nil
}

// recipients are the addresses of a list that may have local names in it.
func (s sendmailSettings) recipients(list string) ([]string, error) {
	if all, err := mailer.ParseAddressList(list); err == nil {
		to := make([]string, len(all))
		for i, a := range all {
			to[i] = a.Mailbox()
		}
		return to, nil
	}
	var to []string
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		if !strings.Contains(part, "@") {
			part, _, _ = strings.Cut(part, " (") // root (Cron Daemon)
		}
		address, err := s.whole(strings.Trim(part, "<>"))
		if err != nil {
			return nil, err
		}
		parsed, err := mailer.ParseAddress(address)
		if err != nil {
			return nil, &exit{exitDataErr, reason(err).Error()}
		}
		to = append(to, parsed.Mailbox())
	}
	return to, nil
}

// sendmail takes a mail. Unless it returns nil, nobody has it but the caller.
func (c *commandLine) sendmail(args []string) error {
	call, err := parseSendmail(args)
	if err != nil {
		return &exit{exitSysUsage, err.Error()}
	}
	if call.help {
		return c.cmd.Help()
	}
	settings, err := readSendmailSettings()
	if err != nil {
		return &exit{exitConfig, err.Error()}
	}
	if settings.address != "" {
		if err := c.cmd.Flags().Set("address", settings.address); err != nil {
			return &exit{exitConfig, err.Error()}
		}
	}
	message, err := readMail(c.in, call.wholeInput)
	if err != nil {
		return &exit{exitDataErr, err.Error()}
	}
	header := http.Header{}
	if header[envelopeToHeader], err = call.allRecipients(message, settings); err != nil {
		return err
	}
	if strings.Contains(call.sender, "@") {
		header.Set(envelopeFromHeader, call.sender)
	}
	if message, err = c.settleSender(message, call, settings); err != nil {
		return err
	}
	header.Set("Idempotency-Key", "sendmail-"+mailer.NewID())
	return c.handOver(settings.tenant, header, message)
}

// handOver gives the mail to the server, and again where it is starting anew.
func (c *commandLine) handOver(tenant string, header http.Header, message []byte) error {
	var err error
	for _, wait := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Second} {
		if err := c.pause(wait); err != nil {
			return &exit{exitTempFail, err.Error()}
		}
		if _, err = c.post(tenant, header, message); err == nil {
			return nil
		}
		if p, ok := errors.AsType[*answerError](err); ok {
			return p.sysexit()
		}
		if e, ok := errors.AsType[*exit](err); ok && e.code == exitDenied {
			return &exit{exitNoPerm, e.text}
		}
	}
	return &exit{exitTempFail, err.Error()}
}

// sysexit is the exit of sendmail that a problem amounts to.
func (p *answerError) sysexit() error {
	code := exitUnavailable
	switch p.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		code = exitNoPerm
	case http.StatusNotFound:
		code = exitConfig
	case http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusBadRequest:
		code = exitDataErr
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInsufficientStorage, http.StatusConflict, http.StatusInternalServerError:
		code = exitTempFail
	}
	return &exit{code, p.Error()}
}

// allRecipients are those of the header, with -t, and those of the arguments.
func (call sendmailCall) allRecipients(message []byte, s sendmailSettings) ([]string, error) {
	var to []string
	if call.headers {
		for _, list := range headerRecipients(message) {
			some, err := s.recipients(list)
			if err != nil {
				return nil, err
			}
			to = append(to, some...)
		}
	}
	for _, arg := range call.recipients {
		some, err := s.recipients(arg)
		if err != nil {
			return nil, err
		}
		to = append(to, some...)
	}
	if len(to) == 0 {
		return nil, &exit{exitSysUsage, "there is no recipient; name one, or use -t and have To, Cc or Bcc in the mail"}
	}
	return to, nil
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
	default:
		tenantFrom, err := c.senderOf(s.tenant)
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

// readMail reads the mail up to its end: that of the input, or a line with a dot alone.
func readMail(in io.Reader, wholeInput bool) ([]byte, error) {
	in = io.LimitReader(in, maxBody+1)
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
	case len(message) > maxBody:
		return nil, errors.New("the mail is too large: it may have 36 MiB")
	case len(bytes.TrimSpace(message)) == 0:
		return nil, errors.New("there is no mail on the standard input")
	}
	return message, nil
}
