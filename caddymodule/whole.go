package caddymodule

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// whole reads a message that is ready (RFC 5322). It goes as it is, but for what no
// mail server may get. Who receives it the query says (to, any number of times), or the
// header ([envelopeToHeader]), or else its fields To, Cc and Bcc; who sends it the query
// (from), the header ([envelopeFromHeader]), or its field From.
func (in *incoming) whole(c caller) (*emailRequest, error) {
	r := &emailRequest{message: new(mailer.Message), id: mailer.NewID(), envelope: new(mailer.Envelope)}
	sum := sha256.New()
	intake := mailer.Intake{MaxSize: in.room.of.largest, RefuseLongLines: true, Spool: sendSpool, DefaultFrom: c.usual()}
	failing := &noticing{from: in.body}
	var err error
	r.received, err = intake.Read(io.TeeReader(failing, sum), r.id)
	if err != nil {
		if failing.err != nil {
			return nil, unreadable(failing.err)
		}
		return nil, err
	}
	if err := r.address(in.r.URL.Query(), in.r.Header); err != nil {
		r.close()
		return nil, err
	}
	r.sum = sum.Sum(nil)
	for _, what := range r.received.Repaired {
		r.warn("mended in the message: " + what)
	}
	return r, nil
}

// address settles the envelope of a message.
func (r *emailRequest) address(query url.Values, header http.Header) (err error) {
	r.envelope.From = r.received.From
	if from := cmp.Or(query.Get("from"), header.Get(envelopeFromHeader)); from != "" {
		if r.envelope.From, err = mailer.ParseAddress(from); err != nil {
			return fieldError("from", err)
		}
	}
	to := slices.Concat(query["to"], header.Values(envelopeToHeader))
	switch {
	case len(to) > maxRecipients:
		return invalid("to", "too_many", "there are more than %d", maxRecipients)
	case len(to) == 0:
		r.envelope.To, err = r.received.Recipients()
		if err != nil {
			return err
		}
	default:
		var m mailer.Message
		for i, s := range to {
			a, err := mailer.ParseAddress(s)
			if err != nil {
				return fieldError(fmt.Sprintf("to[%d]", i), err)
			}
			m.To = append(m.To, a)
		}
		r.envelope.To = m.Envelope().To
	}
	switch n := len(r.envelope.To); {
	case n == 0:
		return missing("to")
	case n > maxRecipients:
		return invalid("to", "too_many", "%d recipients are more than the %d that one message may have", n, maxRecipients)
	}
	return nil
}

// noticing notes how reading failed.
type noticing struct {
	from io.Reader
	err  error
}

func (n *noticing) Read(p []byte) (int, error) {
	got, err := n.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.err = err
	}
	return got, err
}
