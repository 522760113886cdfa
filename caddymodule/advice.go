package caddymodule

import (
	"net/http"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// advice is what a page says about a sign-in that failed.
type advice struct {
	status int
	title  string
	text   []string
	// details shows what exactly was wrong.
	details bool
	// again labels the button that starts anew; empty for none.
	again string
}

// signInAdvice says in plain words what a reason means and what to do. E is the
// provider's error, if it gave one.
func signInAdvice(r tokens.Reason, e *tokens.Error) advice {
	switch {
	case e == nil:
	case e.Kind == tokens.KindConfig:
		return advice{http.StatusBadGateway, "The provider refuses this server", []string{
			"It does not accept how this server is registered with it, or what it asks for. Nothing was changed. Trying again does not help: the operator has to correct the provider's settings, here or there.",
		}, false, ""}
	case r == tokens.ReasonDenied && e.Temporary():
		return advice{http.StatusBadGateway, "The provider has trouble at the moment", []string{
			"Nothing was changed. Try again in a while.",
		}, false, "Try again"}
	}
	switch r {
	case tokens.ReasonTicket:
		return advice{http.StatusGone, "This link cannot be used any more", []string{
			"A link to sign in works for ten minutes, on the server that made it. Ask the operator for a new one.",
		}, false, ""}
	case tokens.ReasonBrowser:
		return advice{http.StatusBadRequest, "This sign-in was begun in another browser, or is over", []string{
			"It has to end in the browser in which it was begun, with cookies allowed, and it ends once. Nothing was changed now; if you have seen that the mailbox is connected, it still is.",
			"Open the link that you were given in one browser, and stay in it until the end.",
			"If whoever asked you to sign in asked for the address of this page, copy it now, all of it, and give it to nobody else.",
		}, false, ""}
	case tokens.ReasonExpired:
		return advice{http.StatusGone, "The sign-in took too long", []string{
			"Ten minutes passed between the start and the provider's answer. Nothing was changed. Ask the operator for a new link.",
		}, false, ""}
	case tokens.ReasonState, tokens.ReasonProvider, tokens.ReasonIssuer:
		return advice{http.StatusBadRequest, "This answer belongs to no sign-in of this browser", []string{
			"It was not used, and nothing was changed. If you did not expect this page, close it. Otherwise open the link that you were given once more.",
		}, false, ""}
	case tokens.ReasonSpent:
		return advice{http.StatusBadRequest, "This sign-in was completed before", []string{
			"An answer of the provider counts once. If the account is not connected, ask the operator for a new link.",
		}, false, ""}
	case tokens.ReasonDenied:
		return advice{http.StatusForbidden, "The provider did not grant access", []string{
			"You, or a rule of the organization, said no. Nothing was changed.",
			"If you meant to allow it, try again. If the provider speaks of an administrator's approval, an administrator of the organization has to grant it first.",
		}, false, "Try again"}
	case tokens.ReasonScope:
		return advice{http.StatusForbidden, "Not everything that is needed was granted", []string{
			"Sending mail needs the permission below; it may be a box to tick on the provider's page. Nothing was changed.",
		}, true, "Try again"}
	case tokens.ReasonRefresh:
		return advice{http.StatusBadGateway, "The provider gave no lasting permission", []string{
			"Without a refresh token the sign-in would end within the hour. Nothing was changed; the operator has to correct the provider's settings.",
		}, true, ""}
	case tokens.ReasonIdentity:
		return advice{http.StatusForbidden, "Another account signed in", []string{
			"The sign-in was not used, and what was set up before still holds. Sign in as the mailbox below; a private window helps where the browser picks an account by itself.",
		}, true, "Choose another account"}
	case tokens.ReasonMailServer:
		return advice{http.StatusForbidden, "The mail server does not let this account in", []string{
			"The provider does not say who signed in, and the mail server refuses the account for the mailbox below. Nothing was changed. Sign in as exactly this mailbox; if you did, an administrator of the mail server has to look at what it says.",
		}, true, "Choose another account"}
	case tokens.ReasonExchange:
		return advice{http.StatusBadGateway, "The provider could not complete the sign-in", []string{
			"Nothing was changed. Try again; if it fails again, the operator finds the reason in this server's log.",
		}, false, "Try again"}
	case tokens.ReasonUnavailable:
		return advice{http.StatusConflict, "Nobody signs in here", []string{
			"Nothing was changed, and nothing is to be done here. The reason, for the operator:",
		}, true, ""}
	case tokens.ReasonSession, tokens.ReasonAddress: // the administration's calls alone have these
	case tokens.ReasonStorage:
		return advice{http.StatusInternalServerError, "The sign-in could not be kept", []string{
			"This server could not store it. Nothing was changed; the operator finds the reason in this server's log.",
		}, false, ""}
	}
	return advice{http.StatusInternalServerError, "The sign-in failed", []string{
		"The operator finds the reason in this server's log.",
	}, false, ""}
}
