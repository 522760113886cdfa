package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
)

// testInbox starts an inbox on a free port.
func testInbox(t *testing.T, owner func(string) (string, error)) (b *inbox, addr string) {
	t.Helper()
	listeners, err := listenLoopback(0, "test")
	if err != nil {
		t.Fatal(err)
	}
	b = newInbox(owner)
	b.serve(listeners)
	t.Cleanup(func() {
		err := b.stop()
		if err != nil {
			t.Error(err)
		}
	})
	return b, net.JoinHostPort("localhost", strconv.Itoa(portOf(listeners[0])))
}

// oneToken owns "good" only.
func oneToken(token string) (string, error) {
	if token != "good" {
		return "", errBadToken
	}
	return mailbox, nil
}

// xoauth2Client is the client's side of XOAUTH2.
type xoauth2Client struct{ user, token string }

func (x xoauth2Client) Start() (string, []byte, error) {
	return "XOAUTH2", fmt.Appendf(nil, "user=%s\x01auth=Bearer %s\x01\x01", x.user, x.token), nil
}

func (x xoauth2Client) Next([]byte) ([]byte, error) { return []byte{}, nil }

func TestInboxAuth(t *testing.T) {
	t.Parallel()
	bearer := func(user, token string) sasl.Client {
		return sasl.NewOAuthBearerClient(&sasl.OAuthBearerOptions{Username: user, Token: token})
	}
	tests := []struct {
		name string
		auth sasl.Client
		ok   bool
	}{
		{"XOAUTH2 good", xoauth2Client{mailbox, "good"}, true},
		{"XOAUTH2 wrong token", xoauth2Client{mailbox, "bad"}, false},
		{"XOAUTH2 token of somebody else", xoauth2Client{stranger, "good"}, false},
		{"XOAUTH2 without user", xoauth2Client{"", "good"}, false},
		{"XOAUTH2 without token", xoauth2Client{mailbox, ""}, false},
		{"OAUTHBEARER good", bearer(mailbox, "good"), true},
		{"OAUTHBEARER without user", bearer("", "good"), true},
		{"OAUTHBEARER token of somebody else", bearer(stranger, "good"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, addr := testInbox(t, oneToken)
			c, err := smtp.Dial(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Auth(tt.auth)
			if (err == nil) != tt.ok {
				t.Fatalf("AUTH: %v", err)
			}
			err = c.SendMail(mailbox, []string{"a@example.net", "b@example.net"},
				strings.NewReader("Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\nFrom: a\r\n\r\nHello\r\n..\r\n"))
			if !tt.ok {
				var refused *smtp.SMTPError
				if !errors.As(err, &refused) || refused.Code != 530 {
					t.Errorf("sending without AUTH: %v, want 530", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m, err := b.await(t.Context(), func(*mail) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			if m.Subject != "Grüße" || m.Text != "Hello\r\n..\r\n" || m.SignedInAs != mailbox || m.MailFrom != mailbox {
				t.Errorf("got %+v", m)
			}
			if diff := cmp.Diff([]string{"a@example.net", "b@example.net"}, m.RcptTo); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The refusal has two halves: a challenge with JSON, and the 535 after the client has answered it.
func TestInboxRefusal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, mechanism, payload, answer string
	}{
		{"XOAUTH2", "XOAUTH2", "user=a\x01auth=Bearer bad\x01\x01", ""},
		{"XOAUTH2 nonsense", "XOAUTH2", "nonsense", ""},
		{"OAUTHBEARER", "OAUTHBEARER", "n,a=a,\x01auth=Bearer bad\x01\x01", "\x01"},
		{"OAUTHBEARER, client answers nothing", "OAUTHBEARER", "n,a=a,\x01auth=Bearer bad\x01\x01", ""},
		{"OAUTHBEARER nonsense", "OAUTHBEARER", "nonsense", "\x01"},
	}
	for _, tt := range tests {
		for _, twoSteps := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, two steps %v", tt.name, twoSteps), func(t *testing.T) {
				t.Parallel()
				_, addr := testInbox(t, oneToken)
				c, err := textproto.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				said := func(code int, line string) string {
					t.Helper()
					if line != "-" {
						err := c.PrintfLine("%s", line)
						if err != nil {
							t.Fatal(err)
						}
					}
					_, text, err := c.ReadResponse(code)
					if err != nil {
						t.Fatalf("after %q: %v", line, err)
					}
					return text
				}
				said(220, "-")
				said(250, "EHLO localhost")
				payload := base64.StdEncoding.EncodeToString([]byte(tt.payload))
				var challenge string
				if twoSteps {
					said(334, "AUTH "+tt.mechanism)
					challenge = said(334, payload)
				} else {
					challenge = said(334, "AUTH "+tt.mechanism+" "+payload)
				}
				plain, err := base64.StdEncoding.DecodeString(challenge)
				if err != nil || !strings.Contains(string(plain), `"status":"`) {
					t.Errorf("challenge %q, %v", plain, err)
				}
				text := said(535, base64.StdEncoding.EncodeToString([]byte(tt.answer)))
				if !strings.HasPrefix(text, "5.7.8 ") {
					t.Errorf("refusal %q", text)
				}
			})
		}
	}
}

// The inbox and the authorization server together: what one issues opens the other, until it is too old or revoked.
func TestInboxAsksAuthorizationServer(t *testing.T) {
	t.Parallel()
	k := newClock()
	p, c := testIDP(t, func(c *idpConfig) { c.now, c.tokenLife = k.now, time.Minute })
	_, addr := testInbox(t, p.owner)
	token := tokensFor(t, p, c, mailbox)

	try := func(user, token string) error {
		c, err := smtp.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.Auth(xoauth2Client{user, token})
	}
	if err := try(mailbox, token.AccessToken); err != nil {
		t.Errorf("good token: %v", err)
	}
	if err := try(stranger, token.AccessToken); err == nil {
		t.Error("the token opened another mailbox")
	}
	if err := try(mailbox, token.RefreshToken); err == nil {
		t.Error("the refresh token opened the mailbox")
	}
	k.advance(time.Minute)
	if err := try(mailbox, token.AccessToken); err == nil {
		t.Error("the token works after its time")
	}
}

func TestInboxForgetsOldest(t *testing.T) {
	t.Parallel()
	b := newInbox(oneToken)
	for range maxMails + 5 {
		b.add(&mail{Raw: []byte("x")})
	}
	l := b.list()
	if len(l) != maxMails || l[0].ID != strconv.Itoa(maxMails+5) || l[len(l)-1].ID != "6" {
		t.Errorf("%d mails, %s to %s", len(l), l[0].ID, l[len(l)-1].ID)
	}
	if _, ok := b.get("5"); ok {
		t.Error("the fifth mail is still there")
	}
	big := &mail{Raw: make([]byte, maxKept)}
	b.add(big)
	if l := b.list(); len(l) != 1 || l[0] != big {
		t.Errorf("%d mails beside a big one", len(l)-1)
	}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	b := newInbox(oneToken)
	found := make(chan *mail)
	go func() {
		m, _ := b.await(t.Context(), func(m *mail) bool { return m.Subject == "second" })
		found <- m
	}()
	b.add(&mail{Subject: "first"})
	b.add(&mail{Subject: "second"})
	if m := <-found; m == nil || m.Subject != "second" {
		t.Errorf("got %+v", m)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.await(ctx, func(*mail) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}
