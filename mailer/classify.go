package mailer

import (
	"strings"
	"time"
)

// quotaPause is how long to leave a mailbox alone whose daily quota is used up.
const quotaPause = time.Hour

// classify says what a refusal (4yz or 5yz) at a stage means for the message,
// and how long to wait where that is known. The first digit decides, except
// where a server is known to say one thing and mean another.
func classify(stage Stage, r Reply) (Kind, time.Duration) {
	text := strings.ToLower(r.Text)
	switch {
	case quotaUsedUp(r, text):
		// A 5yz that speaks of the mailbox's allowance and not of the message:
		// the same message goes out tomorrow.
		return KindThrottled, quotaPause
	case r.Code/100 == 4:
		return classifyTemporary(stage, r, text), 0
	}
	switch stage {
	case StageGreeting, StageEHLO, StageSTARTTLS:
		// Nothing was said of any message yet, so none may die of it.
		return KindConfig, 0
	case StageAuth:
		return classifyAuth(r, text), 0
	case StageMail, StageRcpt, StageData:
		if r.Code == 530 || (r.Code == 503 && stage != StageData) {
			// The server wants a sign-in, or more of it. Where credentials were
			// sent they were accepted, so signing in again cannot help: an
			// authenticator is missing, or it is the wrong server.
			return KindConfig, 0
		}
		if r.Code == 535 {
			return KindUnauthorized, 0
		}
	default:
	}
	return KindRejected, 0
}

func classifyTemporary(stage Stage, r Reply, text string) Kind {
	switch {
	case strings.Contains(text, "greylist"), strings.Contains(text, "graylist"):
		return KindTemporary
	case r.Code == 432, asksToGoSlower(text):
		return KindThrottled
	case r.Code == 421 && stage == StageAuth:
		// Too many errors on one connection, as Postfix and Exim count them.
		return KindThrottled
	case r.Code == 421 && r.Enhanced[1] == 7, r.Code == 451 && r.Enhanced[1] == 7 && !temporarilyBroken(text):
		return KindThrottled
	case r.Code == 450 && r.Enhanced[1] == 2 && stage != StageRcpt:
		// At RCPT it is the recipient's mailbox that is busy, not ours.
		return KindThrottled
	}
	return KindTemporary
}

// classifyAuth reads a 5yz to AUTH (RFC 4954, sections 4 and 6). That a
// mailbox is unauthorized does not mean that its grant is dead: servers say
// 535 during outages of their own too.
func classifyAuth(r Reply, text string) Kind {
	switch {
	case strings.Contains(text, "sts service was unreachable"): // Exchange, federated sign-in
		return KindTemporary
	case r.Enhanced == EnhancedCode{5, 5, 127}: // Exchange high volume: token about to expire
		return KindTemporary
	case r.Code >= 500 && r.Code <= 504, r.Code == 523, r.Code == 530, r.Code == 538:
		return KindConfig
	}
	return KindUnauthorized
}

func quotaUsedUp(r Reply, text string) bool {
	if r.Code/100 != 5 {
		return false
	}
	switch r.Enhanced {
	case EnhancedCode{5, 7, 232}, EnhancedCode{5, 7, 233}, EnhancedCode{5, 1, 90}: // Exchange: external recipients, recipients
		return true
	case EnhancedCode{5, 4, 5}: // Gmail
		return strings.Contains(text, "limit exceeded") || strings.Contains(text, "quota exceeded")
	}
	return containsAny(text, "submissionquotaexceeded", "submission quota exceeded", "daily smtp relay limit exceeded")
}

func asksToGoSlower(text string) bool {
	return containsAny(text,
		"throttl", "too many login", "too many concurrent", "too many connections", "concurrent connections",
		"rate limit", "sending rate", "submission rate", "unusual rate", "limit exceeded", "quota exceeded", "credits exceeded",
		"max message per connection", "slow down")
}

func temporarilyBroken(text string) bool { return strings.Contains(text, "temporary server error") }

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
