package tokens

// FlowError is a sign-in that ended without a token. Reason is what programs
// and pages tell by.
type FlowError struct {
	Reason Reason
	// Account is the account, where it is known.
	Account Account
	Err     error
	// ticket is the invitation, once a browser has proved that it is its own.
	ticket Ticket
}

// Reason says why a sign-in ended without a token.
type Reason string

// The reasons.
const (
	ReasonTicket   Reason = "ticket"         // the link is broken or has expired
	ReasonBrowser  Reason = "other_browser"  // the cookie is missing: another browser began this
	ReasonExpired  Reason = "expired"        // it took too long
	ReasonState    Reason = "state"          // the answer belongs to no sign-in of this browser
	ReasonSpent    Reason = "spent"          // the answer was used before
	ReasonProvider Reason = "other_provider" // the answer came to another provider's address
	ReasonIssuer   Reason = "issuer"         // iss is wrong or missing
	ReasonDenied   Reason = "denied"         // the person, or the provider, said no
	ReasonExchange Reason = "exchange"       // the code, or refresh token, could not be redeemed
	ReasonScope    Reason = "scope"          // the grant lacks a scope
	ReasonRefresh  Reason = "no_refresh"     // no refresh token came
	ReasonIdentity Reason = "wrong_account"  // somebody else signed in
	ReasonStorage  Reason = "storage"        // the token could not be kept

	// ReasonUnavailable: this way of signing in is not open at this provider.
	ReasonUnavailable Reason = "unavailable"
	// ReasonSession: the session of a paste or a device code is broken, or was
	// made for another account or way of signing in.
	ReasonSession Reason = "session"
	// ReasonAddress: the pasted address is not the provider's redirect URI.
	ReasonAddress Reason = "other_address"

	// ReasonMailServer: the mail server refuses the new token, and who signed in
	// isn't known well enough to keep it.
	ReasonMailServer Reason = "mail_server"
)

func (e *FlowError) Error() string {
	text := "sign-in"
	if e.Account != (Account{}) {
		text += " of " + e.Account.String()
	}
	text += ": " + string(e.Reason)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *FlowError) Unwrap() error { return e.Err }
