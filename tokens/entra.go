package tokens

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// entraPassing are the numbers with which Entra marks an invalid_grant that
// passes: the grant lives, the service has a bad moment.
var entraPassing = []int{
	50000, 50033, 50087, 50088, 50196, 70012, 80002, 80005,
	90006, 90012, 90024, 90033, 90055, 90090, 90091,
}

// entraNoConsent is the number of a consent that is missing: a person's, or an
// administrator's where nobody signs in.
const entraNoConsent = 65001

// maxNumbers is the most numbers of one answer that are kept.
const maxNumbers = 8

// entraNumbers reads the member error_codes of an answer: numbers, of which
// Entra sends one or two.
func entraNumbers(member any) []int {
	list, _ := member.([]any)
	var numbers []int
	for _, n := range list {
		if f, ok := n.(float64); ok && f >= 1 && f < 1e9 && f == math.Trunc(f) && len(numbers) < maxNumbers {
			numbers = append(numbers, int(f))
		}
	}
	return numbers
}

// entraNumberIn finds the number in an error's text, which is all there is of it
// in an authorization response.
func entraNumberIn(text string) []int {
	_, rest, found := strings.Cut(text, "AADSTS")
	if !found {
		return nil
	}
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(rest[:end])
	if err != nil {
		return nil
	}
	return []int{n}
}

// entraAdvice returns the advice on the first number that is known, the failure
// being of the given kind.
func entraAdvice(numbers []int, kind string) (Advice, bool) {
	for _, n := range numbers {
		if kind == KindConfig.String() && n == entraNoConsent {
			return codeAdvice["consent_required configuration"], true
		}
		for _, row := range entraRows {
			if slices.Contains(row.numbers, n) {
				return row.advice, true
			}
		}
	}
	return Advice{}, false
}

// entraRows are the AADSTS numbers that deserve an advice of their own.
// Microsoft may change numbers: besides the advice, only what passes depends on
// them; see entraPassing.
var entraRows = []struct {
	numbers []int
	advice  Advice
}{
	// The registration, and how it is set here.
	{[]int{50011}, Advice{"the redirect URI is not registered", WhoOperator, "add exactly this redirect URI to the app registration: Authentication, platform Web"}},
	{[]int{50194}, Advice{"the app is for one directory, and was used for any", WhoOperator, "set directory to the app's own one, or change the account types that the app supports"}},
	{[]int{70001, 7000112}, Advice{"the app was deleted or is disabled", WhoOperator, "enable the app registration, or set client_id to one that exists"}},
	{[]int{700016}, Advice{"the directory does not know the app", WhoOperator, "compare directory and client_id with the app's overview page; if they are right, have an administrator consent to the app"}},
	{[]int{90002}, Advice{"there is no such directory", WhoOperator, "correct directory, and see whether the organization is in another cloud"}},
	{[]int{90038}, Advice{"the directory is in a national cloud", WhoOperator, "use the preset of that cloud"}},
	{[]int{9001023}, Advice{"this grant works with a directory of one's own only", WhoOperator, "set directory to the organization's id or domain"}},
	{[]int{700005}, Advice{"the code was issued for another directory", WhoOperator, "use one directory for the authorization endpoint and the token endpoint"}},
	{[]int{700084}, Advice{"the redirect URI is registered for a single-page app, whose sign-ins last a day", WhoOperator, "register the redirect URI under the platform Web; then sign in again"}},
	// What proves the client.
	{[]int{7000215}, Advice{"the client secret is wrong", WhoOperator, "copy the value of a secret, not its id; the value is shown once, so make a new secret if it is lost"}},
	{[]int{7000222}, Advice{"the client secret has expired", WhoOperator, "make a new client secret in the app registration and give it here; both may be given while one replaces the other"}},
	{[]int{7000218}, Advice{"the app needs a client secret or certificate, and none was sent", WhoOperator, "give a client secret or certificate, or allow public client flows in the app registration"}},
	{[]int{700025}, Advice{"the app is a public client, which has no secret", WhoOperator, "take the client secret out of the configuration, or register the redirect URI under the platform Web"}},
	{[]int{700027, 700030}, Advice{"the certificate is not one of the app's, or has expired", WhoOperator, "upload the certificate, without its key, to the app registration"}},
	{[]int{5002738}, Advice{"the certificate's key is of a kind that the provider does not take", WhoOperator, "make a certificate with an RSA key, upload it to the app registration, and give both here"}},
	// What is asked for.
	{[]int{70011}, Advice{"a scope is not valid", WhoOperator, "correct scopes; .default can't be mixed with others"}},
	{[]int{700022}, Advice{"the scopes are of several resources", WhoOperator, "ask for scopes of the mail service alone: a token is for one resource"}},
	{[]int{500011}, Advice{"the directory does not have the resource that the scopes name", WhoOperator, "correct scopes, and see whether the organization has Exchange Online, and in this cloud"}},
	{[]int{650052}, Advice{"the organization has no subscription to the mail service", WhoAdministrator, "get a subscription with Exchange Online"}},
	{[]int{650056, 650057}, Advice{"the app lacks the permission that the scopes name", WhoOperator, "add SMTP.Send, or SMTP.SendAsApp without a person, to the app's API permissions, and have an administrator consent"}},
	{[]int{900144, 901002, 9002313}, Advice{"the request is not well formed", WhoOperator, "correct the scopes and additional parameters; if there are none, report this as a bug"}},
	// Consent and permission.
	{[]int{entraNoConsent}, Advice{"nobody has consented to the app", WhoOwner, "sign in again and accept, or have an administrator consent for the organization"}},
	{[]int{65004}, Advice{"the person did not consent", WhoOwner, "sign in again and accept"}},
	{[]int{90094, 90095}, Advice{"the organization wants an administrator to consent", WhoAdministrator, "consent for the organization on the admin-consent page"}},
	{[]int{50105}, Advice{"the mailbox is not assigned to the app", WhoAdministrator, "assign it under Enterprise applications, Users and groups"}},
	// Rules of the organization.
	{[]int{50131, 53000, 53001, 53002, 53003, 530032, 530035}, Advice{"a rule of the organization forbids the sign-in", WhoAdministrator, "look at the sign-in log of the directory, and exempt the mailbox or the app in Conditional Access or the security defaults"}},
	{[]int{50097}, Advice{"a rule of the organization wants a known device", WhoAdministrator, "exempt the mailbox or the app in Conditional Access"}},
	{[]int{70043}, Advice{"a rule of the organization ended the sign-in after some time", WhoOwner, "sign in again; for good, have an administrator exempt the mailbox from the sign-in frequency"}},
	{[]int{50072, 50074, 50076, 50078, 50079}, Advice{"a second factor is needed", WhoOwner, "sign in again and give it; if that recurs, have an administrator look at Conditional Access"}},
	// The account, and its grant.
	{[]int{50020}, Advice{"the account belongs to another directory", WhoOwner, "sign in with an account of this organization"}},
	{[]int{50034}, Advice{"there is no such account", WhoOwner, "compare the mailbox's address with the one that signs in"}},
	{[]int{50053}, Advice{"the account is locked, or the sign-in comes from an address with a bad name", WhoAdministrator, "unblock the account, or wait"}},
	{[]int{50055}, Advice{"the account's password has expired", WhoOwner, "set a new password, then sign in again"}},
	{[]int{50057}, Advice{"the account is disabled", WhoAdministrator, "enable the account, then sign in again"}},
	{[]int{50126}, Advice{"user name or password is wrong", WhoOwner, "sign in again with the right password"}},
	{[]int{50173}, Advice{"the password was changed, or the sign-ins were revoked", WhoOwner, "sign in again"}},
	{[]int{70008, 700082}, Advice{"the sign-in was not used for 90 days", WhoOwner, "sign in again"}},
	{[]int{50058, 50085, 50089, 50132, 50133, 50140, 700020}, Advice{"the sign-in has ended", WhoOwner, "sign in again"}},
	{[]int{70000}, Advice{"the sign-in does not cover these scopes", WhoOwner, "sign in again"}},
	// A sign-in under way.
	{[]int{54005}, Advice{"the code was used before", WhoOwner, "begin the sign-in anew"}},
	{[]int{501481}, Advice{"the code belongs to another sign-in", WhoOwner, "begin the sign-in anew"}},
	{[]int{70016}, Advice{"the person has not entered the code yet", WhoOwner, "enter it"}},
	{[]int{50134, 70018, 70019}, Advice{"the code is wrong or has expired", WhoOwner, "begin the sign-in anew"}},
	// What passes.
	{entraPassing, Advice{"the provider has trouble at the moment", WhoNobody, waiting}},
}
