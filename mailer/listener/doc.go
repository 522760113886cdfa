// Package listener is the entrance for programs and devices that know nothing but
// SMTP: a submission server (RFC 6409) whose messages go to [mailer.Mailer.Send]
// or something like it.
//
// go-smtp's server has the protocol: the commands, their parameters and order. It
// never sees the connection itself. What it reads it gets line by line from here,
// so that odd spellings can be mended before; content, STARTTLS and all time
// limits are dealt with here, below it. Once reading has failed, nothing more is
// read: what a time-out leaves behind is not taken for commands.
package listener
