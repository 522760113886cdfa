package mailer

import (
	"bytes"
	"strconv"
	"strings"
)

// receiver is a mail server reduced to what it takes for a line: they differ,
// and what one takes for text is the end of the content to another.
type receiver struct {
	name   string
	lf, cr bool // a bare LF, a bare CR ends a line, too
}

var receivers = []receiver{
	{name: "strict"},
	{name: "LF-tolerant", lf: true},
	{name: "CR-tolerant", lf: true, cr: true},
}

// transactionSeen is a transaction as a receiver understood it.
type transactionSeen struct {
	from    string
	to      []string
	content string
}

// line cuts the first line off. Without an end it is none.
func (r receiver) line(wire []byte) (line, rest []byte, ok bool) {
	for i, b := range wire {
		switch {
		case b == '\r' && i+1 < len(wire) && wire[i+1] == '\n':
			return wire[:i], wire[i+2:], true
		case b == '\n' && r.lf, b == '\r' && r.cr:
			return wire[:i], wire[i+1:], true
		}
	}
	return nil, nil, false
}

// data reads content up to the final dot.
func (r receiver) data(wire []byte) (content string, rest []byte, ok bool) {
	var b strings.Builder
	for {
		line, more, ok := r.line(wire)
		switch {
		case !ok:
			return "", nil, false
		case string(line) == ".":
			return b.String(), more, true
		}
		b.Write(bytes.TrimPrefix(line, []byte(".")))
		b.WriteString("\r\n")
		wire = more
	}
}

// read returns the transactions that are whole, all recipients that were named,
// and the lines that are no command.
func (r receiver) read(wire []byte) (seen []transactionSeen, named, rubbish []string) {
	var t transactionSeen
	for {
		line, rest, ok := r.line(wire)
		if !ok {
			return seen, named, rubbish
		}
		wire = rest
		s := string(line)
		switch verb := strings.ToUpper(s[:min(4, len(s))]); verb {
		case "MAIL":
			t = transactionSeen{from: s}
		case "RCPT":
			t.to = append(t.to, s)
			named = append(named, s)
		case "DATA":
			if t.content, wire, ok = r.data(wire); !ok {
				return seen, named, rubbish
			}
			seen, t = append(seen, t), transactionSeen{}
		case "BDAT":
			fields := strings.Fields(s)
			n, err := strconv.Atoi(fields[1])
			if err != nil || n > len(wire) {
				return seen, named, rubbish
			}
			t.content, wire = string(wire[:n]), wire[n:]
			seen, t = append(seen, t), transactionSeen{}
		case "EHLO", "RSET", "QUIT":
		default:
			rubbish = append(rubbish, s)
		}
	}
}
