package outbox

import (
	"fmt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// brake counts permanent refusals in a row that have one reason. Servers block
// mailboxes that keep failing.
type brake struct {
	reason string
	n      int
}

// refused counts a refusal and reports whether most of them came in a row.
func (b *brake) refused(e *mailer.Error, most int) bool {
	reason := reasonOf(e)
	if reason == "" {
		return false
	}
	if reason != b.reason {
		b.reason, b.n = reason, 0
	}
	b.n++
	return most > 0 && b.n >= most
}

// reasonOf names what a server's refusal is about; empty where it is about a message
// or a recipient, or is not the server's: one program's bad messages must not stop the
// mail of others.
func reasonOf(e *mailer.Error) string {
	if e.Kind != mailer.KindRejected || e.Reply.Code == 0 || e.Reply.Enhanced[1] == 1 {
		return ""
	}
	d := e.Diagnosis()
	switch e.Stage {
	case mailer.StageMail:
	case mailer.StageData, mailer.StageFinal:
		if d.Who == diagnosis.WhoSender || d.Who == diagnosis.WhoRecipient || d.Who == diagnosis.WhoNobody {
			return ""
		}
	default:
		return ""
	}
	return fmt.Sprintf("%s %s %d %s", e.Stage, d.ID, e.Reply.Code, e.Reply.Enhanced)
}
