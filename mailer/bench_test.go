package mailer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	gomail "github.com/wneessen/go-mail"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

// The benchmarks below compare. Machines and their other users make rates worth
// little, so the rows of a benchmark take turns, many times over, and what is
// reported are medians of the ratios between neighbors, and allocations. Run
// them once each, as a run repeats itself:
//
//	go test ./mailer -run '^$' -bench 'Submit|Far|GoMail' -benchtime 1x
//
// Units: x_of_gosmtp is the throughput of row x over that of go-smtp's client,
// x_allocs/mail what row x allocates, the other end included.

// BenchmarkSubmit submits ready content on loopback, over TLS and connections
// that are there: ours to a server that offers PIPELINING, ours-bdat to one that
// offers CHUNKING, too. The rows by hand show what is left to gain.
func BenchmarkSubmit(b *testing.B) {
	plain, chunking := contest.NewSink(b, false), contest.NewSink(b, true)
	for _, size := range []struct {
		name          string
		octets, mails int
	}{{"1KiB", 1 << 10, 3000}, {"100KiB", 100 << 10, 300}} {
		content := contest.NewContent(size.octets)
		for _, c := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("%s/c=%d", size.name, c), func(b *testing.B) {
				contest.Compare(b, 9,
					plain.Library(b, content, size.mails, c),
					ours(b, plain.Server, "ours", content, size.mails, c, c),
					plain.ByHand(b, "raw", content, size.mails, c, false),
					ours(b, chunking.Server, "ours-bdat", content, size.mails, c, c),
					chunking.ByHand(b, "raw-bdat", content, size.mails, c, true),
				)
			})
		}
	}
}

// BenchmarkFar submits to a server 20 ms away, over four connections: alone with
// a worker for each, waiting with so many workers that messages wait.
func BenchmarkFar(b *testing.B) {
	const connections = 4
	plain, chunking := contest.NewSink(b, false).Away(b, roundTrip/2), contest.NewSink(b, true).Away(b, roundTrip/2)
	content := contest.NewContent(1 << 10)
	contest.Compare(b, 3,
		plain.Library(b, content, 10*connections, connections),
		ours(b, plain, "alone", content, 20*connections, connections, connections),
		ours(b, plain, "waiting", content, 40*connections, connections, 4*connections),
		ours(b, chunking, "alone-bdat", content, 40*connections, connections, connections),
		ours(b, chunking, "waiting-bdat", content, 40*connections, connections, 4*connections),
	)
}

// ours sends by Mailer.Send over a warm pool.
func ours(b *testing.B, s contest.Server, name string, content Content, mails, connections, workers int) contest.Row {
	b.Helper()
	tenant := &Tenant{
		Name:    "lab",
		Server:  Server{Host: s.Host, Port: s.Port, RootCAs: s.Roots},
		Auth:    Password{User: "u", Password: "secret-password"},
		Senders: Senders{any: true},
		Pool:    &Pool{Max: connections, MaxMessages: 1 << 30},
	}
	b.Cleanup(func() { tenant.Pool.Close() })
	m := &Mailer{Lookup: func(string) (*Tenant, bool) { return tenant, true }}
	sub := readySubmission(content, someone)
	return contest.Row{Name: name, Mails: mails, Workers: workers, Send: func(int) error {
		_, err := m.Send(context.Background(), sub)
		return err
	}}
}

// BenchmarkGoMail composes messages from their parts and writes them, next to
// go-mail.
func BenchmarkGoMail(b *testing.B) {
	random := rand.NewChaCha8([32]byte{})
	file := make([]byte, 80<<10)
	_, _ = random.Read(file)
	line := "The quick brown fox jumps over the lazy dog, and nobody minds at all.\n"
	text := strings.Repeat(line, 15)[:1<<10]
	html := "<p>" + strings.Repeat(line, 300)[:19<<10] + "</p>\n"
	for _, size := range []struct {
		name       string
		html       string
		attachment []byte
		mails      int
	}{
		{name: "1KiB", mails: 5000},
		{name: "100KiB", html: html, attachment: file, mails: 200},
	} {
		b.Run(size.name, func(b *testing.B) {
			theirs := func(int) error {
				m := gomail.NewMsg()
				if err := errors.Join(m.From("a@example.com"), m.To("b@example.net")); err != nil {
					return err
				}
				m.Subject("benchmark")
				m.SetDate()
				m.SetMessageID()
				m.SetBodyString(gomail.TypeTextPlain, text)
				if size.html != "" {
					m.AddAlternativeString(gomail.TypeTextHTML, size.html)
				}
				if size.attachment != nil {
					m.AttachReadSeeker("file.pdf", bytes.NewReader(size.attachment))
				}
				_, err := m.WriteTo(io.Discard)
				return err
			}
			ours := func(int) error {
				m := Message{From: sender, To: []Address{someone}, Subject: "benchmark", Text: text, HTML: size.html}
				if size.attachment != nil {
					m.Attachments = []Attachment{{Filename: "file.pdf", Source: Bytes(size.attachment)}}
				}
				c, err := m.Compose()
				if err == nil {
					_, err = c.WriteTo(io.Discard)
				}
				return err
			}
			contest.Compare(b, 15, contest.Row{Name: "gomail", Mails: size.mails, Workers: 1, Send: theirs}, contest.Row{Name: "ours", Mails: size.mails, Workers: 1, Send: ours})
		})
	}
}
