//go:build e2e

package e2e

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// browser is a person's browser, as far as forms, redirects and cookies go.
type browser struct {
	client *http.Client
}

// webPage is what the browser shows.
type webPage struct {
	t      testing.TB
	b      *browser
	URL    *url.URL
	Status int
	Body   string
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{client: &http.Client{Jar: jar, Timeout: patience}}
}

func (b *browser) do(t testing.TB, r *http.Request) *webPage {
	t.Helper()
	resp, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &webPage{t: t, b: b, URL: resp.Request.URL, Status: resp.StatusCode, Body: string(body)}
}

func (b *browser) open(t testing.TB, address string) *webPage {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.do(t, r)
}

var (
	formTag    = regexp.MustCompile(`(?s)<form[^>]*\baction="([^"]*)"`)
	hiddenTag  = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
	tags       = regexp.MustCompile(`(?s)<style>.*?</style>|<[^>]*>`)
	abortLink  = regexp.MustCompile(`href="([^"]*/abort)"`)
	whitespace = regexp.MustCompile(`\s+`)
)

// text is what a person reads.
func (p *webPage) text() string {
	return strings.TrimSpace(whitespace.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(p.Body, " ")), " "))
}

// submit fills in the page's form and sends it.
func (p *webPage) submit(values ...string) *webPage {
	p.t.Helper()
	action := formTag.FindStringSubmatch(p.Body)
	if action == nil {
		p.t.Fatalf("no form on the page %s (status %d): %s", p.URL, p.Status, p.text())
	}
	form := url.Values{}
	for _, m := range hiddenTag.FindAllStringSubmatch(p.Body, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	for i := 0; i+1 < len(values); i += 2 {
		form.Set(values[i], values[i+1])
	}
	to, err := p.URL.Parse(html.UnescapeString(action[1]))
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, to.String(), strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return p.b.do(p.t, r)
}

// signIn follows an invitation up to the page where it ends: our start page,
// oidc-provider's sign-in and its consent.
func (s *Stack) signIn(t testing.TB, invitation, login string) *webPage {
	t.Helper()
	return s.consent(t, newBrowser(t).open(t, invitation).submit(), login)
}

// consent goes on from oidc-provider's first page: its sign-in and its consent.
func (s *Stack) consent(t testing.TB, page *webPage, login string) *webPage {
	t.Helper()
	if !strings.Contains(page.Body, `name="login"`) {
		t.Fatalf("oidc-provider does not ask who signs in, at %s (status %d): %s", page.URL, page.Status, page.text())
	}
	page = page.submit("login", login, "password", "any")
	if !strings.Contains(page.Body, `value="consent"`) {
		t.Fatalf("oidc-provider does not ask for consent, at %s (status %d): %s", page.URL, page.Status, page.text())
	}
	return page.submit()
}

// invite asks the administration for a link to sign in.
func (s *Stack) invite(t testing.TB) string {
	t.Helper()
	a := s.admin(t, http.MethodPost, "/accounts/idp/"+s.user+"/authorize")
	link, _ := a.json["url"].(string)
	if a.status != http.StatusCreated || link == "" {
		t.Fatalf("no invitation: status %d: %s", a.status, a.body)
	}
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	s.proxy.keep("ticket", u.Query().Get("ticket"))
	return link
}

// SignIn authorizes the stack's account, by HTTP.
func (s *Stack) SignIn(t testing.TB) {
	t.Helper()
	page := s.signIn(t, s.invite(t), s.user)
	if page.Status != http.StatusOK || !strings.Contains(page.text(), s.user+" is connected") {
		t.Fatalf("the sign-in failed: status %d: %s\n%s", page.Status, page.text(), s.tail())
	}
	s.pages = append(s.pages, page.Body)
}
