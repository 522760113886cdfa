package mailer

import (
	"bufio"
	"strings"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		stage Stage
		reply string
		want  Kind
		after time.Duration
	}{
		{"greeting refused", StageGreeting, "554 5.7.1 no service for you", KindConfig, 0},
		{"greeting busy", StageGreeting, "421 4.4.5 Server busy, try again later", KindTemporary, 0},
		{"greeting, too many connections", StageGreeting, "421 Too many concurrent SMTP connections", KindThrottled, 0},
		{"greeting, address limited", StageGreeting, "421 4.7.0 Try again later, closing connection", KindThrottled, 0},
		{"ehlo unknown", StageEHLO, "502 5.5.2 what", KindConfig, 0},
		{"starttls not now", StageSTARTTLS, "454 4.3.0 TLS not available", KindTemporary, 0},
		{"starttls refused", StageSTARTTLS, "501 5.5.4 no", KindConfig, 0},

		{"auth refused", StageAuth, "535 5.7.3 Authentication unsuccessful", KindUnauthorized, 0},
		{"auth refused, bare", StageAuth, "535 no", KindUnauthorized, 0},
		{"web sign-in needed", StageAuth, "534 5.7.14 Please log in via your web browser", KindUnauthorized, 0},
		{"basic retired", StageAuth, "550 5.7.30 Basic authentication is not supported for Client Submission", KindUnauthorized, 0},
		{"federation down", StageAuth, "535 5.7.139 Authentication unsuccessful, federated STS service was unreachable", KindTemporary, 0},
		{"auth later", StageAuth, "454 4.7.0 Temporary authentication failure", KindTemporary, 0},
		{"auth too often", StageAuth, "454 4.7.0 Too many login attempts, please try again later", KindThrottled, 0},
		{"auth, too many connections", StageAuth, "432 4.3.2 Concurrent connections limit exceeded", KindThrottled, 0},
		{"auth, hung up on", StageAuth, "421 4.7.0 mail.example.com Error: too many errors", KindThrottled, 0},
		{"credits", StageAuth, "451 Authentication failed: Maximum credits exceeded", KindThrottled, 0},
		{"mechanism unknown", StageAuth, "504 5.7.4 Unrecognized authentication type", KindConfig, 0},
		{"TLS needed", StageAuth, "530 5.7.0 Must issue a STARTTLS command first", KindConfig, 0},
		{"encryption needed", StageAuth, "538 5.7.11 Encryption required", KindConfig, 0},
		{"response too long", StageAuth, "500 5.5.6 Authentication Exchange line is too long", KindConfig, 0},
		{"token about to expire", StageAuth, "501 5.5.127 Invalid XOAUTH2 auth data - Token will expire soon", KindTemporary, 0},

		{"not signed in", StageMail, "530 5.7.57 Client was not authenticated to send anonymous mail during MAIL FROM", KindConfig, 0},
		{"bad sequence", StageMail, "503 5.5.4 Error: send AUTH command first", KindConfig, 0},
		{"sender not owned", StageMail, "553 5.7.1 Sender address rejected: not owned by user", KindRejected, 0},
		{"too big", StageMail, "552 5.3.4 Message size exceeds fixed maximum message size", KindRejected, 0},
		{"idle too long", StageMail, "451 4.4.2 Timeout - closing connection", KindTemporary, 0},
		{"connection used up", StageMail, "421 Max message per connection reached", KindThrottled, 0},
		{"deferred", StageMail, "421 4.7.0 [TSS04] temporarily deferred", KindThrottled, 0},
		{"busy", StageMail, "451 4.7.500 Server busy", KindThrottled, 0},
		{"front end", StageMail, "451 4.7.0 Temporary server error. Please try again later. PRX2", KindTemporary, 0},

		{"no such user", StageRcpt, "550 5.1.1 no such user", KindRejected, 0},
		{"greylisted", StageRcpt, "450 4.7.1 Greylisted", KindTemporary, 0},
		{"recipient busy", StageRcpt, "450 4.2.1 The user is receiving mail at a rate that prevents it", KindTemporary, 0},
		{"too many recipients", StageRcpt, "452 4.5.3 Too many recipients", KindTemporary, 0},
		{"recipient full", StageRcpt, "452 4.2.2 mailbox is over quota", KindTemporary, 0},

		{"send as denied", StageFinal, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", KindRejected, 0},
		{"too big after all", StageFinal, "552 5.3.4 too big", KindRejected, 0},
		{"too many connections", StageFinal, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", KindThrottled, 0},
		{"too fast", StageFinal, "450 4.2.1 Peak SMTP relay limit exceeded for customer", KindThrottled, 0},
		{"too fast, wordless", StageFinal, "450 4.2.0 later", KindThrottled, 0},
		{"rate of SES", StageFinal, "454 Throttling failure: Maximum sending rate exceeded", KindThrottled, 0},
		{"logon failure", StageFinal, "430 4.2.0 STOREDRV; mailbox logon failure", KindTemporary, 0},
		{"out of space", StageFinal, "452 4.3.1 Insufficient system storage", KindTemporary, 0},
		{"spam", StageFinal, "554 5.7.1 Message not allowed", KindRejected, 0},
		{"quota of Exchange", StageFinal, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", KindThrottled, time.Hour},
		{"quota of tenant", StageFinal, "550 5.7.233 tenant external recipient rate limit", KindThrottled, time.Hour},
		{"quota of Gmail", StageFinal, "550 5.4.5 Daily user sending limit exceeded", KindThrottled, time.Hour},
		{"other 5.4.5", StageFinal, "550 5.4.5 mail loop", KindRejected, 0},
		{"mailbox full", StageFinal, "554 5.2.2 mailbox full", KindRejected, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw, err := readReply(bufio.NewReader(strings.NewReader(tt.reply + "\r\n")))
			if err != nil {
				t.Fatal(err)
			}
			kind, after := classify(tt.stage, raw.reply())
			if kind != tt.want || after != tt.after {
				t.Errorf("%s: %s is %v after %v, want %v after %v", tt.stage, tt.reply, kind, after, tt.want, tt.after)
			}
		})
	}
}
