package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// isPermissive reports whether the good messages of a batch go when others are bad.
func isPermissive(h http.Header) (bool, error) {
	switch v := strings.ToLower(h.Get("X-Batch-Validation")); v {
	case "", "strict":
		return false, nil
	case "permissive":
		return true, nil
	default:
		return false, refuse(http.StatusUnprocessableEntity, nameValidation, "bad_header",
			"The header x-batch-validation must be strict or permissive.")
	}
}

// batch is a request with several messages.
type batch struct {
	h          *Handler
	r          *http.Request
	c          caller
	prefer     preferences
	permissive bool
	items      []*item
	warnings   []string
}

// read reads and checks the messages. The error is about the whole request.
func (b *batch) read(in *incoming) error {
	outbox := b.h.app.mailer.Outbox != nil
	e := newEmailReader(in.body, in.room, outbox)
	defer e.giveBack()
	if err := e.enter('['); err != nil {
		return err
	}
	e.root = len(e.path)
	for {
		more, err := e.item(len(b.items))
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if len(b.items) == maxBatch {
			return invalid("", "too_many", "a batch has %d messages at most", maxBatch)
		}
		i := &item{index: len(b.items)}
		b.items = append(b.items, i)
		if e.peek() == '{' {
			i.request, err = e.email()
		} else if err = e.skip(); err == nil {
			err = badJSON("", "must be an object")
		}
		dead := e.dead || e.err != nil && e.err != io.EOF
		if err == nil {
			i.submission, err = b.h.prepare(b.r, b.c, i.request)
		}
		if err == nil {
			i.submission.Options.Async = outbox
			err = b.h.app.mailer.Check(i.submission)
		}
		if err == nil {
			continue
		}
		i.problem = toProblem(err)
		if !b.permissive || dead {
			return inBatch(i.index, i.problem)
		}
		i.close()
		if err := e.leave(e.root); err != nil {
			return inBatch(i.index, toProblem(err))
		}
		e.path = e.path[:e.root]
	}
	e.root = 0
	if err := e.finish(); err != nil {
		return err
	}
	switch n := len(b.items); {
	case n == 0:
		return invalid("", "too_few", "a batch has one message at least")
	case n > maxDirectBatch && !outbox:
		return invalid("", "too_many", "there are %d messages; without an outbox, which is off on this server, a batch may have %d, for its caller has to wait for them all", n, maxDirectBatch)
	}
	return nil
}

// good is how many messages are to be sent.
func (b *batch) good() int {
	n := 0
	for _, i := range b.items {
		if i.problem == nil && !i.request.dryRun {
			n++
		}
	}
	return n
}

// inBatch tells of a problem which message of a batch it is about.
func inBatch(index int, p *problem) *problem {
	q := *p
	q.message = fmt.Sprintf("The message at index %d: %s", index, p.message)
	q.field = join(strconv.Itoa(index), p.field)
	if p.field == "" {
		q.field = strconv.Itoa(index)
	}
	return &q
}
