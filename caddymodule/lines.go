package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// maxLines is how many lines a request may have: their answers wait in memory.
	maxLines = 10_000
	// maxLine is how long one may be, in octets.
	maxLine = 1 << 20
)

// lineSent is the answer to a line that was accepted.
type lineSent struct {
	Index int `json:"index"`
	sent
}

// lineError is the answer to one that was not.
type lineError struct {
	Index int        `json:"index"`
	Error batchError `json:"error"`
}

// postLines sends messages that come as JSON Lines, each as soon as its line is there
// and good. Only the outbox can do that: nobody could wait for them.
func (h *Handler) postLines(w http.ResponseWriter, r *http.Request, c caller) error {
	if h.app.mailer.Outbox == nil {
		return invalid("", "unsupported", "JSON Lines need the outbox, which is off on this server; send a JSON array of up to %d messages", maxDirectBatch)
	}
	in, err := h.receive(w, r, lineTypes)
	if err != nil {
		return err
	}
	defer in.close()
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	l := &lines{h: h, r: r, c: c, key: key, wait: http.NewResponseController(w)}
	if err = l.read(bufio.NewReaderSize(in.body, 64<<10)); err != nil {
		err = in.refused(err)
	}
	return l.answer(w, err)
}

// lines is a request with a message in each line.
type lines struct {
	h    *Handler
	r    *http.Request
	c    caller
	key  string
	wait *http.ResponseController
	// items have no content any more when they were sent.
	items []*item
}

// read reads the lines and has those accepted that are good. The error is about the
// lines that are not read any more.
func (l *lines) read(from *bufio.Reader) error {
	var group sync.WaitGroup
	defer group.Wait()
	turns := make(chan struct{}, batchWorkers)
	// What was begun ends when the client goes away: its next request tells the same key.
	ctx := context.WithoutCancel(l.r.Context())
	for {
		_ = l.wait.SetReadDeadline(time.Now().Add(bodyTimeout)) // for each line anew
		line, err := readLine(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if len(l.items) == maxLines {
			return invalid("", "too_many", "there are more than %d lines", maxLines)
		}
		i := &item{index: len(l.items)}
		if errors.Is(err, errLongLine) {
			l.items = append(l.items, i)
			i.problem = toProblem(refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large", "The line has more than 1 MiB; send such a message alone."))
			continue
		}
		if err != nil {
			return unreadable(err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		l.items = append(l.items, i)
		if err := l.prepare(i, line); err != nil {
			i.problem = toProblem(err)
			i.close()
			i.request = nil
			continue
		}
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			i.send(ctx, l.h, languageOf(l.r))
		})
	}
}

// prepare reads the message in a line.
func (l *lines) prepare(i *item, line []byte) (err error) {
	if i.request, err = parseEmail(line, true); err != nil {
		return err
	}
	if i.submission, err = l.h.prepare(l.r, l.c, i.request); err != nil {
		return err
	}
	i.submission.Options.Async = true
	if l.key != "" {
		if i.submission.Options.Fingerprint, err = i.request.fingerprint(i.submission.Tenant); err != nil {
			return err
		}
		i.submission.Options.IdempotencyKey = "POST /emails/batch line " + strconv.Itoa(i.index) + " " + l.key
	}
	if err := l.h.app.mailer.Check(i.submission); err != nil {
		return err
	}
	if i.request.dryRun {
		return nil
	}
	return l.c.spend(nil, 1)
}

var errLongLine = errors.New("line too long")

// readLine reads one line, without its end. Of one that is too long it reads all and
// keeps nothing.
func readLine(from *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		piece, err := from.ReadSlice('\n')
		if long = long || len(line)+len(piece) > maxLine; !long {
			line = append(line, piece...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(piece)+len(line) > 0 || err == nil:
			if long {
				return nil, errLongLine
			}
			return line, nil
		default:
			return nil, err
		}
	}
}

// answer writes a line for each line: 200 where one was accepted. Cut is why the
// others were not read.
func (l *lines) answer(w http.ResponseWriter, cut error) error {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	var accepted bool
	first := cut
	for _, i := range l.items {
		var v any
		if i.answer != nil {
			accepted = true
			v = lineSent{i.index, *i.answer}
		} else {
			v = lineError{i.index, newBatchError(i.index, i.problem)}
			if first == cut && i.problem != nil {
				first = inBatch(i.index, i.problem)
			}
		}
		if err := encoder.Encode(v); err != nil {
			return err
		}
	}
	if !accepted {
		if first == nil {
			return invalid("", "too_few", "there is no line with a message")
		}
		return first
	}
	if cut != nil {
		if err := encoder.Encode(lineError{len(l.items), newBatchError(len(l.items), toProblem(cut))}); err != nil {
			return err
		}
	}
	writeBody(w, "application/x-ndjson", http.StatusOK, body.Bytes())
	return nil
}
