// Package mailer composes messages (RFC 5322) and submits them to mail
// servers (RFC 6409). It knows nothing of OAuth, of HTTP or of Caddy.
//
// A message travels one way: whoever accepts it fills in a [Submission] and
// calls [Mailer.Send]; Send applies the sender rules of the tenant and hands
// the message to [Tenant.Submit], which puts it on one authenticated
// connection of the mailbox's [Pool]. What comes back is a [Receipt], or an
// [*Error] whose [Kind] says what is to become of the message.
package mailer
