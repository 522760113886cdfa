package caddymodule

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// startSegment ends the path of a provider's start page.
const startSegment = "start"

// startURL is the address of the page where a sign-in starts.
func (s *snapshot) startURL(provider, ticket string) string {
	u := s.redirectBase.JoinPath(provider, startSegment)
	u.RawQuery = url.Values{"ticket": {ticket}}.Encode()
	return u.String()
}

// serveCallback serves the start pages and the redirect URIs. It answers
// everything itself: an error returned to Caddy would be logged together with
// the address, which has a code or a ticket in it. For the same reason these
// requests stay out of the access log.
func (h *Handler) serveCallback(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	s := h.app.snapshot(r.Context())
	cleaned := publicPath(r)
	notFound := func(w http.ResponseWriter, _ *http.Request) {
		(&page{Title: "There is no such page", Text: []string{
			"This address belongs to no sign-in provider of this server. Ask the operator for a new link.",
		}}).write(w, http.StatusNotFound)
	}
	rest, under := strings.CutPrefix(cleaned, s.redirectBase.Path+"/")
	p := s.callbacks[cleaned]
	if !under && p == nil && cleaned != s.redirectBase.Path {
		return passOn(w, r, next, notFound)
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	if p != nil {
		h.finishSignIn(w, r, s, p)
		return nil
	}
	name, start := strings.CutSuffix(rest, "/"+startSegment)
	if p := s.providers[name]; start && p != nil {
		h.startSignIn(w, r, s, p)
		return nil
	}
	// Even here a code may have come, for a provider that was renamed.
	notFound(w, r)
	return nil
}

// publicPath is the path that the browser asked for, whatever `handle_path` or
// `uri` have made of it since: redirect URIs are public addresses.
func publicPath(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return cleanPath(&original)
	}
	return cleanPath(r)
}

// crossOrigin refuses posts from other sites.
var crossOrigin = http.NewCrossOriginProtection()

// startSignIn shows who is to sign in where, and sends the browser there when
// the person agrees.
func (h *Handler) startSignIn(w http.ResponseWriter, r *http.Request, s *snapshot, p *provider) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		ticket, err := h.openTicket(r.URL.Query().Get("ticket"), p)
		if err != nil {
			h.signInFailed(w, s, p, err)
			return
		}
		startPage(s, p, ticket, r.URL.Query().Get("ticket")).write(w, http.StatusOK)
	case http.MethodPost:
		if err := crossOrigin.Check(r); err != nil {
			(&page{Title: "Please start from this server's own page", Text: []string{
				"Another site tried to start this sign-in. Open the link that you were given, and press the button there.",
			}}).write(w, http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
		h.begin(w, r, s, p)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		(&page{Title: "That does not work here"}).write(w, http.StatusMethodNotAllowed)
	}
}

// openTicket reads a ticket that came to a provider's start page.
func (h *Handler) openTicket(sealed string, p *provider) (tokens.Ticket, error) {
	ticket, err := h.app.flow.OpenTicket(sealed)
	if err == nil && ticket.Account.Provider != p.name {
		err = &tokens.FlowError{Reason: tokens.ReasonTicket}
	}
	return ticket, err
}

func startPage(s *snapshot, p *provider, t tokens.Ticket, sealed string) *page {
	pg := &page{
		Title: "Allow sending mail as " + t.Account.User,
		Text: []string{
			"This server asks to send mail in the name of the mailbox below. You will sign in at the provider; this server never sees your password.",
			"Sign in as exactly this mailbox.",
		},
		Facts: []fact{{"Mailbox", t.Account.User}, {"Provider", p.settings.Title()}},
		Form:  &pageForm{Action: s.redirectBase.JoinPath(p.name, startSegment).Path, Ticket: sealed, Button: "Continue to " + p.settings.Title()},
	}
	if t.By != "" {
		pg.Facts = append(pg.Facts, fact{"Asked for by", t.By})
	}
	return pg
}

// maxCookies is how many sign-ins one browser may have under way.
const maxCookies = 5

func (h *Handler) begin(w http.ResponseWriter, r *http.Request, s *snapshot, p *provider) {
	ticket, err := h.openTicket(r.PostFormValue("ticket"), p)
	if err != nil {
		h.signInFailed(w, s, p, err)
		return
	}
	begun, err := h.app.flow.Begin(r.Context(), p.client, ticket)
	if err != nil {
		h.signInFailed(w, s, p, err)
		return
	}
	prefix, secure := cookieShape(s)
	var names []string // of sign-ins under way, the oldest first (RFC 6265, section 5.4)
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, prefix+tokens.CookiePrefix) {
			names = append(names, c.Name)
		}
	}
	for ; len(names) >= maxCookies; names = names[1:] {
		dropCookie(w, names[0], secure)
	}
	http.SetCookie(w, &http.Cookie{ // #nosec G124 -- secure wherever the site is
		Name: prefix + begun.CookieName, Value: begun.CookieValue, Path: "/", MaxAge: int(time.Until(begun.Expires).Seconds()),
		Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode, // the provider's redirect is a top-level GET
	})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, begun.URL, http.StatusSeeOther) // #nosec G710 -- the provider's endpoint, from the configuration
}

// cookieShape says how cookies are bound to this host: by the __Host- prefix,
// which needs https. On loopback http, for trials, there is no such thing.
func cookieShape(s *snapshot) (prefix string, secure bool) {
	if s.redirectBase.Scheme == "https" {
		return "__Host-", true
	}
	return "", false
}

func dropCookie(w http.ResponseWriter, name string, secure bool) {
	http.SetCookie(w, &http.Cookie{ // #nosec G124 -- secure wherever the site is
		Name: name, Path: "/", MaxAge: -1, Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// finishSignIn takes the provider's answer.
func (h *Handler) finishSignIn(w http.ResponseWriter, r *http.Request, s *snapshot, p *provider) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		(&page{Title: "That does not work here"}).write(w, http.StatusMethodNotAllowed)
		return
	}
	query := r.URL.Query()
	prefix, secure := cookieShape(s)
	name := prefix + tokens.CookieName(query.Get("state"))
	sealed := ""
	if c, err := r.Cookie(name); err == nil {
		sealed = c.Value
		dropCookie(w, name, secure)
	}
	if sealed == "" && query.Has("admin_consent") {
		consentPage(p).write(w, http.StatusOK)
		return
	}
	done, err := h.app.flow.Complete(r.Context(), p.client, query, sealed)
	if err != nil {
		h.signInFailed(w, s, p, err)
		return
	}
	h.app.signedIn(s, done)
	donePage(p, done.Token, done.Doubt).write(w, http.StatusOK)
}

// donePage says that a sign-in is done, and whether mail will flow.
func donePage(p *provider, t *tokens.Token, doubt error) *page {
	pg := &page{
		Title: t.Account.User + " is connected",
		Text:  []string{"This server can now send mail in its name, and keeps the sign-in alive by itself. You may close this page."},
		Facts: []fact{{"Mailbox", t.Account.User}, {"Provider", p.settings.Title()}},
	}
	switch {
	case errors.Is(doubt, tokens.ErrRefused):
		pg.Title = t.Account.User + " is signed in, but the mail server refuses it"
		pg.Text = []string{
			"The sign-in is kept; it need not be repeated. Mail will flow as soon as an administrator of the mail server has put right what it says below: often the mailbox has no licence, or sending by SMTP is switched off for it or for the organization.",
			capitalized(doubt.Error()) + ".",
		}
	case doubt != nil:
		pg.Text = append(pg.Text, "The mail server could not be asked whether it lets the mailbox in. Send a test mail.")
	}
	return pg
}

// consentPage is where an administrator's consent for an organization ends, as
// the address says, which anybody can write: nothing follows from it.
func consentPage(p *provider) *page {
	return &page{
		Title: "Back from the provider's page for administrators",
		Text: []string{
			"If you have just approved this server's access there, that is done, and known to the provider alone: nothing was changed here. You may close this page.",
			"Mailboxes that sign in themselves can do so now; a server that works with its own credentials tries again by itself.",
		},
		Facts: []fact{{"Provider", p.settings.Title()}},
	}
}

// signInFailed says why a sign-in ended and what to do about it.
func (h *Handler) signInFailed(w http.ResponseWriter, s *snapshot, p *provider, err error) {
	f, ok := errors.AsType[*tokens.FlowError](err)
	if !ok {
		f = &tokens.FlowError{Reason: tokens.ReasonStorage, Err: err}
	}
	h.logger.Warn("sign-in failed", "provider", p.name, "user", f.Account.User, "reason", string(f.Reason), "error", err)
	e, _ := errors.AsType[*tokens.Error](f.Err)
	advice := signInAdvice(f.Reason, e)
	pg := &page{Title: advice.title, Text: advice.text}
	if f.Account.User != "" {
		pg.Facts = []fact{{"Mailbox", f.Account.User}, {"Provider", p.settings.Title()}}
	}
	switch {
	case e != nil && (e.Code != "" || e.Description != ""):
		pg.Said = strings.TrimSpace(e.Code + " " + e.Description)
	case f.Err != nil && advice.details:
		pg.Text = append(pg.Text, capitalized(f.Err.Error())+".")
	}
	if e != nil {
		if known, ok := e.Advice(); ok {
			pg.Text = append(pg.Text, "What it means: "+known.Meaning+". What to do ("+string(known.Who)+"): "+known.Do+".")
		}
	}
	prompt := ""
	if f.Reason == tokens.ReasonIdentity {
		prompt = p.settings.Picker()
	}
	if ticket, _, ok := h.app.flow.Renew(f, prompt); ok && advice.again != "" {
		pg.Form = &pageForm{Action: s.redirectBase.JoinPath(p.name, startSegment).Path, Ticket: ticket, Button: advice.again}
	}
	pg.write(w, advice.status)
}

func capitalized(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
