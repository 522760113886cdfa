package caddymodule

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// webhookInbox takes alerts that are signed with its key.
type webhookInbox struct {
	*httptest.Server
	key []byte

	mu    sync.Mutex
	got   []alert
	wrong []string
	fail  int // so many are refused first
}

func newWebhookInbox(t *testing.T) *webhookInbox {
	t.Helper()
	i := &webhookInbox{key: []byte("0123456789abcdef0123456789abcdef")}
	i.Server = httptest.NewServer(http.HandlerFunc(i.take))
	t.Cleanup(i.Close)
	return i
}

func (i *webhookInbox) secret() string { return "whsec_" + base64.StdEncoding.EncodeToString(i.key) }

func (i *webhookInbox) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fail > 0 {
		i.fail--
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	mac := hmac.New(sha256.New, i.key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
		i.wrong = append(i.wrong, r.Header.Get("webhook-signature"))
	}
	var v alert
	if err != nil || json.Unmarshal(body, &v) != nil {
		i.wrong = append(i.wrong, string(body))
	}
	i.got = append(i.got, v)
}

// told returns the alerts as lines.
func (i *webhookInbox) told() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	lines := make([]string, len(i.got))
	for n, v := range i.got {
		lines[n] = fmt.Sprint(v.Type, " ", v.Data.Kind)
	}
	return lines
}

// alertMail checks who sends and gets an alert, and returns its subject and the first
// line of its text.
func alertMail(t *testing.T, m mailertest.Message) string {
	t.Helper()
	read, err := mail.ReadMessage(strings.NewReader(m.Data))
	if err != nil {
		t.Fatalf("%v: %q", err, m.Data)
	}
	for field, want := range map[string]string{"From": "alerts@example.net", "To": "admin@example.net, night@example.org", "Auto-Submitted": "auto-generated"} {
		if got := read.Header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if m.From != "alerts@example.net" || !slices.Equal(m.To, []string{"admin@example.net", "night@example.org"}) {
		t.Errorf("envelope: from %q to %q", m.From, m.To)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(read.Header.Get("Subject"))
	if err != nil {
		t.Error(err)
	}
	text, err := io.ReadAll(read.Body)
	if err != nil {
		t.Error(err)
	}
	line, _, _ := strings.Cut(string(text), "\r\n")
	line, _, _ = strings.Cut(line, ", the oldest for ")
	return subject + "\n" + line
}

// TestAlerts: each cause is told once, and once that it is gone, by webhook and by mail,
// however often the configuration is loaded meanwhile.
func TestAlerts(t *testing.T) {
	t.Parallel()
	inbox := newWebhookInbox(t)
	inbox.fail = 1
	sink := &mailertest.Sink{Keep: true}
	host, port := sink.Listen(t)
	script := &mailertest.Script{Answers: map[string][]string{"MAIL": {"550 5.7.60 you may not send"}}}
	bulkHost, bulkPort := script.Listen(t)
	const bulkKey = "another-key-with-24-characters"
	s := startOAuthSite(t, fmt.Sprintf(`
		tenant bulk {
			server plaintext://%s
			auth none
			from bulk@example.com
			brake 1
		}
		key bulk %s bulk
		tenant ops {
			server plaintext://%s
			auth none
			from alerts@example.net
		}
		alert {
			webhook %s/hook %s
			mail ops admin@example.net night@example.org
			after 2s
		}
`, net.JoinHostPort(bulkHost, fmt.Sprint(bulkPort)), bulkKey, net.JoinHostPort(host, fmt.Sprint(port)), inbox.URL, inbox.secret()))
	const well = "This is well again. There is nothing to do."
	var want, mails []string
	expect := func(line, subject, text string) {
		t.Helper()
		want = append(want, line)
		mails = append(mails, "[oauth_mail] "+subject+"\n"+text)
		await(t, line, func() bool { return len(inbox.told()) >= len(want) })
		if diff := cmp.Diff(want, inbox.told()); diff != "" {
			t.Fatalf("-want +got:\n%s\n%s", diff, grepLines(s.output.String(), "alert"))
		}
	}
	signIn := func() {
		t.Helper()
		_, refreshToken := s.idp.Issue(mailbox, "smtp.send offline_access")
		if got := s.adminBody("POST", "/accounts/idp/"+mailbox+"/import", `{"refresh_token":"`+refreshToken+`"}`); got.status != 200 {
			t.Fatal(got.body)
		}
	}
	signIn() // that nobody had signed in yet is no alert

	// The person takes the permission away.
	s.idp.End(mailbox)
	if got := s.admin("POST", "/accounts/idp/"+mailbox+"/refresh"); got.status != 409 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	expect("alert.raised sign_in_needed", "sign in needed: account idp/"+mailbox, "The provider has ended the sign-in, or does not accept what was presented.")
	s.mustReload("respond 404", "respond 405")
	signIn()
	expect("alert.recovered sign_in_needed", "recovered: sign in needed: account idp/"+mailbox, well)

	// The provider has trouble.
	for range 3 {
		s.idp.Next(tokenstest.Status(503, ""))
	}
	if got := s.admin("POST", "/accounts/idp/"+mailbox+"/refresh"); got.status != 502 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	expect("alert.raised refresh_failing", "refresh failing: account idp/"+mailbox, "The token cannot be refreshed.")
	await(t, "the provider is well again", func() bool { return s.admin("POST", "/accounts/idp/"+mailbox+"/refresh").status == 200 })
	expect("alert.recovered refresh_failing", "recovered: refresh failing: account idp/"+mailbox, well)

	// A secret is about to end, and is replaced.
	soon := time.Now().UTC().Add(5 * day).Format(time.DateOnly)
	s.mustReload("client_secret "+clientSecret+"\n\t\t\tscopes smtp.send openid", "client_secret "+clientSecret+"\n\t\t\tclient_secret_expires "+soon+"\n\t\t\tscopes smtp.send openid")
	expect("alert.raised secret_expiring", "secret expiring: provider idp, client_secret", "It expires in 4 days, on "+soon+".")
	s.mustReload()
	expect("alert.recovered secret_expiring", "recovered: secret expiring: provider idp, client_secret", well)

	// A message waits.
	s.admin("POST", "/outbox/tenants/default/pause")
	if got := s.send(`{"to":"a@example.net","subject":"x","text":"x"}`); got.status != 200 {
		t.Fatal(got.body)
	}
	expect("alert.raised queue_old", "queue old: tenant default", "1 messages wait")
	s.admin("POST", "/outbox/tenants/default/resume")
	expect("alert.recovered queue_old", "recovered: queue old: tenant default", well)

	// The mail server takes nothing from a mailbox any more.
	if got := s.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + bulkKey, "Content-Type": "application/json"},
		`{"to":"a@example.net","subject":"x","text":"x"}`); got.status != 422 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	expect("alert.raised sending_stopped", "sending stopped: tenant bulk", "The server refused the sender.")
	s.admin("POST", "/outbox/tenants/bulk/resume")
	expect("alert.recovered sending_stopped", "recovered: sending stopped: tenant bulk", well)
	if len(inbox.wrong) > 0 {
		t.Errorf("wrong signatures or bodies: %q", inbox.wrong)
	}
	await(t, "each was told by mail, too", func() bool { return len(sink.Messages()) >= len(mails) })
	await(t, "no mail waits", func() bool {
		var v struct{ Tenants []struct{ Waiting int } }
		got := s.admin("GET", "/status")
		if err := json.Unmarshal([]byte(got.body), &v); err != nil || len(v.Tenants) != 3 {
			t.Fatalf("%v: %s", err, got.body)
		}
		return v.Tenants[0].Waiting+v.Tenants[1].Waiting+v.Tenants[2].Waiting == 0
	})
	var got []string
	for _, m := range sink.Messages() {
		got = append(got, alertMail(t, m))
	}
	slices.Sort(mails) // mails may overtake each other
	slices.Sort(got)
	if diff := cmp.Diff(mails, got); diff != "" {
		t.Errorf("mails: -want +got:\n%s", diff)
	}
	if text := s.output.String(); strings.Contains(text, inbox.secret()) || strings.Contains(text, "/hook") {
		t.Error("the webhook's secret or path is in the log")
	}
}

// TestSendAsDenied: a mailbox that may not send as an address is told once, and once
// that it may.
func TestSendAsDenied(t *testing.T) {
	t.Parallel()
	const refusal = "554 5.2.252 SendAsDenied; sender@example.com not allowed to send as other@example.com; STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied"
	script := &mailertest.Script{Answers: map[string][]string{mailertest.Content: {refusal, refusal, ""}, "BDAT": {refusal, refusal, ""}}}
	b := newBench(t, func(s *snapshot) {
		d := s.tenants["default"]
		script.TLS, d.mail.Server.RootCAs = mailertest.NewCertificateFor(t, "smtp.office365.com")
		d.mail.Server.Host, d.mail.Server.Dial = "smtp.office365.com", script.Dial
		d.auth, d.from = Auth{Method: "none"}, mailer.Address{Local: "sender", Domain: "example.com"}
	})
	b.app.mailer = &mailer.Mailer{Lookup: b.app.registry.lookup, Hooks: b.app.hooks()}
	send := func() {
		m := testMail(mailer.Address{Local: "sender", Domain: "example.com"}, mailer.Address{Local: "a", Domain: "example.net"}, "default", "me", time.Now())
		content, err := m.Compose()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = b.app.mailer.Send(t.Context(), mailer.Submission{
			ID: mailer.NewID(), MessageID: "<x@example.com>", Tenant: "default", From: m.From, Envelope: m.Envelope(), Content: content,
		})
	}
	var book alertBook
	look := func(want ...string) {
		t.Helper()
		var got []string
		for _, v := range book.look(denials.troubles(b.app.registry.load(), diagnosis.English), time.Minute, time.Now()) {
			got = append(got, fmt.Sprint(v.Type, " ", v.Data.Kind, " ", v.Data.Sender))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s\n%s", diff, b.log.String())
		}
	}
	look()
	send()
	look("alert.raised send_as_denied sender@example.com")
	send()
	look()
	send()
	look("alert.recovered send_as_denied sender@example.com")
	look()
}

// TestAlertBook: when a trouble is told.
func TestAlertBook(t *testing.T) {
	t.Parallel()
	begin := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	signIn := trouble{Kind: troubleSignIn, Failure: true, Provider: "p", User: "u", Since: &begin}
	failing := trouble{Kind: troubleRefresh, Provider: "p", User: "u", Since: &begin}
	worse := failing
	worse.Failure = true
	never := trouble{Kind: troubleSignIn, Failure: true, Provider: "p", User: "new"}
	unread := trouble{Kind: troubleStorage, Failure: true, Provider: "p", User: "u"}
	stopped := trouble{Kind: troubleStopped, Failure: true, Tenant: "t"}
	broken := trouble{Kind: troubleOutbox, Failure: true}
	type step struct {
		after time.Duration
		list  []trouble
		want  string
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"reminded daily", []step{
			{0, []trouble{signIn}, "alert.raised sign_in_needed"},
			{time.Hour, []trouble{signIn}, ""},
			{24 * time.Hour, []trouble{signIn}, "alert.reminder sign_in_needed"},
			{time.Hour, []trouble{signIn}, ""},
			{time.Hour, nil, "alert.recovered sign_in_needed"},
			{time.Hour, []trouble{signIn}, "alert.raised sign_in_needed"},
		}},
		{"too short to be told", []step{
			{0, []trouble{failing}, ""},
			{14 * time.Minute, []trouble{failing}, ""},
			{time.Second, nil, ""},
			{time.Hour, []trouble{failing}, ""},
			{15 * time.Minute, []trouble{failing}, "alert.raised refresh_failing"},
			{time.Minute, []trouble{worse}, "alert.raised refresh_failing"},
			{time.Minute, []trouble{failing}, ""},
			{time.Minute, nil, "alert.recovered refresh_failing"},
		}},
		{"nobody has signed in yet, or somebody has paused it", []step{
			{0, []trouble{never, {Kind: troublePaused, Tenant: "t"}}, ""},
			{48 * time.Hour, []trouble{never}, ""},
			{time.Hour, nil, ""},
		}},
		{"what cannot be seen is not gone", []step{
			{0, []trouble{signIn, stopped}, "alert.raised sign_in_needed, alert.raised sending_stopped"},
			{time.Second, []trouble{unread, broken}, "alert.raised outbox_full"},
			{time.Second, []trouble{signIn, stopped}, "alert.recovered outbox_full"},
			{time.Second, nil, "alert.recovered sign_in_needed, alert.recovered sending_stopped"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var book alertBook
			now := begin
			for i, s := range tt.steps {
				now = now.Add(s.after)
				var got []string
				for _, v := range book.look(s.list, 15*time.Minute, now) {
					got = append(got, fmt.Sprint(v.Type, " ", v.Data.Kind))
				}
				if diff := cmp.Diff(s.want, strings.Join(got, ", ")); diff != "" {
					t.Errorf("step %d: -want +got:\n%s", i, diff)
				}
			}
		})
	}
}
