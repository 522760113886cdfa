package main

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// A page is the quickstart's own web page: the mails that arrived, and a button that starts the sign-in.
type page struct {
	inbox    *inbox
	plugin   *plugin
	provider string
	mailbox  string
	note     string // shown on top, when something is broken on purpose
}

// handler answers the page's routes.
func (p *page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.list)
	mux.HandleFunc("GET /connect", p.askConnect)
	mux.HandleFunc("POST /connect", p.connect)
	mux.HandleFunc("GET /mail/{id}", p.show)
	mux.HandleFunc("GET /mail/{id}/html", p.showHTML)
	mux.HandleFunc("GET /mail/{id}/raw", p.showRaw)
	mux.HandleFunc("GET /style.css", serveStyle)
	return mux
}

// pageData is what every template gets.
type pageData struct {
	Mailbox   string
	State     string
	Connected bool
	Note      string
	Curl      string
	Mails     []*mail
	Mail      *mail
	Raw       string
	Error     string
}

func (p *page) data(ctx context.Context) pageData {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	state, err := p.plugin.state(ctx, p.provider, p.mailbox)
	if err != nil {
		state = "unknown, since " + err.Error()
	}
	return pageData{
		Mailbox:   p.mailbox,
		State:     state,
		Connected: state == stateAuthorized,
		Note:      p.note,
		Curl:      curlLine(p.plugin),
	}
}

func (p *page) list(w http.ResponseWriter, r *http.Request) {
	d := p.data(r.Context())
	d.Mails = p.inbox.list()
	w.Header().Set("Refresh", "3") // mails show up by themselves, without a script
	p.render(w, http.StatusOK, "list.html", d)
}

func (p *page) show(w http.ResponseWriter, r *http.Request) {
	m, ok := p.inbox.get(r.PathValue("id"))
	if !ok {
		p.gone(w, r)
		return
	}
	d := p.data(r.Context())
	d.Mail = m
	d.Raw = strings.ToValidUTF8(string(m.Raw), "\uFFFD")
	p.render(w, http.StatusOK, "mail.html", d)
}

// showHTML answers a mail's own HTML for a frame. It is a document of its own so that it can have its own policy:
// styles and embedded pictures only, no scripts, nothing fetched, no origin.
func (p *page) showHTML(w http.ResponseWriter, r *http.Request) {
	m, ok := p.inbox.get(r.PathValue("id"))
	if !ok {
		p.gone(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write([]byte(m.HTML)) // the browser may have gone
}

func (p *page) showRaw(w http.ResponseWriter, r *http.Request) {
	m, ok := p.inbox.get(r.PathValue("id"))
	if !ok {
		p.gone(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(m.Raw) // the browser may have gone
}

func (p *page) gone(w http.ResponseWriter, r *http.Request) {
	d := p.data(r.Context())
	d.Error = "There is no such mail. The inbox forgets when the quickstart stops."
	p.render(w, http.StatusNotFound, "connect.html", d)
}

func (p *page) askConnect(w http.ResponseWriter, r *http.Request) {
	p.render(w, http.StatusOK, "connect.html", p.data(r.Context()))
}

// connect asks the plugin for a sign-in link and sends the browser there. This is what an administrator's tool does;
// the browser never sees the operator's password.
func (p *page) connect(w http.ResponseWriter, r *http.Request) {
	link, err := p.plugin.authorize(r.Context(), p.provider, p.mailbox)
	if err != nil {
		d := p.data(r.Context())
		d.Error = "The plugin gave no sign-in link: " + err.Error()
		p.render(w, http.StatusBadGateway, "connect.html", d)
		return
	}
	http.Redirect(w, r, link, http.StatusSeeOther)
}

func (p *page) render(w http.ResponseWriter, status int, name string, d pageData) {
	renderPage(w, status, name, "'self' "+originOf(p.plugin.base), d)
}

// Preview answers the beginning of a mail's text.
func (m *mail) Preview() string { return shorten(m.Text, 80) }

// Clock answers when the mail arrived.
func (m *mail) Clock() string { return m.Arrived.Format(time.TimeOnly) }
