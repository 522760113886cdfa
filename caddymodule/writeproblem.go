package caddymodule

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/text/language"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// writeProblem answers with a problem: in Resend's shape, or as RFC 9457 has it
// where the request asks for that by name.
func writeProblem(w http.ResponseWriter, r *http.Request, p *problem) {
	if p.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="oauth_mail"`)
	}
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(p.retryAfter)))
	}
	if p.status == http.StatusTooManyRequests && w.Header().Get("Ratelimit-Reset") == "" {
		// It is no rate of the key. SDKs read these as numbers.
		allowance{reset: p.retryAfter}.write(w.Header())
	}
	body := map[string]any{}
	set := func(name string, value any, present bool) {
		if present {
			body[name] = value
		}
	}
	type fault struct {
		Pointer string `json:"pointer"`
		Message string `json:"message"`
	}
	set("errors", []fault{{Pointer: pointer(p.field), Message: p.message}}, p.field != "")
	set("smtp", p.smtp, p.smtp != nil)
	if p.diagnosis != nil {
		body["diagnosis"] = p.diagnosis.Advice(languageOf(r))
	}
	set("accepted", p.accepted, len(p.accepted) > 0)
	request := requestID(r)
	set("request_id", request, request != "")
	set("id", p.id, p.id != "")
	set("message_id", p.messageID, p.messageID != "")
	if strings.Contains(r.Header.Get("Accept"), "application/problem+json") {
		body["type"] = p.help()
		body["title"] = http.StatusText(p.status)
		body["status"] = p.status
		body["detail"] = p.message
		set("code", p.code, p.code != "")
		set("name", p.name, p.name != "")
		set("instance", "/emails/"+p.id, p.id != "")
		writeJSON(w, "application/problem+json", p.status, body)
		return
	}
	body["statusCode"] = p.status
	body["name"] = p.name
	body["message"] = p.message
	set("detail_code", p.code, p.code != "")
	body["help_url"] = p.help()
	writeJSON(w, "application/json", p.status, body)
}

// documentation is where people read what this server does.
const documentation = "https://github.com/caddy-oauth-mail/caddy-oauth-mail/blob/main/docs/api.md"

// help is a URL that names the kind of the problem, and leads to where it is described.
func (p *problem) help() string {
	return documentation + "?error=" + url.QueryEscape(cmp.Or(p.code, p.name)) + "#errors"
}

// languages are those of diagnoses, in the order of diagnosisLanguages; the first
// is for those who prefer another.
var (
	languages          = language.NewMatcher([]language.Tag{language.English, language.Japanese})
	diagnosisLanguages = []diagnosis.Language{diagnosis.English, diagnosis.Japanese}
)

// languageOf is the language of diagnoses that a request prefers.
func languageOf(r *http.Request) diagnosis.Language {
	wish := r.Header.Get("Accept-Language")
	if wish == "" { // as of programs
		return diagnosisLanguages[0]
	}
	_, i := language.MatchStrings(languages, wish)
	return diagnosisLanguages[i]
}

// pointer turns a field's name, such as to[2], into a JSON pointer (RFC 6901).
func pointer(field string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1", ".", "/", "[", "/", "]", "").Replace(field)
}
