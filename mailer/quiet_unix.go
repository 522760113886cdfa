//go:build unix

package mailer

import (
	"errors"
	"syscall"
)

// quiet looks, without waiting, whether an idle connection has anything to say.
// One that was hung up is broken.
func (c *Conn) quiet() bool {
	sc, ok := c.raw.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		c.broken = true
		return false
	}
	var n int
	var recvErr error
	err = raw.Control(func(fd uintptr) { // which heeds no deadline, other than Read
		var b [1]byte
		n, _, recvErr = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	switch {
	case err == nil && (errors.Is(recvErr, syscall.EAGAIN) || errors.Is(recvErr, syscall.EWOULDBLOCK)):
		return true
	case err == nil && recvErr == nil && n > 0:
		return false
	}
	c.broken = true
	return false
}
