package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func testPage(t *testing.T) (*page, *fakePlugin, http.Handler) {
	t.Helper()
	trip, fake, _ := testTrip(t, false)
	p := &page{inbox: newInbox(oneToken), plugin: trip.plugin, provider: provider, mailbox: mailbox}
	return p, fake, http.NewCrossOriginProtection().Handler(p.handler())
}

func ask(h http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "http://localhost:8027"+path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func bodyOf(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPageConnect(t *testing.T) {
	t.Parallel()
	p, _, h := testPage(t)
	forms := formsOf([]byte(bodyOf(t, ask(h, "GET", "/connect"))))
	if len(forms) != 2 || forms[1].action != "/connect" {
		t.Errorf("forms: %+v", forms)
	}
	res := ask(h, "POST", "/connect", "Sec-Fetch-Site", "same-origin")
	if res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), p.plugin.base+"/oauth/callback/quickstart/start?ticket=") {
		t.Errorf("%s to %q", res.Status, res.Header.Get("Location"))
	}
	if res := ask(h, "POST", "/connect", "Sec-Fetch-Site", "cross-site"); res.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %s", res.Status)
	}
	p.plugin.password = "wrong"
	if res := ask(h, "POST", "/connect"); res.StatusCode != http.StatusBadGateway || !strings.Contains(bodyOf(t, res), "401") {
		t.Errorf("plugin refuses: %s", res.Status)
	}
}

func TestPageShowsState(t *testing.T) {
	t.Parallel()
	p, fake, h := testPage(t)
	if body := bodyOf(t, ask(h, "GET", "/")); !strings.Contains(body, "not connected (unauthorized)") {
		t.Error(body)
	}
	tokens, c := testIDP(t, nil)
	fake.mu.Lock()
	fake.token = tokensFor(t, tokens, c, mailbox)
	fake.mu.Unlock()
	if body := bodyOf(t, ask(h, "GET", "/")); !strings.Contains(body, `class="good">connected<`) {
		t.Error(body)
	}
	p.plugin.base = "http://localhost:1"
	if body := bodyOf(t, ask(h, "GET", "/")); !strings.Contains(body, "unknown, since") {
		t.Error(body)
	}
}

// A mail is the work of strangers: nothing in it may run, load or look like a part of the page.
func TestPageShowsHostileMail(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>`
	p, _, h := testPage(t)
	p.inbox.add(&mail{
		Raw: []byte("X: " + evil + "\xff"), Subject: evil, From: evil, To: evil, Cc: evil, MessageID: evil, Text: evil, HTML: evil,
		RcptTo: []string{evil}, SignedInAs: evil, MailFrom: evil, Trouble: evil,
		Attachments: []attachment{{Name: evil, Type: evil}},
	})
	for _, path := range []string{"/", "/mail/1"} {
		res := ask(h, "GET", path)
		body := bodyOf(t, res)
		if res.StatusCode != http.StatusOK || strings.Contains(body, "<script") || strings.Contains(body, "<img") {
			t.Errorf("%s: %s\n%s", path, res.Status, body)
		}
		policy := res.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; style-src 'self';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "script-src") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
	if body := bodyOf(t, ask(h, "GET", "/mail/1")); !strings.Contains(body, `<iframe sandbox src="/mail/1/html"`) {
		t.Error("the HTML is not in a sandboxed frame")
	}
	for path, kind := range map[string]string{"/mail/1/html": "text/html; charset=utf-8", "/mail/1/raw": "text/plain; charset=utf-8"} {
		res := ask(h, "GET", path)
		if got := res.Header.Get("Content-Type"); got != kind {
			t.Errorf("%s is %q", path, got)
		}
		if policy := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "sandbox; default-src 'none'") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
	if res := ask(h, "GET", "/mail/2"); res.StatusCode != http.StatusNotFound {
		t.Errorf("no such mail: %s", res.Status)
	}
}
