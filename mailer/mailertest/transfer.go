package mailertest

import (
	"bytes"
	"strconv"
)

var (
	finalDot  = []byte(".\r\n")
	endOfData = []byte("\r\n.\r\n")
)

// content reads the content up to the final dot and answers it. It looks at
// what is buffered as a whole, and leaves there what may be the beginning of
// the end.
func (d *dialogue) content() bool {
	head, err := d.await(len(finalDot))
	if err != nil {
		return false
	}
	if bytes.HasPrefix(head, finalDot) {
		_, _ = d.r.Discard(len(finalDot))
		return d.verdict(Content, nil)
	}
	for {
		buf, _ := d.r.Peek(d.r.Buffered())
		if i := bytes.Index(buf, endOfData); i >= 0 {
			d.octets(buf[:i+2])
			_, _ = d.r.Discard(i + len(endOfData))
			return d.verdict(Content, nil)
		}
		if n := len(buf) - len(endOfData) + 1; n > 0 {
			d.octets(buf[:n])
			_, _ = d.r.Discard(n)
		}
		if _, err := d.await(d.r.Buffered() + 1); err != nil {
			return false
		}
	}
}

// await waits until n octets are there.
func (d *dialogue) await(n int) ([]byte, error) {
	if d.r.Buffered() < n {
		if err := d.flush(); err != nil {
			return nil, err
		}
	}
	return d.r.Peek(n)
}

// chunk reads the octets of a BDAT and answers it.
func (d *dialogue) chunk(line []byte) bool {
	_, params, _ := bytes.Cut(line, []byte(" "))
	size, word, more := bytes.Cut(params, []byte(" "))
	last := bytes.EqualFold(word, []byte("LAST"))
	left, err := strconv.ParseUint(string(size), 10, 31)
	if err != nil || more && !last {
		return d.say("BDAT", line, "501 5.5.4 malformed BDAT")
	}
	d.line = append(d.line[:0], line...) // where line lies the content comes next
	for left > 0 {
		if _, err := d.await(1); err != nil {
			return false
		}
		p, _ := d.r.Peek(int(min(uint64(d.r.Buffered()), left)))
		d.octets(p)
		left -= uint64(len(p))
		_, _ = d.r.Discard(len(p))
	}
	if last {
		return d.verdict("BDAT", d.line)
	}
	usual := "250 2.0.0 go on"
	if d.rcpts == 0 {
		usual = noRecipients
	}
	ok := d.say("BDAT", d.line, usual)
	if !d.did('2') {
		d.reset()
	}
	return ok
}

// verdict answers the end of the content, and ends the transaction.
func (d *dialogue) verdict(step string, line []byte) bool {
	usual := noRecipients
	if d.rcpts > 0 {
		usual = "250 2.0.0 Ok: queued as 4F1A2B3C"
		d.message(step == Content)
	}
	ok := d.say(step, line, usual)
	d.reset()
	return ok
}
