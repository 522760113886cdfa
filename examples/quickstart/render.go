package main

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.ParseFS(templateFiles, "templates/*.html"))

// renderPage answers with a template under a policy that allows no script and nothing from elsewhere. formAction is
// the list of places that a form of this page may lead to, redirects included.
func renderPage(w http.ResponseWriter, status int, name, formAction string, data any) {
	var page bytes.Buffer
	err := templates.ExecuteTemplate(&page, name, data)
	if err != nil {
		http.Error(w, "rendering the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-src 'self'; base-uri 'none'; "+
		"frame-ancestors 'none'; form-action "+formAction)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // the browser may have gone
}

func serveStyle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "max-age=3600")
	http.ServeFileFS(w, r, templateFiles, "templates/style.css")
}
