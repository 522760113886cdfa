package caddymodule

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// relayTricks are the ways in which a stranger tries to have a mail relayed, as the
// usual relay checks do: what is said between the greeting and DATA.
var relayTricks = []string{
	"MAIL FROM:<spam@example.org>|RCPT TO:<victim@example.net>",
	"MAIL FROM:<>|RCPT TO:<victim@example.net>",
	"MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"MAIL FROM:<sender@example.com>|RCPT TO:<sender@example.com>",
	"MAIL FROM:<root@localhost>|RCPT TO:<victim@example.net>",
	"MAIL FROM:root|RCPT TO:victim@example.net",
	"MAIL FROM:<postmaster@[127.0.0.1]>|RCPT TO:<victim@example.net>",
	"MAIL FROM:<sender@example.com>|RCPT TO:<victim%example.net@example.com>",
	`MAIL FROM:<sender@example.com>|RCPT TO:<"victim@example.net"@example.com>`,
	`MAIL FROM:<sender@example.com>|RCPT TO:<"victim%example.net"@[127.0.0.1]>`,
	"MAIL FROM:<sender@example.com>|RCPT TO:<@example.com:victim@example.net>",
	"MAIL FROM:<sender@example.com>|RCPT TO:<example.net!victim@example.com>",
	"MAIL FROM:<sender@example.com> AUTH=<sender@example.com>|RCPT TO:<victim@example.net>",
	"MAIL FROM:<sender@example.com> AUTH=<>|RCPT TO:<victim@example.net>",
	"RSET|MAIL FROM:<sender@example.com>|RSET|RCPT TO:<victim@example.net>",
	"RCPT TO:<victim@example.net>|MAIL FROM:<sender@example.com>",
	"AUTH PLAIN|*|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"AUTH PLAIN AAAA|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"AUTH PLAIN =|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"AUTH LOGIN|||MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"AUTH ANONYMOUS|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"AUTH EXTERNAL =|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"STARTTLS",
	"XCLIENT ADDR=127.0.0.1|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"XFORWARD ADDR=127.0.0.1|MAIL FROM:<sender@example.com>|RCPT TO:<victim@example.net>",
	"TURN", "ETRN example.net", "VRFY sender", "EXPN staff",
}

// TestRelayCheck: nobody from outside gets a mail relayed, whatever he says, at any
// kind of entrance.
func TestRelayCheck(t *testing.T) {
	t.Parallel()
	sink, tenants := sinkTenants(t)
	const user = "user u {\npassword " + opsHash + "\nrewrite_from sender@example.com\n}\n"
	var app strings.Builder
	var entrances []string
	for _, lines := range []string{
		"tls off\nplaintext_auth 127.0.0.0/8\n" + user,
		"tls off\nplaintext_auth 127.0.0.1\n" + user,
		"tls off\nnetwork 127.0.0.1 {\nrewrite_from sender@example.com\n}\n",
		"tls off\nnetwork 127.0.0.1 10.0.0.0/8\nplaintext_auth 127.0.0.0/8\n" + user,
		"tls starttls internal\nhostname smtp.relay.test\n" + user,
		"tls starttls internal\nhostname smtp.relay.test\nnetwork 127.0.0.1\n" + user,
	} {
		entrances = append(entrances, freeAddress(t))
		fmt.Fprintf(&app, "smtp %s {\ntenant default\nconnections_per_address 100\n%s}\n", entrances[len(entrances)-1], lines)
	}
	p := startCaddy(t, tenants+beside("")+app.String())
	p.roots()
	for i, address := range entrances {
		await(t, address+" is served", func() bool {
			nc, err := net.Dial("tcp", address)
			if err == nil {
				nc.Close()
			}
			return err == nil
		})
		for _, greeting := range []string{"EHLO check.example.org", "HELO check.example.org", "EHLO localhost", ""} {
			for _, trick := range relayTricks {
				if said := relayTry(t, address, greeting, trick); said != "" {
					t.Errorf("entrance %d, %s, %s: %s", i, greeting, trick, said)
				}
			}
		}
	}
	if n := len(sink.Messages()); n > 0 {
		t.Errorf("%d messages were relayed", n)
	}
	for i, address := range entrances[2:4] { // they do relay, for those that may
		mustSend(t, dialSMTP(t, address, nil, false), "sender@example.com", fmt.Sprintf("From: sender@example.com\r\n\r\n%d\r\n", i))
	}
	await(t, "what may be sent arrives", func() bool { return len(sink.Messages()) == 2 })
}

// relayTry says all that from an address outside, and a mail behind it, and returns
// what it heard that it should not.
func relayTry(t *testing.T, address, greeting, trick string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, 0, 1)}, Timeout: 10 * time.Second}
	nc, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(nc)
	hear := func() string {
		for {
			line, err := r.ReadString('\n')
			if err != nil || len(line) > 3 && line[3] == ' ' {
				return line
			}
		}
	}
	if banner := hear(); !strings.HasPrefix(banner, "220 ") {
		return "not greeted: " + banner
	}
	var commands []string
	if greeting != "" {
		commands = append(commands, greeting)
	}
	commands = append(append(commands, strings.Split(trick, "|")...), "DATA")
	for _, command := range commands {
		if _, err := nc.Write([]byte(command + "\r\n")); err != nil {
			return ""
		}
		reply := hear()
		switch {
		case reply == "", command == "STARTTLS" && strings.HasPrefix(reply, "220"):
			return ""
		case strings.HasPrefix(command, "RCPT") && reply[0] == '2', command == "DATA" && reply[0] != '5' && reply[0] != '4':
			return command + ": " + strings.TrimSpace(reply)
		}
	}
	return ""
}
