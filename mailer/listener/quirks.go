package listener

import (
	"encoding/base64"
	"slices"
	"strings"
)

// maxGreeting is how much of a greeting is kept.
const maxGreeting = 255

// command takes a line that the client said, deals with what go-smtp cannot, or not
// as devices say it, and returns what go-smtp is to read; nothing if it was
// answered here.
func (t *session) command(raw []byte) string {
	line := string(raw)
	if t.challenged {
		t.challenged = false
		return answer(line)
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		t.verb = "other"
		t.deny("500 5.5.2 A command has a control character in it\r\n")
		return ""
	}
	line = strings.TrimSpace(line)
	if len(line) > 5 && strings.EqualFold(line[:5], "AUTH=") { // as the old spelling of the offer has it
		line = "AUTH " + line[5:]
	}
	verb, arg, _ := strings.Cut(line, " ")
	verb, arg = strings.ToUpper(verb), strings.TrimSpace(arg)
	t.verb = strings.ToLower(verb)
	switch verb {
	case "MAIL", "RCPT", "DATA", "QUIT":
	default:
		t.chatter++
	}

	before := ""
	switch verb {
	case "EHLO", "HELO":
		t.client.Greeting = printable(arg, maxGreeting)
		t.ehlo = verb == "EHLO"
		t.extended = t.ehlo
		name, _, _ := strings.Cut(t.client.Greeting, " ")
		if name == "" { // devices without a name
			name = "unknown"
		}
		return verb + " " + name + "\r\n"
	case "STARTTLS":
		return t.startTLS()
	case "BDAT":
		// What follows is no command, and there may be much of it.
		t.leaveWith("protocol", "502 5.5.1 BDAT is not offered here; good-bye\r\n")
		return ""
	case "GET", "POST", "CONNECT", "PUT", "HEAD": // a browser that was led astray
		t.leaveWith("protocol", "500 5.5.2 This is no web server; good-bye\r\n")
		return ""
	case "QUIT":
		t.hangUp("quit")
	case "DATA", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "":
	case "MAIL":
		before, line = t.greeted(), "MAIL "+mendPath(arg, "FROM", "@localhost")
	case "RCPT":
		line = "RCPT " + mendPath(arg, "TO", "")
	case "AUTH":
		if _, initial, ok := strings.Cut(arg, " "); ok && !isBase64(strings.TrimSpace(initial)) {
			t.deny(badBase64)
			return ""
		}
		before = t.greeted()
	default:
		t.verb = "other"
		t.deny("500 5.5.2 There is no such command\r\n")
		return ""
	}
	return before + line + "\r\n"
}

const badBase64 = "501 5.5.2 That is no base64\r\n"

// greeted returns the greeting of a client that has not said one, as some devices
// do not.
func (t *session) greeted() string {
	if t.client.Greeting != "" || t.introduced {
		return ""
	}
	t.introduced, t.swallow = true, true
	return "HELO unknown\r\n"
}

// answer takes a line that answers a challenge. One that is no base64 cancels the
// exchange: go-smtp would call that a trouble that passes, and devices would go on.
func answer(line string) string {
	line = strings.TrimSpace(line)
	if line != "" && !isBase64(line) {
		line = "*"
	}
	return line + "\r\n"
}

func isBase64(s string) bool {
	if s == "=" {
		return true
	}
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}

// mendPath writes the argument of MAIL or RCPT as RFC 5321 has it, from ways in
// which devices write it: with spaces around the colon, without angle brackets,
// without a space before the parameters. A path without "@" gets domain. AUTH= is
// left out; nobody asks for it (RFC 4954, section 5). What is odd in other ways
// stays for go-smtp to refuse.
func mendPath(arg, word, domain string) string {
	name, rest, ok := strings.Cut(arg, ":")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), word) {
		return arg
	}
	rest = strings.TrimLeft(rest, " \t")
	var path, params string
	switch {
	case strings.Contains(rest, `"`):
		return word + ":" + rest // quotes may hold all of that
	case strings.HasPrefix(rest, "<"):
		if path, params, ok = strings.Cut(rest[1:], ">"); !ok {
			return arg
		}
		path = strings.TrimSpace(path)
	default:
		path, params, _ = strings.Cut(rest, " ")
	}
	if path != "" && !strings.ContainsAny(path, "@<> \t") {
		path += domain
	}
	kept := slices.DeleteFunc(strings.Fields(params), func(p string) bool {
		return len(p) >= 5 && strings.EqualFold(p[:5], "AUTH=")
	})
	return strings.Join(append([]string{word + ":<" + path + ">"}, kept...), " ")
}

// printable returns what may be shown of a stranger's text: at most so many
// characters, all of them printable ASCII.
func printable(s string, most int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), most)])
}
