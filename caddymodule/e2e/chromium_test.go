//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// sight is a page as Chromium showed it.
type sight struct {
	URL     string
	Status  int
	Title   string
	Text    string
	Body    string
	Cookies []struct {
		Name, SameSite   string
		HTTPOnly, Secure bool
	}
	// Faults are what its console complained about.
	Faults []string
}

// browse lets a person take steps in Chromium; see node/browse.mjs.
func (s *Stack) browse(t testing.TB, steps ...[]string) []sight {
	t.Helper()
	argv := nodeProgram("", "browse.mjs", map[string]any{"chromium": program("chromium", "/usr/bin/chromium"), "steps": steps})
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if strings.Contains(stderr.String(), "Chromium does not start") {
		t.Fatalf("Chromium is missing or broken: %v\n%s", err, stderr.String())
	}
	if err != nil {
		t.Fatalf("in Chromium: %v\n%s", err, stderr.String())
	}
	var sights []sight
	if err := json.Unmarshal(out, &sights); err != nil {
		t.Fatal(err)
	}
	for i, v := range sights {
		t.Logf("page %d: status %d, %q: %s", i, v.Status, v.Title, strings.Join(strings.Fields(v.Text), " "))
		if !s.ours(v) {
			continue
		}
		s.pages = append(s.pages, v.Body)
		if len(v.Faults) > 0 && v.Status < 400 { // Chromium also calls a status a fault
			t.Errorf("page %d has faults: %q", i, v.Faults)
		}
	}
	return sights
}

// ours reports whether a page is of Caddy's site, and not of the provider's.
func (s *Stack) ours(v sight) bool { return strings.HasPrefix(v.URL, s.URL+"/") }

// The steps of a sign-in.
func open(address string) []string     { return []string{"open", address} }
func proceed() []string                { return []string{"press", "main form button"} }
func as(login string) []string         { return []string{"fill", "input[name=login]", login} }
func password() []string               { return []string{"fill", "input[name=password]", "any"} }
func submit() []string                 { return []string{"press", "button[type=submit]"} }
func cancel() []string                 { return []string{"press", "a[href$='/abort']"} }
func last(sights []sight) sight        { return sights[len(sights)-1] }
func shows(v sight, words string) bool { return strings.Contains(v.Text, words) }
func (s *Stack) wholeWay(link string) [][]string {
	return [][]string{open(link), proceed(), as(s.user), password(), submit(), submit()}
}

func TestSignInWithChromium(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	sights := s.browse(t, s.wholeWay(s.invite(t))...)
	start, end := sights[0], last(sights)
	if !shows(start, s.user) || !shows(start, "The provider") || start.Status != http.StatusOK {
		t.Errorf("the start page does not say who is to sign in where: %s", start.Text)
	}
	if end.Status != http.StatusOK || !shows(end, s.user+" is connected") || !s.ours(end) {
		t.Fatalf("the last page, status %d: %s", end.Status, end.Text)
	}
	for _, c := range end.Cookies {
		if strings.Contains(c.Name, "oauth_mail") {
			t.Errorf("the cookie %s is left", c.Name)
		}
	}
	for _, v := range sights[1:3] {
		for _, c := range v.Cookies {
			if strings.Contains(c.Name, "oauth_mail") && (!c.HTTPOnly || c.SameSite != "Lax") {
				t.Errorf("the cookie %+v", c)
			}
		}
	}
	if a := s.account(t); a.State != "authorized" {
		t.Errorf("the account: %s", a)
	}
	s.Send(t, onPostfix, note("signed in with Chromium"))
	s.mailbox.wait(t, 1)
	s.checkSecrets(t)
}

// Somebody else signs in: he is refused, the old token stays, and the right
// person can try again in the same browser.
func TestWrongPersonWithChromium(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.SignIn(t)
	before := s.account(t)
	sights := s.browse(t, open(s.invite(t)), proceed(), as("somebody-else@example.com"), password(), submit(), submit())
	end := last(sights)
	if end.Status < 400 || !s.ours(end) || !shows(end, s.user) || !shows(end, "somebody-else@example.com") {
		t.Errorf("the page after the wrong person, status %d: %s", end.Status, end.Text)
	}
	if a := s.account(t); a.State != "authorized" || a.Generation != before.Generation {
		t.Errorf("the wrong person has changed the account: %s, before %s", a, before)
	}
	s.Send(t, onPostfix, note("with the old token"))
	if a := s.refresh(t); a.status != http.StatusOK {
		t.Errorf("the old refresh token: %s", a)
	}
	sights = s.browse(t, open(s.invite(t)), proceed(), as("somebody-else@example.com"), password(), submit(), submit(),
		proceed(), as(s.user), password(), submit(), submit())
	if end = last(sights); end.Status != http.StatusOK || !shows(end, s.user+" is connected") {
		t.Errorf("the second try in the same browser, status %d: %s", end.Status, end.Text)
	}
	s.checkSecrets(t)
}

func TestDeniedConsentWithChromium(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	sights := s.browse(t, open(s.invite(t)), proceed(), as(s.user), password(), submit(), cancel())
	end := last(sights)
	if end.Status < 400 || !s.ours(end) || !shows(end, "access_denied") || !shows(end, s.user) || !strings.Contains(end.Body, "<button") {
		t.Errorf("the page after the denial, status %d: %s", end.Status, end.Text)
	}
	if a := s.account(t); a.State != "needs_authorization" {
		t.Errorf("the account: %s", a)
	}
	s.checkSecrets(t)
}

func TestExpiredTicketWithChromium(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	u, err := url.Parse(s.invite(t))
	if err != nil {
		t.Fatal(err)
	}
	// The same ticket, sealed a while ago.
	text, err := os.ReadFile(filepath.Join(s.dir, "storage-oauth_mail.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokens.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := tokens.NewKeyRing(key)
	if err != nil {
		t.Fatal(err)
	}
	flow := tokens.Flow{
		Keys: func() (*tokens.KeyRing, error) { return keys, nil },
		Now:  func() time.Time { return time.Now().Add(-11 * time.Minute) },
	}
	client := tokens.NewClient(tokens.Provider{Name: "idp"}, nil)
	ticket, _, err := flow.NewTicket(client, tokens.Account{Provider: "idp", User: s.user}, operator, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, ticket := range map[string]string{"expired": ticket, "cut": u.Query().Get("ticket")[:60], "none": ""} {
		u.RawQuery = url.Values{"ticket": {ticket}}.Encode()
		end := last(s.browse(t, open(u.String())))
		if end.Status < 400 || !shows(end, "Ask the operator for a new one") || strings.Contains(end.Body, "<button") {
			t.Errorf("%s: status %d: %s", name, end.Status, end.Text)
		}
	}
	s.checkSecrets(t)
}
