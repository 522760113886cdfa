//go:build !unix

package mailer

// quiet takes every idle connection for one that lives: its first transaction
// finds out.
func (c *Conn) quiet() bool { return true }
