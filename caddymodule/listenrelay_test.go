package caddymodule

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
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
	const host = "smtp.relay.test"
	var entrances []string
	kinds := []struct{ lines, tls string }{
		{"plaintext_auth 127.0.0.0/8\n" + user, noTLS},
		{"plaintext_auth 127.0.0.1\n" + user, noTLS},
		{"network 127.0.0.1 {\nrewrite_from sender@example.com\n}\n", noTLS},
		{"network 127.0.0.1 10.0.0.0/8\nplaintext_auth 127.0.0.0/8\n" + user, noTLS},
		{user, startTLS},
		{"network 127.0.0.1\n" + user, startTLS},
		{user, implicitTLS},
		{"network 127.0.0.1\n" + user, implicitTLS},
	}
	for _, kind := range kinds {
		entrances = append(entrances, freeAddress(t))
		words := "tls " + kind.tls
		if kind.tls != noTLS {
			words += " internal\nhostname " + host
		}
		fmt.Fprintf(&app, "smtp %s {\ntenant default\nconnections_per_address 100\n%s\n%s}\n", entrances[len(entrances)-1], words, kind.lines)
	}
	p := startCaddy(t, tenants+beside("")+app.String())
	config := clientTLS(p.roots(), host, true)
	var strangers sync.WaitGroup
	for i, address := range entrances {
		await(t, address+" is served, with its certificate", func() bool {
			c, err := relayDial(address, kinds[i].tls, config)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		ways := []string{kinds[i].tls}
		if kinds[i].tls == startTLS {
			ways = append(ways, noTLS)
		}
		for _, way := range ways {
			for _, greeting := range []string{"EHLO check.example.org", "HELO check.example.org", "EHLO localhost", ""} {
				strangers.Go(func() {
					for _, trick := range relayTricks {
						c, err := relayDial(address, way, config)
						if err != nil {
							t.Errorf("entrance %d, TLS %s: %v", i, way, err)
							return
						}
						if said := c.try(greeting, trick); said != "" {
							t.Errorf("entrance %d, TLS %s, %s, %s: %s", i, way, greeting, trick, said)
						}
						c.Close()
					}
				})
			}
		}
	}
	strangers.Wait()
	if n := len(sink.Messages()); n > 0 {
		t.Errorf("%d messages were relayed", n)
	}
	for i, address := range entrances[2:4] { // they do relay, for those that may
		mustSend(t, dialSMTP(t, address, nil, false), "sender@example.com", fmt.Sprintf("From: sender@example.com\r\n\r\n%d\r\n", i))
	}
	await(t, "what may be sent arrives", func() bool { return len(sink.Messages()) == 2 })
}

// relayClient is a stranger in a session that has been greeted.
type relayClient struct {
	net.Conn
	*bufio.Reader
}

// relayDial begins a session from an address outside. With STARTTLS it goes as far as
// the handshake.
func relayDial(address, way string, config *tls.Config) (*relayClient, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, 0, 1)}, Timeout: 10 * time.Second}
	nc, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	c := &relayClient{nc, bufio.NewReader(nc)}
	secure := func() error {
		over := tls.Client(nc, config)
		*c = relayClient{over, bufio.NewReader(over)}
		return over.Handshake()
	}
	if way == implicitTLS {
		err = secure()
	}
	if banner := c.hear(); err == nil && !strings.HasPrefix(banner, "220 ") {
		err = errors.New("not greeted: " + banner)
	}
	if err == nil && way == startTLS {
		for _, command := range []string{"EHLO check.example.org", "STARTTLS"} {
			if reply := c.say(command); !strings.HasPrefix(reply, "2") {
				err = fmt.Errorf("%s: %s", command, reply)
			}
		}
		if err == nil {
			err = secure()
		}
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// hear returns the last line of a reply; empty where there is none.
func (c *relayClient) hear() string {
	for {
		line, err := c.ReadString('\n')
		if err != nil || len(line) > 3 && line[3] == ' ' {
			return strings.TrimSpace(line)
		}
	}
}

func (c *relayClient) say(command string) (reply string) {
	if _, err := c.Write([]byte(command + "\r\n")); err != nil {
		return ""
	}
	return c.hear()
}

// try says all that, and a mail behind it, and returns what it heard that it should not.
func (c *relayClient) try(greeting, trick string) string {
	var commands []string
	if greeting != "" {
		commands = append(commands, greeting)
	}
	for _, command := range append(append(commands, strings.Split(trick, "|")...), "DATA") {
		reply := c.say(command)
		switch {
		case reply == "", command == "STARTTLS" && strings.HasPrefix(reply, "220"):
			return ""
		case strings.HasPrefix(command, "RCPT") && reply[0] == '2', command == "DATA" && reply[0] != '5' && reply[0] != '4':
			return command + ": " + reply
		}
	}
	return ""
}
