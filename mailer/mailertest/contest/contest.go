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
}

// turn returns the mails per second and the allocations per mail.
func (c Row) turn(b *testing.B) (rate, allocs float64) {
	b.Helper()
	var before, after runtime.MemStats
	var begun atomic.Int64
	var wg sync.WaitGroup
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
	return float64(c.Mails) / took.Seconds(), float64(after.Mallocs-before.Mallocs) / float64(c.Mails)
}

// Compare has all take turns and reports the ratios to the first one.
func Compare(b *testing.B, turns int, rows ...Row) {
	b.Helper()
	for _, c := range rows { // connections are made, buffers grow
		c.Mails = max(c.Workers*4, c.Mails/10)
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
			b.ReportMetric(Median(ratios[i]), c.Name+"_of_"+rows[0].Name)
		}
		b.ReportMetric(Median(allocs[i]), c.Name+"_allocs/mail")
	}
}

// Median sorts a list and returns what is in its middle.
func Median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}
