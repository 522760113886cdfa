package tokens

// Advice is what a failure means and what to do about it, as half sentences.
type Advice struct {
	// Meaning is what is wrong.
	Meaning string `json:"meaning"`
	// Who has to do something.
	Who Who `json:"who"`
	// Do is what.
	Do string `json:"do"`
}

// Who says whose job it is.
type Who string

// Those who may have to do something.
const (
	WhoOperator      Who = "operator"      // of this program, and of its registration at the provider
	WhoAdministrator Who = "administrator" // of the organization that the mailbox belongs to
	WhoOwner         Who = "mailbox owner" // or whoever can sign in to the mailbox
	WhoNobody        Who = "nobody"        // it passes
)

// waiting is what to do about what passes, whatever it was that failed.
const waiting = "wait; a renewal is tried again by itself, a sign-in or an import has to be begun anew"

// adviceOn finds the advice on a failure: by Entra's numbers, else by the OAuth
// error code and a word that refines it, the kind being one, else by the code.
func adviceOn(numbers []int, description, code, suberror, kind string) (Advice, bool) {
	if len(numbers) == 0 {
		numbers = entraNumberIn(description)
	}
	if a, ok := entraAdvice(numbers, kind); ok {
		return a, true
	}
	for _, key := range []string{code + " " + suberror, code + " " + kind, code} {
		if a, ok := codeAdvice[key]; ok {
			return a, true
		}
	}
	return Advice{}, false
}

// codeAdvice is the advice by OAuth error code: those of RFC 6749, sections
// 4.1.2.1 and 5.2, RFC 8628, section 3.5, OpenID Connect Core, section 3.1.2.6,
// and Google's own. What asks for a person is of the kind configuration where
// nobody signs in.
var codeAdvice = map[string]Advice{
	"invalid_grant":               {"the provider has ended the sign-in, or does not accept what was presented", WhoOwner, "sign in again; a Google app that is still in the state Testing ends each sign-in after seven days: publish it"},
	"invalid_grant invalid_rapt":  {"a rule of the organization ended the session after some time", WhoAdministrator, "trust the app in the Google Admin console, where the session length of Google Cloud is set; then sign in again"},
	"invalid_grant configuration": {"the provider does not accept the assertion", WhoOperator, "see that the mailbox exists, that the key is still one of the service account's, and that this machine's clock is right"},
	"interaction_required":        {"the provider wants to see the person again", WhoOwner, "sign in again"},
	"login_required":              {"the provider wants to see the person again", WhoOwner, "sign in again"},
	"account_selection_required":  {"the provider wants to know which account it is", WhoOwner, "sign in again"},
	"consent_required":            {"the consent is missing", WhoOwner, "sign in again and accept, or have an administrator consent for the organization"},
	"access_denied":               {"the person, or a rule of the organization, said no", WhoOwner, "sign in again and accept; a Google app in the state Testing lets its test users in only"},
	"authorization_declined":      {"the person said no", WhoOwner, "sign in again and accept"},
	"expired_token":               {"the code has expired", WhoOwner, "begin the sign-in anew"},
	"bad_verification_code":       {"the code is not known", WhoOwner, "begin the sign-in anew"},
	"authorization_pending":       {"the person has not entered the code yet", WhoOwner, "enter it"},

	"interaction_required configuration": {"a rule of the organization wants to see a person, and nobody signs in here", WhoAdministrator, "exempt the application from that rule: from Conditional Access for workload identities, for one"},
	"login_required configuration":       {"a rule of the organization wants to see a person, and nobody signs in here", WhoAdministrator, "exempt the application from that rule: from Conditional Access for workload identities, for one"},
	"consent_required configuration":     {"no administrator has consented to the application", WhoAdministrator, "consent for the organization on the admin-consent page"},
	"access_denied configuration":        {"the application is not permitted to send as the mailbox, or a rule of the organization says no", WhoAdministrator, "permit the application with exactly these scopes: by consent for the organization, or by domain-wide delegation for a service account"},

	"invalid_client":            {"the provider does not accept the client id, or what proves the client", WhoOperator, "compare client_id and its secret or certificate with the registration"},
	"deleted_client":            {"the client was deleted", WhoOperator, "register a client anew and set client_id"},
	"unauthorized_client":       {"the client may not use this grant", WhoOperator, "allow the grant in the registration; a service account needs domain-wide delegation with exactly these scopes"},
	"invalid_scope":             {"a scope is not known, or not allowed", WhoOperator, "correct scopes, and allow them in the registration"},
	"invalid_target":            {"the resource is not known", WhoOperator, "correct scopes"},
	"invalid_resource":          {"the resource is not known", WhoOperator, "correct scopes"},
	"invalid_request":           {"the request is not well formed", WhoOperator, "correct the scopes and additional parameters; if there are none, report this as a bug"},
	"unsupported_grant_type":    {"the provider does not know this grant", WhoOperator, "use another grant, and look at token_endpoint"},
	"unsupported_response_type": {"the provider does not know the authorization code grant", WhoOperator, "look at authorization_endpoint, and allow the grant in the registration"},

	"redirect_uri_mismatch": {"the redirect URI is not registered", WhoOperator, "add exactly this redirect URI to the client"},
	"org_internal":          {"the app is for its own organization, and the account is of another", WhoOperator, "make the app External, or use an account of the organization"},
	"access_not_configured": {"the service is switched off for this client or account", WhoOperator, "switch the API or the service on"},
	"disallowed_useragent":  {"the provider does not accept this browser", WhoOwner, "use an ordinary browser"},
	"admin_policy_enforced": {"a rule of the organization keeps the app out", WhoAdministrator, "trust the client id in the Google Admin console: Security, API controls, third-party app access"},

	"temporarily_unavailable": {"the provider has trouble at the moment", WhoNobody, waiting},
	"server_error":            {"the provider has trouble at the moment", WhoNobody, waiting},
	"internal_failure":        {"the provider has trouble at the moment", WhoNobody, waiting},
	"slow_down":               {"the provider was asked too often", WhoNobody, waiting},
	"rate_limit_exceeded":     {"the provider was asked too often", WhoNobody, waiting},
}
