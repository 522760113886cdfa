package caddymodule

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestDiagnosisInAnswer goes the way from a mail server's refusal to the caller.
func TestDiagnosisInAnswer(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, withoutOutbox+strings.ReplaceAll(passwordTenant(t, mailertest.NewServer(t)), "smtp-password", "wrong-password"))
	for lang, words := range map[string]string{"": "refused user name or password", "ja": "ユーザー名またはパスワードを拒否しました"} {
		got := p.do("POST", "/emails", map[string]string{
			"Authorization": "Bearer " + testKey, "Content-Type": "application/json", "Accept-Language": lang,
		}, `{"to":"a@example.net","subject":"s","text":"t"}`)
		if got.status != 503 || !strings.Contains(got.body, field("id", "general.password_refused")) || !strings.Contains(got.body, words) {
			t.Errorf("%q: status %d: %s", lang, got.status, got.body)
		}
	}
}

func TestDiagnosisInProblem(t *testing.T) {
	t.Parallel()
	refused := &mailer.Error{
		Stage: mailer.StageAuth, Kind: mailer.KindUnauthorized, Server: "smtp.office365.com:587",
		Reply: mailer.Reply{Code: 535, Enhanced: mailer.EnhancedCode{5, 7, 139}, Text: "Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox."},
	}
	const id = "exchange.smtp_auth_disabled_mailbox"
	for _, tt := range []struct {
		name     string
		err      *mailer.Error
		language string
		media    string
		id, says string
	}{
		{"English", refused, "", "", id, "switched off for this mailbox"},
		{"Japanese", refused, "ja", "", id, "無効になっています"},
		{"Japanese of Japan, first", refused, "ja-JP,ja;q=0.9,en;q=0.5", "", id, "無効になっています"},
		{"Japanese, second", refused, "en-GB, ja;q=0.8", "", id, "switched off"},
		{"Japanese, unwanted", refused, "ja;q=0, en", "", id, "switched off"},
		{"neither", refused, "fr-CH, de", "", id, "switched off"},
		{"Japanese before neither", refused, "fr, ja;q=0.5", "", id, "無効になっています"},
		{"nonsense", refused, ";;;,,=q\x01", "", id, "switched off"},
		{"RFC 9457", refused, "ja", "application/problem+json", id, "無効になっています"},
		{"the caller's own mistake", &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindInvalid, Field: "to"}, "ja", "", "", ""},
		{"a sender not allowed", &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindSender}, "", "", "", ""},
		{"no reply", &mailer.Error{Stage: mailer.StageFinal, Kind: mailer.KindUnknown, Err: io.EOF}, "", "", "general.outcome_unknown", "may have been sent"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/emails", nil)
		r.Header.Set("Accept-Language", tt.language)
		r.Header.Set("Accept", tt.media)
		w := httptest.NewRecorder()
		writeProblem(w, r, toProblem(tt.err))
		var body struct {
			Diagnosis map[string]any
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatalf("%s: %s: %v", tt.name, w.Body, err)
		}
		d := body.Diagnosis
		if tt.id == "" {
			if d != nil {
				t.Errorf("%s: has a diagnosis: %v", tt.name, d)
			}
			continue
		}
		meaning, _ := d["meaning"].(string)
		steps, _ := d["do"].([]any)
		if d["id"] != tt.id || !strings.Contains(meaning, tt.says) || len(steps) == 0 {
			t.Errorf("%s: %v", tt.name, d)
		}
		if tt.id == id && (d["who"] != "administrator" || !strings.Contains(w.Body.String(), "Set-CASMailbox -Identity user@example.com -SmtpClientAuthenticationDisabled $false")) {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
		if diff := cmp.Diff([]string{"do", "id", "meaning", "who"}, keys(d)); diff != "" {
			t.Errorf("%s: members %s", tt.name, diff)
		}
	}
}

func keys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
