// Package contest compares ways to send mail, side by side in one run: machines and
// their other users make rates worth little.
package contest

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Row is a row of a benchmark.
type Row struct {
	// Name is what the figures are called.
	Name string
	// Mails are sent in each turn, by so many workers at once.
	Mails, Workers int
	// Send sends one. No worker calls it twice at once.
	Send func(worker int) error
	// Settle, where set, is waited for after each turn, outside the clock.
	Settle func()
	// Spent, where set, is the processor time that a server has spent so far.
	Spent func() time.Duration
}

// turn is what a row did when it was its turn.
type turn struct {
	rate   float64 // mails per second
	allocs float64 // per mail
	spent  float64 // µs of the server's processor time per mail
}

func (c Row) turn(b *testing.B) turn {
	b.Helper()
	var before, after runtime.MemStats
	var begun atomic.Int64
	var wg sync.WaitGroup
	spent := c.spent()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for w := range c.Workers {
		wg.Go(func() {
			for begun.Add(1) <= int64(c.Mails) {
				if err := c.Send(w); err != nil {
					b.Errorf("%s: %v", c.Name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if c.Settle != nil {
		c.Settle()
	}
	if b.Failed() {
		b.FailNow()
	}
	n := float64(c.Mails)
	return turn{
		rate:   n / took.Seconds(),
		allocs: float64(after.Mallocs-before.Mallocs) / n,
		spent:  (c.spent() - spent).Seconds() * 1e6 / n,
	}
}

// Once has it take a turn that does not count.
func (c Row) Once(b *testing.B) {
	b.Helper()
	c.turn(b)
}

func (c Row) spent() time.Duration {
	if c.Spent == nil {
		return 0
	}
	return c.Spent()
}

// Compare has all take turns and reports the ratios to the first one. It returns the
// ratios of each, by turns.
func Compare(b *testing.B, turns int, rows ...Row) (ratios [][]float64) {
	b.Helper()
	for _, c := range rows { // connections are made, buffers grow
		c.Mails = max(c.Workers*4, c.Mails/10)
		c.turn(b)
	}
	ratios = make([][]float64, len(rows))
	allocs, spent := make([][]float64, len(rows)), make([][]float64, len(rows))
	b.ResetTimer()
	for b.Loop() {
		for range turns {
			var base float64
			for i, c := range rows {
				t := c.turn(b)
				if i == 0 {
					base = t.rate
				}
				ratios[i] = append(ratios[i], t.rate/base)
				allocs[i] = append(allocs[i], t.allocs)
				spent[i] = append(spent[i], t.spent)
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of no interest
	for i, c := range rows {
		if i > 0 {
			b.ReportMetric(Median(ratios[i]), c.Name+"_of_"+rows[0].Name)
		}
		if c.Spent != nil { // what serves is another process
			b.ReportMetric(Median(spent[i]), c.Name+"_cpu_µs/mail")
			continue
		}
		b.ReportMetric(Median(allocs[i]), c.Name+"_allocs/mail")
	}
	return ratios
}

// Alone has all take turns, by one worker each, and reports the medians of how long a
// mail takes, and of the ratios of those of each turn to the first one's.
func Alone(b *testing.B, turns int, rows ...Row) {
	b.Helper()
	took, ratios := make([][]float64, len(rows)), make([][]float64, len(rows))
	for b.Loop() {
		for n := range turns + 1 {
			var base float64
			for i, c := range rows {
				p50 := c.alone(b)
				if i == 0 {
					base = p50
				}
				if n > 0 { // connections are made, buffers grow
					took[i], ratios[i] = append(took[i], p50), append(ratios[i], p50/base)
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of no interest
	for i, c := range rows {
		b.ReportMetric(Median(took[i]), c.Name+"_p50_µs")
		if i > 0 {
			b.ReportMetric(Median(ratios[i]), c.Name+"_p50_of_"+rows[0].Name)
		}
	}
}

// alone returns the median of how long a mail takes, in µs.
func (c Row) alone(b *testing.B) float64 {
	b.Helper()
	took := make([]float64, c.Mails)
	for i := range took {
		begin := time.Now()
		if err := c.Send(0); err != nil {
			b.Fatalf("%s: %v", c.Name, err)
		}
		took[i] = time.Since(begin).Seconds() * 1e6
	}
	if c.Settle != nil {
		c.Settle()
	}
	return Median(took)
}

// Median returns what is in the middle of a list.
func Median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
