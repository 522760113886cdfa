package caddymodule

import (
	"fmt"
)

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
