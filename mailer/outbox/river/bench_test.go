package river

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkAcceptAndSend measures a message from Accept to the record that it was
// sent.
func BenchmarkAcceptAndSend(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			e, _ := running(b, newSchema(), usualTiming(), &clerk{window: 32})
			var group sync.WaitGroup
			messages := make(chan int)
			for range clients {
				group.Go(func() {
					for range messages {
						accept(b, e, newMessage("lab"))
					}
				})
			}
			b.ResetTimer()
			for n := range b.N {
				messages <- n
			}
			close(messages)
			group.Wait()
			e.mu.Lock()
			r := e.run
			e.mu.Unlock()
			eventually(b, time.Minute, "all are sent", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return len(r.tries) == 0
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
