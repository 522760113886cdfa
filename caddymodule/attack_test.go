package caddymodule

import (
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// victim is a sign-in under way whose person has consented: what comes back from
// the provider, and the cookie of the browser that began.
type victim struct {
	response url.Values
	cookie   string
}

// link is the path and query of a fresh link to the start page.
func (b *bench) link() string {
	b.t.Helper()
	var begun invitation
	b.call(benchAccount+"/authorize", "", 201, &begun)
	target, ok := strings.CutPrefix(begun.URL, "https://mail.example.com/")
	if !ok {
		b.t.Fatalf("link %s", begun.URL)
	}
	return "/" + target
}

// ticket is a fresh ticket.
func (b *bench) ticket() string {
	b.t.Helper()
	u, err := url.Parse(b.link())
	if err != nil {
		b.t.Fatal(err)
	}
	return u.Query().Get("ticket")
}

// start presses the button of the start page.
func (b *bench) start(ticket string, change func(*http.Request)) answer {
	b.t.Helper()
	return b.serve(b.handler.serveCallback, "POST", "/oauth/callback/idp/start", url.Values{"ticket": {ticket}}.Encode(), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		if change != nil {
			change(r)
		}
	})
}

// consented is a sign-in up to the provider's answer.
func (b *bench) consented(person string) victim {
	b.t.Helper()
	got := b.start(b.ticket(), nil)
	c, err := http.ParseSetCookie(got.header.Get("Set-Cookie"))
	if err != nil || got.status != 303 {
		b.t.Fatalf("status %d, %v: %s", got.status, err, got.body)
	}
	response, err := b.idp.Consent(got.header.Get("Location"), person)
	if err != nil {
		b.t.Fatal(err)
	}
	return victim{response, c.Name + "=" + c.Value}
}

// back comes back from the provider.
func (b *bench) back(v victim) answer {
	return b.open("GET", "/oauth/callback/idp?"+v.response.Encode(), v.cookie)
}

func (b *bench) open(method, target, cookie string) answer {
	b.t.Helper()
	return b.serve(b.handler.serveCallback, method, target, "", func(r *http.Request) {
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
	})
}

// renamed is a cookie under another's name.
func renamed(cookie, value string) string {
	name, _, _ := strings.Cut(cookie, "=")
	return name + "=" + value
}

// header is a change of a request that sets header fields.
func header(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == "Host" {
				r.Host = pairs[i+1]
			}
			r.Header.Set(pairs[i], pairs[i+1])
		}
	}
}

// minWebAttacks is how many attacks this suite knows at least; those on the flow
// itself are with the flow.
const minWebAttacks = 45

// TestWebAttacks tries what is known to be done to sign-ins by way of browsers
// and HTTP. None may redeem a code, change the token there is, or lead a browser
// to another site; what is refused says so.
func TestWebAttacks(t *testing.T) {
	t.Parallel()
	const evil = "evil.example"
	attacks := map[string]struct {
		run    func(b *bench) answer
		status int
		text   string
	}{
		"no cookie": {func(b *bench) answer { v := b.consented(mailbox); v.cookie = ""; return b.back(v) }, 400, "begun in another browser"},
		"another sign-in's cookie": {func(b *bench) answer {
			v, o := b.consented(mailbox), b.consented(mailbox)
			v.cookie = o.cookie
			return b.back(v)
		}, 400, "begun in another browser"},
		"another sign-in's cookie under this one's name": {func(b *bench) answer {
			v := b.consented(mailbox)
			_, value, _ := strings.Cut(b.consented(mailbox).cookie, "=")
			v.cookie = renamed(v.cookie, value)
			return b.back(v)
		}, 400, "belongs to no sign-in"},
		"cookie of a sibling site": {func(b *bench) answer { // which can't set __Host-
			v := b.consented(mailbox)
			v.cookie = strings.TrimPrefix(v.cookie, "__Host-")
			return b.back(v)
		}, 400, "begun in another browser"},
		"ticket as a cookie": {func(b *bench) answer {
			v := b.consented(mailbox)
			v.cookie = renamed(v.cookie, b.ticket())
			return b.back(v)
		}, 400, "belongs to no sign-in"},
		"paste as a cookie": {func(b *bench) answer {
			v := b.consented(mailbox)
			var begun invitation
			b.call(benchAccount+"/authorize", `{"flow":"paste"}`, 201, &begun)
			v.cookie = renamed(v.cookie, begun.Session)
			return b.back(v)
		}, 400, "belongs to no sign-in"},
		"cookie as a paste": {func(b *bench) answer {
			v := b.consented(mailbox)
			_, value, _ := strings.Cut(v.cookie, "=")
			return b.admin("POST", benchAccount+"/complete", `{"session":"`+value+`","url":"https://mail.example.com/oauth/callback/idp?`+v.response.Encode()+`"}`)
		}, 422, "no session of a paste"},
		"another provider's callback": {func(b *bench) answer {
			v := b.consented(mailbox)
			return b.open("GET", "/oauth/callback/other?"+v.response.Encode(), v.cookie)
		}, 400, "belongs to no sign-in"},
		"another issuer's answer": {func(b *bench) answer {
			v := b.consented(mailbox)
			v.response.Set("iss", "https://"+evil)
			return b.back(v)
		}, 400, "belongs to no sign-in"},
		"state twice": {func(b *bench) answer { v := b.consented(mailbox); v.response.Add("state", "x"); return b.back(v) }, 400, "belongs to no sign-in"},
		"code twice":  {func(b *bench) answer { v := b.consented(mailbox); v.response.Add("code", "x"); return b.back(v) }, 400, "belongs to no sign-in"},
		"posted answer": {func(b *bench) answer { // response_mode=form_post
			v := b.consented(mailbox)
			return b.serve(b.handler.serveCallback, "POST", "/oauth/callback/idp", v.response.Encode(),
				header("Content-Type", "application/x-www-form-urlencoded", "Cookie", v.cookie, "Sec-Fetch-Site", "same-origin"))
		}, 405, "does not work here"},
		"answer by HEAD": {func(b *bench) answer {
			v := b.consented(mailbox)
			return b.open("HEAD", "/oauth/callback/idp?"+v.response.Encode(), v.cookie)
		}, 405, ""},
		"answer in the fragment": {func(b *bench) answer { // which no browser sends
			return b.open("GET", "/oauth/callback/idp", b.consented(mailbox).cookie)
		}, 400, "begun in another browser"},
		"script in the error": {func(b *bench) answer {
			v := b.consented(mailbox)
			v.response.Del("code")
			v.response.Set("error", "<script>alert(1)</script>")
			v.response.Set("error_description", `"><img src=x onerror=alert(1)>`)
			return b.back(v)
		}, 403, "&lt;script&gt;"},
		"script in the state": {func(b *bench) answer {
			return b.open("GET", "/oauth/callback/idp?state=%3Cscript%3E&code=%3Cscript%3E", "")
		}, 400, "begun in another browser"},
		"forged consent of an administrator": {func(b *bench) answer {
			v := b.consented(mailbox)
			v.response.Set("admin_consent", "True")
			v.cookie = ""
			return b.back(v)
		}, 200, "nothing was changed"},

		"button pressed by another site":   {func(b *bench) answer { return b.start(b.ticket(), header("Sec-Fetch-Site", "cross-site")) }, 403, "own page"},
		"button pressed by a sibling site": {func(b *bench) answer { return b.start(b.ticket(), header("Sec-Fetch-Site", "same-site")) }, 403, "own page"},
		"button pressed from an origin": {func(b *bench) answer {
			return b.start(b.ticket(), func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://"+evil) })
		}, 403, "own page"},
		"button pressed from nowhere": {func(b *bench) answer {
			return b.start(b.ticket(), func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") })
		}, 403, "own page"},
		"GET in place of the button": {func(b *bench) answer { return b.open("GET", b.link(), "") }, 200, "Mailbox"},
		"GET that says it is a POST": {func(b *bench) answer {
			return b.serve(b.handler.serveCallback, "GET", b.link()+"&_method=POST", "", header("X-HTTP-Method-Override", "POST"))
		}, 200, "Mailbox"},
		"PUT in place of the button": {func(b *bench) answer { return b.open("PUT", b.link(), "") }, 405, "does not work here"},
		"ticket in the address only": {func(b *bench) answer {
			link := b.link()
			return b.serve(b.handler.serveCallback, "POST", link, "", header("Sec-Fetch-Site", "same-origin"))
		}, 410, "cannot be used"},
		"broken ticket": {func(b *bench) answer { return b.start("AAAA", nil) }, 410, "cannot be used"},
		"cookie as a ticket": {func(b *bench) answer {
			_, value, _ := strings.Cut(b.consented(mailbox).cookie, "=")
			return b.start(value, nil)
		}, 410, "cannot be used"},
		"ticket at another's page":     {func(b *bench) answer { return b.open("GET", strings.Replace(b.link(), "/idp/", "/other/", 1), "") }, 410, "cannot be used"},
		"ticket with a path to return": {func(b *bench) answer { return b.start(b.ticket()+"&return_to=https://"+evil, nil) }, 410, "cannot be used"},
		"a path to return": {func(b *bench) answer {
			return b.start(b.ticket(), func(r *http.Request) { r.URL.RawQuery = "return_to=https://" + evil })
		}, 303, ""},
		"a redirect URI to return": {func(b *bench) answer {
			return b.start(b.ticket(), func(r *http.Request) { r.URL.RawQuery = "redirect_uri=https://" + evil })
		}, 303, ""},
		"start at another host":        {func(b *bench) answer { return b.start(b.ticket(), header("Host", evil)) }, 303, ""},
		"start through a forged proxy": {func(b *bench) answer { return b.start(b.ticket(), forgedProxy) }, 303, ""},
		"page of another host": {func(b *bench) answer {
			return b.serve(b.handler.serveCallback, "GET", b.link(), "", header("Host", evil))
		}, 200, "Mailbox"},
		"page through a forged proxy": {func(b *bench) answer { return b.serve(b.handler.serveCallback, "GET", b.link(), "", forgedProxy) }, 200, "Mailbox"},
		"link asked for at another host": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "POST", benchAccount+"/authorize", "", func(r *http.Request) {
				header("Host", evil, "Content-Type", "application/json")(r)
				forgedProxy(r)
			})
		}, 201, "https://mail.example.com/oauth/callback/idp/start?"},
		"path around the provider": {func(b *bench) answer {
			v := b.consented(mailbox)
			return b.open("GET", "/oauth/callback/idp/../other?"+v.response.Encode(), v.cookie)
		}, 400, "belongs to no sign-in"},
		"path with a slash at the end": {func(b *bench) answer {
			v := b.consented(mailbox)
			return b.open("GET", "/oauth/callback/idp/?"+v.response.Encode(), v.cookie)
		}, 404, "no such page"},
		"path with no provider": {func(b *bench) answer {
			v := b.consented(mailbox)
			return b.open("GET", "/oauth/callback?"+v.response.Encode(), v.cookie)
		}, 404, "no such page"},
		"administration by another site": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "POST", benchAccount+"/import", `{"refresh_token":"x"}`, header("Content-Type", "application/json", "Sec-Fetch-Site", "cross-site"))
		}, 403, "another site"},
		"administration by a form": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "POST", benchAccount+"/complete", `{"session":"x"}`, header("Content-Type", "text/plain"))
		}, 415, "JSON"},
		"outbox resumed by another site": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "POST", "/outbox/tenants/default/resume", `{}`, header("Content-Type", "application/json", "Sec-Fetch-Site", "cross-site"))
		}, 403, "another site"},
		"message dropped by another site": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "DELETE", "/outbox/messages/x", `{}`, header("Content-Type", "application/json", "Origin", "https://"+evil))
		}, 403, "another site"},
		"message sent again by a form": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "POST", "/outbox/messages/x/retry", `{}`, header("Content-Type", "text/plain"))
		}, 415, "JSON"},
		"message dropped without a body": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "DELETE", "/outbox/messages/x", ``, nil)
		}, 415, "JSON"},
		"message canceled by GET": {func(b *bench) answer { return b.admin("GET", "/outbox/messages/x/cancel", "") }, 405, "POST"},
		"tenant paused by GET that says it is a POST": {func(b *bench) answer {
			return b.serve(b.handler.serveAdmin, "GET", "/outbox/tenants/default/pause?_method=POST", "", header("X-HTTP-Method-Override", "POST"))
		}, 405, "POST"},
		"message read by a path around": {func(b *bench) answer { return b.admin("GET", "/outbox/messages/../../accounts/x/eml", "") }, 404, "no provider"},
		"script in a state":             {func(b *bench) answer { return b.admin("GET", "/outbox/messages?state=%3Cscript%3E", "") }, 422, "must be one of scheduled, queued, sending, held, sent, failed, canceled."},
		"administration by GET":         {func(b *bench) answer { return b.admin("GET", benchAccount+"/complete?session=x", "") }, 405, "POST"},
	}
	if len(attacks) < minWebAttacks {
		t.Errorf("%d attacks, there must be %d", len(attacks), minWebAttacks)
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			if got := b.back(b.consented(mailbox)); got.status != 200 {
				t.Fatalf("the sign-in before: status %d: %s", got.status, got.body)
			}
			old := b.stored()
			b.posts()
			got := attack.run(b)
			if got.status != attack.status || !strings.Contains(got.body, attack.text) {
				t.Errorf("status %d, want %d with %q: %s", got.status, attack.status, attack.text, got.body)
			}
			if n := b.posts(); n != 0 {
				t.Errorf("%d requests to the token endpoint", n)
			}
			if now := b.stored(); now == nil || now.RefreshToken.Reveal() != old.RefreshToken.Reveal() || now.Generation != old.Generation {
				t.Error("the old token was not kept")
			}
			if text := html.UnescapeString(got.body) + got.header.Get("Location"); strings.Contains(text, evil) || strings.Contains(got.body, "<script") || strings.Contains(got.body, "<img") {
				t.Errorf("the attacker's words are in the answer: %s\n%s", got.header.Get("Location"), got.body)
			}
			location := got.header.Get("Location")
			if (location != "") != (attack.status == 303) || location != "" && !strings.HasPrefix(location, b.idp.Issuer+"/authorize?") {
				t.Errorf("leads to %q", location)
			}
			if c, err := http.ParseSetCookie(got.header.Get("Set-Cookie")); err == nil && c.Value != "" && attack.status != 303 {
				t.Errorf("sets the cookie %s", c.Name)
			}
			if log := b.log.String(); strings.Contains(log, "code-") || strings.Contains(log, "ticket=") {
				t.Errorf("log: %s", log)
			}
		})
	}
	t.Logf("%d attacks", len(attacks))
}

// forgedProxy makes a request look as if a proxy had passed it on from another
// site.
func forgedProxy(r *http.Request) {
	header("X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "http", "X-Forwarded-Prefix", "/evil.example",
		"X-Forwarded-Port", "8443", "X-Original-URL", "/evil.example", "Forwarded", "host=evil.example;proto=http")(r)
}
