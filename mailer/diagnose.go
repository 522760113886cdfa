package mailer

import (
	"context"
	"errors"
	"net"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// Diagnosis says what the failure means, whose job it is and what to do, by the
// table of package diagnosis. It agrees with Kind about what is to become of the
// message.
func (e *Error) Diagnosis() diagnosis.Diagnosis {
	if e.DiagnosisID != "" {
		if d, ok := diagnosis.ByID(e.DiagnosisID); ok {
			return d
		}
	}
	host, _, err := net.SplitHostPort(e.Server)
	if err != nil {
		host = e.Server
	}
	q := replyQuery(e.Stage, e.Reply)
	q.Vendor, q.Grant = diagnosis.VendorOf(host), e.Grant
	q.Status, q.Fault, q.Err = e.AuthStatus, e.Code, e.Err
	switch {
	case e.Code == codeRecipients && e.Kind == KindInvalid:
		q.Fault = "over_recipients_per_day" // the whole day would not do
	case e.Code == codeProxyNoAnswer && errors.Is(e.Err, context.Canceled):
		q.Fault = "" // it was not given the time
	}
	return diagnosis.Find(q)
}

// Diagnosis says what the refusal of a recipient by a server means, as
// [Error.Diagnosis] does. The server is a host and port.
func (o RecipientOutcome) Diagnosis(server string) diagnosis.Diagnosis {
	return (&Error{Stage: StageRcpt, Kind: o.Kind, Server: server, Reply: o.Reply}).Diagnosis()
}

// replyQuery asks what a reply means, whoever gave it.
func replyQuery(stage Stage, r Reply) diagnosis.Query {
	return diagnosis.Query{Stage: string(stage), Code: r.Code, Enhanced: r.Enhanced, Text: r.Text}
}

// grantOf tells how an authenticator signs in.
func grantOf(a Authenticator) diagnosis.Grant {
	switch a := a.(type) {
	case nil:
		return diagnosis.GrantNone
	case Password:
		return diagnosis.GrantPassword
	case Token:
		if a.App {
			return diagnosis.GrantApp
		}
		return diagnosis.GrantDelegated
	}
	return ""
}
