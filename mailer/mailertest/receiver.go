package mailertest

import (
	"bytes"
	"strconv"
	"strings"
)

// Receiver is a mail server reduced to what it takes for a line: they differ, and
// what one takes for text is the end of the content to another.
type Receiver struct {
	Name   string
	LF, CR bool // a bare LF, a bare CR ends a line, too
}

// Receivers are the kinds that there are.
var Receivers = []Receiver{
	{Name: "strict"},
	{Name: "LF-tolerant", LF: true},
	{Name: "CR-tolerant", LF: true, CR: true},
}

// Seen is a transaction as a receiver understood it. From and To are the lines of
// MAIL and RCPT.
type Seen struct {
	From    string
	To      []string
	Content string
}

// line cuts the first line off. Without an end it is none.
func (r Receiver) line(wire []byte) (line, rest []byte, ok bool) {
	for i, b := range wire {
		switch {
		case b == '\r' && i+1 < len(wire) && wire[i+1] == '\n':
			return wire[:i], wire[i+2:], true
		case b == '\n' && r.LF, b == '\r' && r.CR:
			return wire[:i], wire[i+1:], true
		}
	}
	return nil, nil, false
}

// Data reads a content up to the final dot, and returns what follows it. Without an
// end it is none.
func (r Receiver) Data(wire []byte) (content string, rest []byte, ok bool) {
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

// Read reads what a client wrote. It returns the transactions that are whole, the
// RCPT lines of all, and the lines that are no command.
func (r Receiver) Read(wire []byte) (seen []Seen, named, rubbish []string) {
	var t Seen
	for {
		line, rest, ok := r.line(wire)
		if !ok {
			return seen, named, rubbish
		}
		wire = rest
		s := string(line)
		switch verb := strings.ToUpper(s[:min(4, len(s))]); verb {
		case "MAIL":
			t = Seen{From: s}
		case "RCPT":
			t.To = append(t.To, s)
			named = append(named, s)
		case "DATA":
			if t.Content, wire, ok = r.Data(wire); !ok {
				return seen, named, rubbish
			}
			seen, t = append(seen, t), Seen{}
		case "BDAT":
			size, _, _ := strings.Cut(strings.TrimSpace(s[4:]), " ")
			n, err := strconv.Atoi(size)
			if err != nil || n < 0 || n > len(wire) {
				return seen, named, rubbish
			}
			t.Content, wire = string(wire[:n]), wire[n:]
			seen, t = append(seen, t), Seen{}
		case "EHLO", "RSET", "QUIT":
		default:
			rubbish = append(rubbish, s)
		}
	}
}

// Smuggled are texts that hold another transaction, for victim@example.com, between
// all combinations of CR, LF and dot of up to most octets.
func Smuggled(most int) []string {
	var ends []string
	for n, last := 0, []string{""}; n < most; n++ {
		var longer []string
		for _, s := range last {
			for _, b := range []string{"\r", "\n", "."} {
				longer = append(longer, s+b)
			}
		}
		ends, last = append(ends, longer...), longer
	}
	eols := []string{"\r\n", "\n", "\r"}
	all := make([]string, 0, 2*len(ends)*len(eols))
	for _, eol := range eols {
		inner := strings.Join([]string{"MAIL FROM:<evil@example.com>", "RCPT TO:<victim@example.com>", "DATA", "Subject: smuggled", "", "smuggled", ".", ""}, eol)
		for _, end := range ends {
			all = append(all, "x"+end+inner, "x"+end+inner+end)
		}
	}
	return all
}
