package mailer

import (
	"encoding/json"
	"strconv"

	"github.com/emersion/go-sasl"
)

const xoauth2 = "XOAUTH2"

// xoauth2Client is Google's XOAUTH2, as Microsoft and Yahoo speak it too.
// https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
type xoauth2Client struct {
	user, token string
	challengeStatus
}

func (x *xoauth2Client) Start() (string, []byte, error) {
	return xoauth2, []byte("user=" + x.user + "\x01auth=Bearer " + x.token + "\x01\x01"), nil
}

// Next sees an error and nothing else. The empty answer brings on the 535 with
// the server's words; a cancellation would hide them.
func (x *xoauth2Client) Next(challenge []byte) ([]byte, error) {
	if x.seen {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	x.read(challenge)
	return []byte{}, nil
}

// challengeStatus keeps the status of the JSON challenge with which XOAUTH2
// and OAUTHBEARER tell an error (RFC 7628, section 3.2.2).
type challengeStatus struct {
	seen bool
	word string
}

func (c *challengeStatus) read(challenge []byte) {
	c.seen = true
	var body struct {
		Status any `json:"status"` // a string, though some would write a number
	}
	if json.Unmarshal(challenge, &body) != nil {
		return
	}
	switch s := body.Status.(type) {
	case string:
		c.word = printable(s, 64)
	case float64:
		c.word = strconv.FormatFloat(s, 'g', -1, 64)
	}
}

func (c *challengeStatus) status() string { return c.word }
