package tokens

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestPaste(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	flow := f.flow()
	p, err := flow.BeginPaste(t.Context(), f.client, f.account, "ops", "login")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(p.Session, "noreply") || !strings.Contains(p.URL, "prompt=login") {
		t.Errorf("begun: %+v", p)
	}
	address := consentAt(f, p.URL, f.account.User)
	// What came to the callback, opened in a browser that began nothing, spends
	// nothing.
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var fe *FlowError
	if _, err := flow.Complete(t.Context(), f.client, u.Query(), ""); !errors.As(err, &fe) || fe.Reason != ReasonBrowser {
		t.Errorf("at the callback: %v", err)
	}
	// Another instance; the address as it is copied.
	flow = &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
	done, err := flow.CompletePaste(t.Context(), f.newClient(f.server), f.account, " "+address+"\r\n", p.Session)
	if err != nil {
		t.Fatal(err)
	}
	stored := f.stored()
	if stored.RefreshToken.Reveal() != done.Token.RefreshToken.Reveal() || stored.AuthorizedBy != "ops" || stored.Identity.Subject != "subject of "+f.account.User {
		t.Errorf("saved %+v", stored)
	}
	f.mustToken(f.source())
}

// Addresses that are the redirect URI, though they are written otherwise.
func TestPastedAddress(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ redirect, address string }{
		"host in capitals":     {"https://mail.example.com/cb", "https://Mail.Example.COM/cb?code=x"},
		"default port given":   {"https://mail.example.com/cb", "https://mail.example.com:443/cb?code=x"},
		"default port dropped": {"http://localhost:80/cb", "http://localhost/cb?code=x"},
		"loopback address":     {"http://[::1]:8080/cb", "http://[::1]:8080/cb?code=x"},
		"scheme in capitals":   {"https://mail.example.com/cb", "HTTPS://mail.example.com/cb?code=x"},
		"path with an escape":  {"https://mail.example.com/c%20b", "https://mail.example.com/c%20b?code=x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, err := NewClient(Provider{RedirectURI: test.redirect}, nil).pasted(test.address)
			if err != nil || response.Get("code") != "x" {
				t.Errorf("%v, %v", response, err)
			}
		})
	}
}

func TestPasteNeedsARedirectURI(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	p := f.provider()
	p.RedirectURI = ""
	var fe *FlowError
	if _, err := f.flow().BeginPaste(t.Context(), NewClient(p, f.server), f.account, "", ""); !errors.As(err, &fe) || fe.Reason != ReasonUnavailable ||
		!strings.Contains(err.Error(), "redirect_base") || !strings.Contains(err.Error(), "redirect_uri") {
		t.Errorf("error %v", err)
	}
}

// What a login hint or a prompt holds stays inside its parameter.
func TestNothingIsInjected(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	const evil = "a@example.com&redirect_uri=https://evil.example&prompt=none#&state=x"
	f.account.User = evil
	p, err := f.flow().BeginPaste(t.Context(), f.client, f.account, "", "login&response_mode=form_post")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, values := range q {
		if len(values) != 1 {
			t.Errorf("%s comes %d times", name, len(values))
		}
	}
	if q.Get("login_hint") != evil || q.Get("redirect_uri") != f.client.provider.RedirectURI || q.Has("response_mode") || u.Fragment != "" || len(q.Get("state")) < 20 {
		t.Errorf("address %s", p.URL)
	}
}
