package mailer

import (
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// quotaPause is how long to leave a mailbox alone whose daily quota is used up.
const quotaPause = time.Hour

// classify says what a refusal (4yz or 5yz) at a stage means for the message,
// and how long to wait where that is known. The first digit decides, except
// where package diagnosis has it that the server says one thing and means
// another. Whose server it is does not matter here: replies are passed on.
func classify(stage Stage, r Reply) (Kind, time.Duration) {
	switch diagnosis.Find(replyQuery(stage, r)).Class {
	case diagnosis.Throttle:
		if r.Code/100 == 5 {
			// It speaks of the mailbox's allowance and not of the message: the same
			// message goes out tomorrow.
			return KindThrottled, quotaPause
		}
		return KindThrottled, 0
	case diagnosis.Temporary:
		return KindTemporary, 0
	case diagnosis.Permanent, diagnosis.Authorization:
	}
	if r.Code/100 == 4 {
		// A person has to act, but the server holds out hope. It may be right:
		// permissions take an hour to spread.
		return KindTemporary, 0
	}
	return classifyPermanent(stage, r.Code), 0
}

func classifyPermanent(stage Stage, code int) Kind {
	switch stage {
	case StageGreeting, StageEHLO, StageSTARTTLS:
		// Nothing was said of any message yet, so none may die of it.
		return KindConfig
	case StageAuth:
		// RFC 4954, sections 4 and 6. That a mailbox is unauthorized does not mean
		// that its grant is dead: servers say 535 during outages of their own too.
		if code >= 500 && code <= 504 || code == 523 || code == 530 || code == 538 {
			return KindConfig
		}
		return KindUnauthorized
	case StageMail, StageRcpt, StageData:
		if code == 530 || (code == 503 && stage != StageData) {
			// The server wants a sign-in, or more of it. Where credentials were
			// sent they were accepted, so signing in again cannot help: an
			// authenticator is missing, or it is the wrong server.
			return KindConfig
		}
		if code == 535 {
			return KindUnauthorized
		}
	default:
	}
	return KindRejected
}

func containsAny(s string, parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

// softest picks the kind that leaves a message most hope, for a message that
// failed for all its recipients.
func softest(out []RecipientOutcome) Kind {
	best := KindRejected
	rank := map[Kind]int{KindRejected: 0, KindConfig: 1, KindUnauthorized: 2, KindTemporary: 3, KindThrottled: 4}
	for _, o := range out {
		if o.Kind != KindNone && rank[o.Kind] > rank[best] {
			best = o.Kind
		}
	}
	return best
}
