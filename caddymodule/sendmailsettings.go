package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	sendmailSettingsFile     = "/etc/caddy/oauth-mail-sendmail.conf"
	sendmailSettingsVariable = "OAUTH_MAIL_SENDMAIL"
)

// sendmailSettings are those of the machine: the caller knows none.
type sendmailSettings struct {
	tenant, from, domain, address string
	// site is where the mail goes in place of Caddy's admin API, with the API key in
	// keyFile; both may be empty.
	site, keyFile string
	alias         map[string]string
}

func readSendmailSettings() (s sendmailSettings, err error) {
	s = sendmailSettings{alias: map[string]string{}}
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
		single := map[string]*string{
			"tenant": &s.tenant, "from": &s.from, "domain": &s.domain, "address": &s.address, "site": &s.site, "key_file": &s.keyFile,
		}[words[0]]
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
