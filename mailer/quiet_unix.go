//go:build unix

package mailer

import (
	"errors"
	"syscall"
)

// probe is what it takes to look at a connection without waiting.
type probe struct {
	conn syscall.RawConn
	look func(fd uintptr)
	n    int
	err  error
}

// quiet looks, without waiting, whether an idle connection has anything to say.
// One that was hung up is broken.
func (c *Conn) quiet() bool {
	p := c.probe
	if p == nil {
		sc, ok := c.raw.(syscall.Conn)
		if !ok {
			return true
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			c.broken = true
			return false
		}
		p = &probe{conn: raw}
		var octet [1]byte
		p.look = func(fd uintptr) {
			p.n, _, p.err = syscall.Recvfrom(int(fd), octet[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		}
		c.probe = p
	}
	err := p.conn.Control(p.look) // which heeds no deadline, other than Read
	switch {
	case err == nil && (errors.Is(p.err, syscall.EAGAIN) || errors.Is(p.err, syscall.EWOULDBLOCK)):
		return true
	case err == nil && p.err == nil && p.n > 0:
		return false
	}
	c.broken = true
	return false
}
