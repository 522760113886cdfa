package mailertest

import (
	"fmt"
	"strings"
	"time"
)

// dialect is how a vendor says things.
type dialect struct {
	greeting, name      string
	offer               []string // without SIZE, STARTTLS and AUTH
	auth                string
	ok, mail, rcpt      string
	data, startTLS, bye string
	welcome             string
	challenge           string // the error before denied, of mechanisms with a token
	denied, noTLS       string
	noAuth, expired     string
	badMechanism        string
	tooBig, quota       string
	tooManyRecipients   string
	tooManyConnections  string
	tooFast             string
	sendAsDenied        string // with the user and the sender; empty: does not mind
	counts              func(rcpts int) int
	accepted            func(m Message, now time.Time) string
}

// Refusals of Exchange Online, for [Vendor.Refuses].
const (
	ExchangeSMTPAuthOffTenant  = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information. " + exchangeTail
	ExchangeSMTPAuthOffMailbox = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. Visit https://aka.ms/smtp_auth_disabled for more information. " + exchangeTail
	ExchangeBusy               = "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714) " + exchangeTail
	ExchangeTemporary          = "451 4.7.0 Temporary server error. Please try again later. PRX2 " + exchangeTail
	ExchangeMailboxFull        = "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded; Failed to process message due to a permanent exception " + exchangeHost
	ExchangeSendAsThrottled    = "550 5.2.252 SendAsDenied; continuous errors: submission is blocked for a while " + exchangeHost
	ExchangeNoMailboxAccess    = "430 4.2.0 STOREDRV; mailbox logon failure; Failed to process message due to a transient exception with message Cannot open mailbox. MapiExceptionLogonFailed " + exchangeHost
)

const (
	exchangeTail = "[FR0P281CA0001.DEUP281.PROD.OUTLOOK.COM 2026-11-21T08:00:00.000Z 08DE28A0B1C2D3E4]"
	exchangeHost = "[Hostname=FR0P281MB0001.DEUP281.PROD.OUTLOOK.COM]"
)

var exchange = dialect{
	greeting: "220 FR0P281CA0001.outlook.office365.com Microsoft ESMTP MAIL Service ready at Sat, 21 Nov 2026 08:00:00 +0000",
	name:     "FR0P281CA0001.outlook.office365.com Hello [192.0.2.1]",
	offer:    []string{"PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8"},
	auth:     "LOGIN XOAUTH2",
	ok:       "250 2.0.0 OK",
	mail:     "250 2.1.0 Sender OK",
	rcpt:     "250 2.1.5 Recipient OK",
	data:     "354 Start mail input; end with <CRLF>.<CRLF>",
	startTLS: "220 2.0.0 SMTP server ready",
	bye:      "221 2.0.0 Service closing transmission channel",
	welcome:  "235 2.7.0 Authentication successful",
	denied:   "535 5.7.3 Authentication unsuccessful " + exchangeTail,
	noTLS:    "530 5.7.0 Must issue a STARTTLS command first " + exchangeTail,
	noAuth:   "530 5.7.57 Client not authenticated to send mail. Client was not authenticated to send anonymous mail during MAIL FROM " + exchangeTail,

	badMechanism:       "504 5.7.4 Unrecognized authentication type " + exchangeTail,
	tooBig:             "552 5.3.4 Message size exceeds fixed maximum message size",
	quota:              "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message due to a permanent exception with message The message can't be submitted because the sender's submission quota was exceeded. " + exchangeHost,
	tooManyRecipients:  "452 4.5.3 Too many recipients",
	tooManyConnections: "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more information. " + exchangeHost,
	tooFast:            "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded " + exchangeHost,
	sendAsDenied:       "554 5.2.252 SendAsDenied; %s not allowed to send as %s; STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message due to a permanent exception " + exchangeHost,
	expired:            "421 4.7.0 Session expired " + exchangeTail,
	counts:             func(rcpts int) int { return rcpts },
	accepted: func(m Message, _ time.Time) string {
		id := "<unnamed>"
		for line := range strings.SplitSeq(m.Data, "\r\n") {
			if v, ok := strings.CutPrefix(line, "Message-ID: "); ok {
				id = v
			}
			if line == "" {
				break
			}
		}
		return "250 2.0.0 OK " + id + " " + exchangeHost
	},
}

// Refusals of Gmail, for [Vendor.Refuses].
const (
	GmailTooManyLogins = "454 4.7.0 Too many login attempts, please try again later. " + gmailTail
	GmailTryLater      = "421 4.7.0 Try again later, closing connection. " + gmailTail
	GmailBusy          = "421 4.3.0 Temporary System Problem. Try again later. " + gmailTail
	GmailPeak          = "450 4.2.1 Peak SMTP relay limit exceeded for customer. " + gmailTail
)

const gmailTail = "5b1f17b1804b1-47785d5e10asm12345678f8f.9 - gsmtp"

var gmail = dialect{
	greeting:  "220 smtp.gmail.com ESMTP " + gmailTail,
	name:      "smtp.gmail.com at your service, [192.0.2.1]",
	offer:     []string{"8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", "CHUNKING", "SMTPUTF8"},
	auth:      "LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN OAUTHBEARER XOAUTH",
	ok:        "250 2.1.5 Flushed " + gmailTail,
	mail:      "250 2.1.0 OK " + gmailTail,
	rcpt:      "250 2.1.5 OK " + gmailTail,
	data:      "354 Go ahead " + gmailTail,
	startTLS:  "220 2.0.0 Ready to start TLS",
	bye:       "221 2.0.0 closing connection " + gmailTail,
	welcome:   "235 2.7.0 Accepted",
	challenge: "334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmdvb2dsZS5jb20vIn0K",
	denied: "535-5.7.8 Username and Password not accepted. For more information, go to\n" +
		"535 5.7.8  https://support.google.com/mail/?p=BadCredentials " + gmailTail,
	noTLS: "530 5.7.0 Must issue a STARTTLS command first. " + gmailTail,
	noAuth: "530-5.7.0 Authentication Required. For more information, go to\n" +
		"530 5.7.0  https://support.google.com/mail/?p=WantAuthError " + gmailTail,
	badMechanism: "504 5.7.4 Unrecognized Authentication Type " + gmailTail,
	tooBig: "552-5.3.4 Your message exceeded Google's message size limits. Please visit\n" +
		"552-5.3.4 https://support.google.com/mail/?p=MaxSizeError to view our size\n" +
		"552 5.3.4 guidelines. " + gmailTail,
	quota: "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail\n" +
		"550-5.4.5 sending limits go to\n" +
		"550 5.4.5  https://support.google.com/a/answer/166852 " + gmailTail,
	tooManyRecipients: "452-4.5.3 Your message has too many recipients. For more information regarding\n" +
		"452 4.5.3 Google's sending limits, go to https://support.google.com/mail/?p=TooManyRecipientsError " + gmailTail,
	tooManyConnections: "421 4.7.0 Try again later, closing connection. " + gmailTail,
	tooFast:            "421 4.7.0 Try again later, closing connection. " + gmailTail,
	expired:            "421 4.7.0 Session expired, sign in again. " + gmailTail,
	counts:             func(int) int { return 1 },
	accepted: func(_ Message, now time.Time) string {
		return fmt.Sprintf("250 2.0.0 OK  %d %s", now.Unix(), gmailTail)
	},
}
