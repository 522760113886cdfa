package tokens

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Paste is a sign-in whose last address a person carries to us by hand, since
// the browser may not reach it.
type Paste struct {
	// URL is where the person consents, in any browser.
	URL string
	// Session is sealed; [Flow.CompletePaste] wants it back.
	Session string
	// Expires is when the session is of no more use.
	Expires time.Time
}

// BeginPaste begins a sign-in that ends with the address at which the person's
// browser arrived. By and prompt are as with [Flow.NewTicket]. The error is a
// [*FlowError], or one of the key ring.
func (f *Flow) BeginPaste(ctx context.Context, c *Client, a Account, by, prompt string) (*Paste, error) {
	if c.provider.RedirectURI == "" && !c.provider.Grant.Unattended() {
		return nil, &FlowError{Reason: ReasonUnavailable, Account: a, Err: errors.New("the provider has no redirect URI; set redirect_base, or the provider's redirect_uri")}
	}
	address, pend, err := f.begin(ctx, c, f.ticket(a, by, prompt))
	if err != nil {
		return nil, err
	}
	session, err := f.seal(pasteName, pend)
	if err != nil {
		return nil, err
	}
	return &Paste{URL: address, Session: session, Expires: pend.Ticket.Expires}, nil
}

// CompletePaste ends the sign-in of an account with the address that its
// person's browser arrived at. It is as [Flow.Complete], with the session in
// the place of the cookie. The error is a [*FlowError].
func (f *Flow) CompletePaste(ctx context.Context, c *Client, a Account, address, session string) (*Completed, error) {
	var pend pending
	if err := f.open(pasteName, session, &pend); err != nil {
		return nil, &FlowError{Reason: ReasonSession, Account: a, Err: fmt.Errorf("this is no session of a paste: %w", err)}
	}
	if pend.Ticket.Account.hash() != a.hash() {
		return nil, &FlowError{Reason: ReasonSession, Account: a, Err: errors.New("the session was made for another account")}
	}
	response, err := c.pasted(address)
	if err != nil {
		return nil, &FlowError{Reason: ReasonAddress, Account: a, Err: err}
	}
	done, err := f.complete(ctx, c, response, &pend)
	if e, ok := errors.AsType[*FlowError](err); ok {
		e.ticket = Ticket{} // no browser has proved anything
	}
	return done, err
}

// maxAddress is the longest address that can be pasted, in octets.
const maxAddress = 16 << 10

// pasted reads the authorization response out of an address. Nothing of the
// address is in the error: there may be a code in it.
func (c *Client) pasted(address string) (url.Values, error) {
	want, err := url.Parse(c.provider.RedirectURI)
	if err != nil {
		return nil, errors.New("the provider's redirect URI is no URL")
	}
	address = strings.TrimSpace(address)
	if len(address) > maxAddress {
		return nil, errors.New("the address is too long")
	}
	got, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("this is no address; copy all of it, from https:// on")
	case got.User != nil:
		return nil, errors.New("the address has a user name")
	case strings.Contains(address, "#"):
		return nil, errors.New("the address has a fragment (#), which no answer that was asked for has")
	case got.Scheme != want.Scheme || canonicalHost(got) != canonicalHost(want) || got.EscapedPath() != want.EscapedPath():
		return nil, errors.New("the address must begin with " + c.provider.RedirectURI)
	}
	response, err := url.ParseQuery(got.RawQuery)
	if err != nil {
		return nil, errors.New("the address has parameters that can't be read; copy all of it")
	}
	return response, nil
}

// canonicalHost is a URL's host and port as browsers write them.
func canonicalHost(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
