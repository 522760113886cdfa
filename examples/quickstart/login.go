package main

import (
	"net/http"
	"net/url"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// A login is the sign-in page of the embedded authorization server.
type login struct {
	idp       *idp
	returnsTo string // the origin of the application, where the browser goes after the form
}

func (l *login) show(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	req, err := l.idp.store.AuthRequestByID(r.Context(), id)
	if err != nil {
		l.fail(w, http.StatusNotFound, err)
		return
	}
	emails := make([]string, 0, len(l.idp.store.users))
	for _, u := range l.idp.store.users {
		emails = append(emails, u.email)
	}
	l.render(w, http.StatusOK, map[string]any{
		"ID":     id,
		"Client": req.GetClientID(),
		"Scopes": scopeWords(req.GetScopes()),
		"Emails": emails,
	})
}

func (l *login) submit(w http.ResponseWriter, r *http.Request) {
	id := r.PostFormValue("id")
	if r.PostFormValue("refuse") != "" {
		l.refuse(w, r, id)
		return
	}
	err := l.idp.store.signIn(id, r.PostFormValue("user"))
	if err != nil {
		l.fail(w, http.StatusBadRequest, err)
		return
	}
	http.Redirect(w, r, l.idp.resume(r.Context(), id), http.StatusSeeOther) //nolint:gosec // always to the issuer; id is escaped
}

func (l *login) refuse(w http.ResponseWriter, r *http.Request, id string) {
	req, err := l.idp.store.take(id)
	if err != nil {
		l.fail(w, http.StatusNotFound, err)
		return
	}
	denied := oidc.ErrAccessDenied().WithDescription("the user pressed Refuse")
	op.AuthRequestError(w, r, req, denied, l.idp.provider)
}

func (l *login) fail(w http.ResponseWriter, status int, err error) {
	l.render(w, status, map[string]any{"Error": err.Error()})
}

func (l *login) render(w http.ResponseWriter, status int, data map[string]any) {
	// Browsers hold the redirects after a form to its form-action too, so the application's origin must be named.
	renderPage(w, status, "login.html", "'self' "+l.returnsTo, data)
}

// scopeWords says in plain words what an application asks for.
func scopeWords(scopes []string) []string {
	words := map[string]string{
		oidc.ScopeOpenID:        "know who you are",
		oidc.ScopeEmail:         "see your e-mail address",
		oidc.ScopeOfflineAccess: "send mail for you, also while you are away",
	}
	var said []string
	for _, s := range scopes {
		if w, ok := words[s]; ok {
			said = append(said, w)
			continue
		}
		said = append(said, s)
	}
	return said
}

// originOf cuts a URL down to scheme, host and port.
func originOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}
