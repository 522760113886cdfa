package tokens

import (
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind classifies a failure by what can be done about it.
type Kind int

// The kinds of failure.
const (
	// KindTransient: it may go well later: network trouble, 429, 5xx.
	KindTransient Kind = iota
	// KindAmbiguous: the request was sent and its answer lost. The provider may
	// have acted on it.
	KindAmbiguous
	// KindNeedsPerson: the account must sign in (again).
	KindNeedsPerson
	// KindConfig: a setting is wrong: client id, secret, scope, endpoint.
	KindConfig
)

func (k Kind) String() string {
	switch k {
	case KindTransient:
		return "transient"
	case KindAmbiguous:
		return "ambiguous"
	case KindNeedsPerson:
		return "needs_person"
	case KindConfig:
		return "configuration"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Error is a failure to get a token. It holds no token, code or secret.
type Error struct {
	// Op is what was being done: "refresh", "code exchange", "discovery" …
	Op      string
	Kind    Kind
	Account Account
	// Code is the OAuth error code (RFC 6749, section 5.2), such as
	// invalid_grant.
	Code string
	// Description is the provider's own text, cut and freed of anything that we
	// had sent. It is a stranger's: escape it.
	Description string
	// Suberror refines Code, where the provider has such a word.
	Suberror string
	// Numbers are Entra's (error_codes). They refine the advice, and tell an
	// invalid_grant that passes from one that does not.
	Numbers []int
	// TraceID and CorrelationID are what Entra's support asks for. They are no
	// secrets, and a stranger's: escape them.
	TraceID, CorrelationID string
	// Status is the HTTP status, where an answer came.
	Status int
	// RetryAfter is how long the provider asked to wait.
	RetryAfter time.Duration
	Err        error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Account != (Account{}) {
		b.WriteString(" of " + e.Account.String())
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d", e.Status)
	}
	if e.Code != "" {
		b.WriteString(": " + e.Code)
	}
	if e.Description != "" {
		b.WriteString(": " + e.Description)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	for _, id := range []struct{ name, value string }{{"trace", e.TraceID}, {"correlation", e.CorrelationID}} {
		if id.value != "" && !strings.Contains(b.String(), id.value) { // the description may have it
			b.WriteString(", " + id.name + " id " + id.value)
		}
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same call may succeed later without anybody
// doing anything.
func (e *Error) Temporary() bool { return e.Kind == KindTransient || e.Kind == KindAmbiguous }

// failure is e as it is kept with the token.
func (e *Error) failure(at time.Time) *Failure {
	text := e.Description
	if e.Err != nil {
		if text != "" {
			text += ": "
		}
		text += e.Err.Error()
	}
	return &Failure{
		At: at.UTC(), Kind: e.Kind.String(), Code: e.Code, Description: text,
		Suberror: e.Suberror, Numbers: e.Numbers, TraceID: e.TraceID, CorrelationID: e.CorrelationID,
	}
}

// Advice returns what the failure means and what to do about it; false where
// nothing is known beyond its own words.
func (e *Error) Advice() (Advice, bool) {
	return adviceOn(e.Numbers, e.Description, e.Code, e.Suberror, e.Kind.String())
}

// kindOf maps an OAuth error code to its class.
func kindOf(code string, status int) Kind {
	switch code {
	case "invalid_grant", "interaction_required", "login_required", "consent_required",
		"access_denied", "authorization_declined", "expired_token", "bad_verification_code",
		"account_selection_required", "disallowed_useragent":
		return KindNeedsPerson
	case "invalid_client", "unauthorized_client", "invalid_scope", "invalid_request",
		"invalid_resource", "unsupported_grant_type", "invalid_target", "deleted_client",
		"unsupported_response_type", "redirect_uri_mismatch", "org_internal",
		"access_not_configured", "admin_policy_enforced":
		return KindConfig
	case "temporarily_unavailable", "server_error", "slow_down", "authorization_pending",
		"rate_limit_exceeded", "internal_failure":
		return KindTransient
	}
	switch {
	case status == 408 || status == 429 || status >= 500:
		return KindTransient
	case status == 401 || status == 403 || status == 404 || status == 405 || status >= 300 && status < 400:
		return KindConfig
	}
	return KindTransient
}

// authorizationKind maps an error code of an authorization response. Two of them
// pass (RFC 6749, section 4.1.2.1); what is not known is a no, since no status
// says otherwise.
func authorizationKind(code string) Kind {
	kind := kindOf(code, 0)
	if kind == KindTransient && code != "server_error" && code != "temporarily_unavailable" {
		return KindNeedsPerson
	}
	return kind
}

const maxDescription = 300

// tidy makes a stranger's text fit to show: one line, cut, and without any of
// the given secrets, which a careless server may send back.
func tidy(text string, secrets ...string) string {
	for _, s := range secrets {
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), strings.ToLower(url.QueryEscape(s))} {
			text = scrub(text, form)
		}
	}
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, ""), func(r rune) bool {
		// Besides spaces and controls: what turns the direction of writing.
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
	}), " ")
	if len(text) > maxDescription {
		cut := maxDescription
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return text
}

// scrub removes a secret from a text, also where the text breaks off inside it.
func scrub(text, secret string) string {
	const telling = 8 // octets that can be no chance
	if len(secret) < 4 {
		return text
	}
	head := secret[:min(len(secret), telling)]
	var b strings.Builder
	for {
		i := strings.Index(text, head)
		if i < 0 {
			break
		}
		n := len(head)
		for n < len(secret) && i+n < len(text) && text[i+n] == secret[n] {
			n++
		}
		b.WriteString(text[:i] + redacted)
		text = text[i+n:]
	}
	b.WriteString(text)
	return b.String()
}
