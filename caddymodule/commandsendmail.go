package caddymodule

import (
	"cmp"
	"errors"
	"net/http"
	"os"
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

  site <url>              site with a send route, for users without the
                          management token
  key_file <file>         API key for it (or the variable OAUTH_MAIL_KEY)
  tenant <name>           tenant to send by (default: default; with site the
                          key's)
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
	var site *mailSite
	if settings.site != "" {
		if site, err = newMailSite(settings.site, settings.keyFile, settings.tenant); err != nil {
			return &exit{exitConfig, err.Error()}
		}
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
	return c.handOver(func() error {
		if site != nil {
			return site.post(c.cmd.Context(), header, message)
		}
		_, err := c.post(cmp.Or(settings.tenant, defaultTenant), header, message)
		return err
	})
}

// handOver gives the mail to the server, and again where it is starting anew.
func (c *commandLine) handOver(post func() error) error {
	var err error
	for _, wait := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Second} {
		if err := c.pause(wait); err != nil {
			return &exit{exitTempFail, err.Error()}
		}
		if err = post(); err == nil {
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
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		code = exitConfig
	case http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusBadRequest:
		code = exitDataErr
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInsufficientStorage, http.StatusConflict, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusGatewayTimeout:
		code = exitTempFail
	}
	if p.Status < http.StatusBadRequest { // it is something else that answers there
		code = exitConfig
	}
	return &exit{code, p.Error()}
}
