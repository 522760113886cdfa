package mailer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gomail "github.com/wneessen/go-mail"
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

// contestant is a row of a benchmark.
type contestant struct {
	name    string
	mails   int // so many in each turn
	workers int
	send    func(worker int) error
}

// turn returns the mails per second and the allocations per mail.
func (c contestant) turn(b *testing.B) (rate, allocs float64) {
	b.Helper()
	var before, after runtime.MemStats
	var begun atomic.Int64
	var wg sync.WaitGroup
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for w := range c.workers {
		wg.Go(func() {
			for begun.Add(1) <= int64(c.mails) {
				if err := c.send(w); err != nil {
					b.Errorf("%s: %v", c.name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if b.Failed() {
		b.FailNow()
	}
	return float64(c.mails) / took.Seconds(), float64(after.Mallocs-before.Mallocs) / float64(c.mails)
}

// compare has all take turns and reports the ratios to the first one.
func compare(b *testing.B, turns int, rows ...contestant) {
	b.Helper()
	for _, c := range rows { // connections are made, buffers grow
		c.mails = max(c.workers*4, c.mails/10)
		c.turn(b)
	}
	ratios, allocs := make([][]float64, len(rows)), make([][]float64, len(rows))
	b.ResetTimer()
	for b.Loop() {
		for range turns {
			var base float64
			for i, c := range rows {
				rate, n := c.turn(b)
				if i == 0 {
					base = rate
				}
				ratios[i] = append(ratios[i], rate/base)
				allocs[i] = append(allocs[i], n)
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of no interest
	for i, c := range rows {
		if i > 0 {
			b.ReportMetric(median(ratios[i]), c.name+"_of_"+rows[0].name)
		}
		b.ReportMetric(median(allocs[i]), c.name+"_allocs/mail")
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkSubmit submits ready content on loopback, over TLS and connections
// that are there: ours to a server that offers PIPELINING, ours-bdat to one that
// offers CHUNKING, too. The rows by hand show what is left to gain.
func BenchmarkSubmit(b *testing.B) {
	plain, chunking := newBenchSink(b, false), newBenchSink(b, true)
	for _, size := range []struct {
		name          string
		octets, mails int
	}{{"1KiB", 1 << 10, 3000}, {"100KiB", 100 << 10, 300}} {
		content := readyContent(size.octets)
		for _, c := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("%s/c=%d", size.name, c), func(b *testing.B) {
				compare(b, 9,
					plain.library(b, content, size.mails, c),
					plain.ours(b, "ours", content, size.mails, c, c),
					plain.byHand(b, "raw", content, size.mails, c, false),
					chunking.ours(b, "ours-bdat", content, size.mails, c, c),
					chunking.byHand(b, "raw-bdat", content, size.mails, c, true),
				)
			})
		}
	}
}

// BenchmarkFar submits to a server 20 ms away, over four connections: alone with
// a worker for each, waiting with so many workers that messages wait.
func BenchmarkFar(b *testing.B) {
	const connections = 4
	plain, chunking := newBenchSink(b, false).away(b, roundTrip/2), newBenchSink(b, true).away(b, roundTrip/2)
	content := readyContent(1 << 10)
	compare(b, 3,
		plain.library(b, content, 10*connections, connections),
		plain.ours(b, "alone", content, 20*connections, connections, connections),
		plain.ours(b, "waiting", content, 40*connections, connections, 4*connections),
		chunking.ours(b, "alone-bdat", content, 40*connections, connections, connections),
		chunking.ours(b, "waiting-bdat", content, 40*connections, connections, 4*connections),
	)
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
			compare(b, 15, contestant{"gomail", size.mails, 1, theirs}, contestant{"ours", size.mails, 1, ours})
		})
	}
}
