package endurance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Devices send by SMTP without end, some messages over each connection. They never
// repeat one: what was left unanswered may have been taken.
type Devices struct {
	// Address is that of the entrance of a [Site].
	Address string
	// Tenants are those of which each connection takes one.
	Tenants []Tenant
	// Producers is how many send at once.
	Producers int
	// Pause is how long a producer waits after an answer.
	Pause  time.Duration
	Ledger *Ledger

	unanswered, unconnected atomic.Int64
}

// Unanswered is how many messages had no answer.
func (d *Devices) Unanswered() int { return int(d.unanswered.Load()) }

// Unconnected is how often a connection could not be made, up to the sign-in.
func (d *Devices) Unconnected() int { return int(d.unconnected.Load()) }

// Run sends until ctx ends. Messages that are under way then are waited for.
func (d *Devices) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range d.Producers {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := d.dial()
				if err != nil {
					d.unconnected.Add(1)
					<-time.After(10 * time.Millisecond) // Caddy is not there
					continue
				}
				for n := rand.IntN(20); n >= 0 && ctx.Err() == nil && d.send(c); n-- {
					if d.Pause > 0 {
						<-time.After(d.Pause)
					}
				}
				_ = c.Quit()
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

func (d *Devices) dial() (*smtp.Client, error) {
	nc, err := net.DialTimeout("tcp", d.Address, time.Minute)
	if err != nil {
		return nil, err
	}
	c := smtp.NewClient(nc)
	c.CommandTimeout, c.SubmissionTimeout = time.Minute, time.Minute
	t := d.Tenants[rand.IntN(len(d.Tenants))]
	if err := c.Auth(sasl.NewPlainClient("", t.Name, t.Key())); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// send sends a message, and reports whether the connection is good for another one.
func (d *Devices) send(c *smtp.Client) bool {
	size, from := 1<<10, Sender
	if rand.IntN(20) == 0 {
		size = large
	}
	if rand.IntN(40) == 0 {
		from = "somebody-else@example.org"
	}
	number, text := d.Ledger.open(size)
	code, err := 250, c.SendMail(from, []string{"someone@example.net"}, strings.NewReader(letter(from, number, text)))
	if err != nil {
		e, answered := errors.AsType[*smtp.SMTPError](err)
		if !answered {
			d.unanswered.Add(1)
			d.Ledger.replied(number, 0)
			return false
		}
		code = e.Code
	}
	d.Ledger.replied(number, code)
	return c.Reset() == nil
}

// letter is a message as a device writes it.
func letter(from string, number int, text string) string {
	return fmt.Sprintf("From: %s\r\nTo: someone@example.net\r\nSubject: message %d\r\n\r\n%s", from, number, strings.ReplaceAll(text, "\n", "\r\n"))
}
