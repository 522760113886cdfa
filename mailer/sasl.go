package mailer

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/emersion/go-sasl"
)

const (
	// maxAuthLine holds for a command (RFC 4954, section 4), not for the
	// responses that follow it. Postfix cuts longer ones off and says 535.
	maxAuthLine = 512
	// maxChallenges bounds the dialogue; LOGIN needs two.
	maxChallenges = 8
)

// authenticate runs one AUTH dialogue. The initial response goes along with
// the command where it fits, and otherwise after the server asked for it.
func (c *Conn) authenticate(ctx context.Context, client sasl.Client, f *Facts) *Error {
	mechanism, pending, err := client.Start()
	if err != nil {
		return &Error{Stage: StageAuth, Kind: KindConfig, Server: c.addr, Err: err}
	}
	if f != nil {
		f.Mechanism = mechanism
	}
	line := "AUTH " + mechanism
	var sent []string // payloads
	if pending != nil {
		word := base64.StdEncoding.EncodeToString(pending)
		if word == "" {
			word = "="
		}
		sent = append(sent, word)
		if len(line)+len(" ")+len(word)+len("\r\n") <= maxAuthLine {
			line += " " + word
			pending = nil
		}
	}
	for range maxChallenges {
		raw, e := c.command(ctx, StageAuth, line)
		if e != nil {
			for _, s := range sent {
				e.Reply.Text = redact(e.Reply.Text, s)
			}
			return e
		}
		if raw.code/100 == 2 {
			return nil // and what the server says is not told: it might echo the token
		}
		response := pending
		if pending = nil; response == nil {
			if response, err = answer(client, raw); err != nil {
				return c.cancelAuth(ctx, err)
			}
		}
		line = base64.StdEncoding.EncodeToString(response)
		sent = append(sent, line)
	}
	return c.cancelAuth(ctx, errors.New("server does not stop asking"))
}

func answer(client sasl.Client, raw rawReply) ([]byte, error) {
	challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(raw.lines[0]))
	if raw.code != 334 || err != nil {
		return nil, errUnexpected
	}
	return client.Next(challenge)
}

// cancelAuth takes a dialogue back that got nowhere. The server's answer tells
// nothing; the cause does.
func (c *Conn) cancelAuth(ctx context.Context, cause error) *Error {
	_, _ = c.command(ctx, StageAuth, "*")
	return c.lost(StageAuth, cause)
}

// redact blanks out every part of text that is also part of secret. Servers
// have been seen to echo what they were sent.
func redact(text, secret string) string {
	const (
		shortest = 12 // of a part; less could be any word
		tooShort = 4  // for a secret to be told from words at all
	)
	if len(secret) < tooShort {
		return text
	}
	least := min(len(secret), shortest)
	var b strings.Builder
	for i := 0; i < len(text); {
		n := 0
		for i+n < len(text) && strings.Contains(secret, text[i:i+n+1]) {
			n++
		}
		if n >= least {
			b.WriteString("…")
			i += n
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return strings.ToValidUTF8(b.String(), "")
}
