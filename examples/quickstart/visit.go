package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A visit is where the browser is.
type visit struct {
	url    string
	status string
	code   int
	next   string // where a redirect leads
	body   []byte
	kind   string
}

// String tells of a visit without its URL's query, which may hold a code or a ticket.
func (v visit) String() string {
	if v.next != "" {
		return v.status + ", a redirect to " + withoutQuery(v.next)
	}
	return v.kind
}

func (v visit) text() string { return shorten(visibleText(v.body), 300) }

func (v visit) mustBePage() error {
	if v.code != http.StatusOK {
		return fmt.Errorf("%s answered %s", withoutQuery(v.url), v.kind)
	}
	return nil
}

func (v visit) formWith(want func(webForm) bool) (webForm, bool) {
	forms := formsOf(v.body)
	i := slices.IndexFunc(forms, want)
	if i < 0 {
		return webForm{}, false
	}
	return forms[i], true
}

func (t *trip) open(ctx context.Context, link string) (visit, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return visit{}, plainError(err)
	}
	return t.visit(req)
}

// follow goes after redirects to their end, as long as they stay on this machine.
func (t *trip) follow(ctx context.Context, v visit) (visit, error) {
	for range 10 {
		if v.next == "" {
			return v, nil
		}
		if o := originOf(v.next); o != t.issuer && o != t.plugin.base {
			return v, fmt.Errorf("redirected to %s, which has no part in this", o)
		}
		var err error
		v, err = t.open(ctx, v.next)
		if err != nil {
			return v, err
		}
	}
	return v, errors.New("redirected ten times without an end")
}

// submit sends a form as a browser does that stands on its page.
func (t *trip) submit(ctx context.Context, at visit, f webForm, press *button) (visit, error) {
	base, err := url.Parse(at.url)
	if err != nil {
		return visit{}, plainError(err)
	}
	action, err := base.Parse(f.action)
	if err != nil {
		return visit{}, plainError(err)
	}
	fields := f.fields
	if press != nil {
		fields.Set(press.name, press.value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, action.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		return visit{}, plainError(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", originOf(at.url))
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return t.visit(req)
}

func (t *trip) visit(req *http.Request) (visit, error) {
	req.Header.Set("Accept", "text/html")
	res, err := t.client.Do(req)
	if err != nil {
		return visit{}, fmt.Errorf("%s: %w", withoutQuery(req.URL.String()), plainError(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return visit{}, plainError(err)
	}
	v := visit{url: req.URL.String(), status: res.Status, code: res.StatusCode, body: body, kind: describe(res, body)}
	if res.StatusCode/100 == 3 {
		next, err := res.Location()
		if err != nil {
			return v, fmt.Errorf("%s without a place to go", res.Status)
		}
		v.next = next.String()
	}
	return v, nil
}

func withoutQuery(link string) string {
	u, err := url.Parse(link)
	if err != nil {
		return "an unreadable link"
	}
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}
