package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
)

//go:embed pages
var pageFiles embed.FS

// page is a page of a sign-in: a title, some sentences, and perhaps a button.
type page struct {
	Title string
	Text  []string
	Facts []fact
	// Said is what the provider said. It is a stranger's text.
	Said string
	Form *pageForm
}

type fact struct{ Name, Value string }

// pageForm is a button that posts a ticket.
type pageForm struct{ Action, Ticket, Button string }

var (
	pageTemplate = template.Must(template.ParseFS(pageFiles, "pages/page.html"))
	pageStyle    = func() string {
		css, err := pageFiles.ReadFile("pages/page.css")
		if err != nil {
			panic(err) // embedded above
		}
		return string(css)
	}()
	// pagePolicy lets a page have its style and nothing else. There is no
	// form-action: browsers apply it to the redirects after a form, too, and
	// where a provider sends people on the way is not known here.
	pagePolicy = func() string {
		sum := sha256.Sum256([]byte(pageStyle))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; frame-ancestors 'none'"
	}()
)

// write answers with the page.
func (p *page) write(w http.ResponseWriter, status int) {
	var body bytes.Buffer
	err := pageTemplate.Execute(&body, struct {
		*page
		Style template.CSS
	}{p, template.CSS(pageStyle)}) // #nosec G203 -- the style is embedded
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	// Not no-referrer: with that, browsers hide the origin of the form, too.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}
