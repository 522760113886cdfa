// Package tokens gets OAuth 2.0 tokens for mailboxes (RFC 6749), keeps them
// in a storage, sealed, and keeps them fresh. It knows nothing of SMTP, of
// HTTP handlers or of Caddy.
//
// An [Account] is one mailbox at one [Provider]. A [Flow] signs it in: a
// person consents in a browser and a [Token] comes back, which the [Store]
// keeps. From then on a [Source] hands out access tokens from memory, and a
// [Refresher] renews them before they end.
//
// A token belongs to the [Provider.Registration] that it was issued to. Under
// any other one it is left alone, whatever the provider's name.
//
// Three rules protect a refresh token, which is what cannot be had again
// without a person: a new one is stored durably before anything uses it; two
// refreshes of one account never run at once in a process, and across
// processes the storage's lock and a second look at the storage stand between
// them; only the authorization server's own word, never a mail server's, ends
// a grant.
package tokens
