package diagnosis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode"
)

// sample is a line of testdata/replies.txt.
type sample struct {
	line  string
	row   int // of the table in the source; 0 for none
	query Query
	want  string
}

// failures are the errors that a client gets, as deep as it gets them.
func failures() map[string]error {
	dial := func(err error) error {
		return fmt.Errorf("dialing: %w", &net.OpError{Op: "dial", Net: "tcp", Err: err})
	}
	verify := func(err error) error {
		return fmt.Errorf("handshake: %w", &tls.CertificateVerificationError{Err: err})
	}
	return map[string]error{
		"dns_not_found":               dial(&net.DNSError{Err: "no such host", Name: "smtp-emea.outlook.com", IsNotFound: true}),
		"dns":                         dial(&net.DNSError{Err: "i/o timeout", Name: "smtp.example.com", IsTimeout: true}),
		"refused":                     dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)),
		"unreachable":                 dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)),
		"timeout":                     dial(context.DeadlineExceeded),
		"deadline":                    &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded},
		"canceled":                    fmt.Errorf("waiting: %w", context.Canceled),
		"closed":                      io.EOF,
		"reset":                       &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)},
		"tls_record":                  fmt.Errorf("handshake: %w", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}),
		"unknown_authority":           verify(x509.UnknownAuthorityError{}),
		"wrong_name":                  verify(x509.HostnameError{Certificate: new(x509.Certificate), Host: "smtp.example.com"}),
		"certificate_expired":         verify(x509.CertificateInvalidError{Cert: new(x509.Certificate), Reason: x509.Expired}),
		"certificate":                 verify(x509.CertificateInvalidError{Cert: new(x509.Certificate), Reason: x509.NotAuthorizedToSign}),
		"tls_version":                 errors.New("tls: server selected unsupported protocol version 301"),
		"tls_alert":                   &net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")},
		"other":                       errors.New("what is this"),
		"MailboxNotEnabledForRESTAPI": nil, // said of an account, by no mail server
	}
}

func samples(t testing.TB) []sample {
	t.Helper()
	data, err := os.ReadFile("testdata/replies.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []sample
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 6 {
			t.Fatalf("%d fields in %q", len(f), line)
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		s := sample{line: line, want: f[5]}
		if f[0] != "-" {
			if s.row, err = strconv.Atoi(f[0]); err != nil {
				t.Fatal(err)
			}
		}
		s.query = Query{Vendor: VendorOf(f[1]), Grant: Grant(f[2]), Stage: f[3]}
		if name, ok := strings.CutPrefix(f[4], "cause: "); ok {
			if s.query.Err, ok = failures()[name]; !ok {
				t.Fatalf("no such cause in %q", line)
			}
			if s.query.Err == nil {
				s.query.Text = name
			}
		} else {
			s.query.Code, s.query.Enhanced, s.query.Text = parseReply(t, f[4])
		}
		out = append(out, s)
	}
	return out
}

func parseReply(t testing.TB, reply string) (code int, enhanced [3]int, text string) {
	t.Helper()
	if _, err := fmt.Sscanf(reply, "%d", &code); err != nil {
		t.Fatalf("%q: %v", reply, err)
	}
	text = reply[4:]
	word, rest, _ := strings.Cut(text, " ")
	if n, _ := fmt.Sscanf(word, "%d.%d.%d", &enhanced[0], &enhanced[1], &enhanced[2]); n == 3 {
		text = rest
	} else {
		enhanced = [3]int{}
	}
	return code, enhanced, text
}

// rowsOfSource is the number of rows of the table that this one follows.
const rowsOfSource = 115

// TestFind gives each row of the source a reply, in its context.
func TestFind(t *testing.T) {
	t.Parallel()
	var seen [rowsOfSource + 1]bool
	for _, s := range samples(t) {
		seen[s.row] = true
		if got := Find(s.query); got.ID != s.want {
			t.Errorf("%s:\n\tfound %s", s.line, got.ID)
		}
	}
	for n, ok := range seen {
		if !ok && n > 0 {
			t.Errorf("row %d of the source has no reply here", n)
		}
	}
}

// TestFindWithoutReply is for failures in which no server replied, or our own
// word says what is wrong.
func TestFindWithoutReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stage, cause, fault string
		want                string
	}{
		{"dns", "dns_not_found", "", "general.dns_not_found"},
		{"dns", "dns", "", "general.dns_failed"},
		{"connect", "refused", "", "general.connection_refused"},
		{"connect", "timeout", "", "general.connection_timed_out"},
		{"connect", "deadline", "", "general.connection_timed_out"},
		{"connect", "unreachable", "", "general.unreachable"},
		{"connect", "other", "", "general.connect_failed"},
		{"connect", "refused", "proxy_unreachable", "general.proxy_unreachable"},
		{"connect", "timeout", "proxy_unreachable", "general.proxy_unreachable"},
		{"connect", "dns_not_found", "proxy_unreachable", "general.proxy_unreachable"},
		{"connect", "unknown_authority", "proxy_tls", "general.proxy_tls"},
		{"connect", "other", "proxy_authentication", "general.proxy_auth"},
		{"connect", "other", "proxy_forbidden", "general.proxy_refused"},
		{"connect", "other", "proxy_wrong_kind", "general.proxy_wrong_kind"},
		{"connect", "other", "proxy_no_route", "general.proxy_failed"},
		{"connect", "other", "proxy_trouble", "general.proxy_failed"},
		{"tls", "tls_record", "", "general.not_tls"},
		{"tls", "unknown_authority", "", "general.unknown_authority"},
		{"tls", "wrong_name", "", "general.wrong_name"},
		{"tls", "certificate_expired", "", "general.certificate_expired"},
		{"tls", "certificate", "", "general.certificate_invalid"},
		{"tls", "tls_version", "", "general.tls_version"},
		{"tls", "tls_alert", "", "general.tls_alert"},
		{"tls", "deadline", "", "general.tls_failed"},
		{"tls", "other", "", "general.tls_failed"},
		{"greeting", "deadline", "", "general.greeting_timed_out"},
		{"greeting", "other", "implicit_tls", "general.implicit_tls"},
		{"greeting", "closed", "", "general.greeting_closed"},
		{"greeting", "other", "", "general.not_smtp"},
		{"starttls", "other", "starttls_not_offered", "general.starttls_not_offered"},
		{"starttls", "other", "", "general.starttls_failed"},
		{"token", "other", "", "general.no_token"},
		{"token", "canceled", "", "general.token_unavailable"},
		{"token", "unknown_authority", "", "general.no_token"}, // not the mail server's certificate
		{"auth", "other", "auth_not_offered", "general.auth_not_offered"},
		{"auth", "other", "mechanism_not_offered", "general.mechanism_not_offered"},
		{"auth", "other", "", "general.sign_in_failed"},
		{"auth", "closed", "", "general.connection_lost"},
		{"mail", "reset", "", "general.connection_lost"},
		{"mail", "deadline", "", "general.stalled"},
		{"mail", "canceled", "", "general.canceled"},
		{"mail", "", "over_upstream_size", "general.message_too_large"},
		{"mail", "", "smtputf8_required", "general.smtputf8_required"},
		{"mail", "", "requiretls_not_offered", "general.requiretls_not_offered"},
		{"final", "closed", "", "general.outcome_unknown"},
		{"final", "deadline", "", "general.outcome_unknown"},
		{"final", "other", "", "general.outcome_unknown"},
		{"limit", "canceled", "", "general.mailbox_busy"},
		{"limit", "timeout", "", "general.mailbox_busy"},
		{"limit", "", "mailbox_busy", "general.mailbox_busy"},
		{"limit", "timeout", "mailbox_rate", "general.mailbox_rate"},
		{"limit", "other", "mailbox_paused", "general.mailbox_paused"},
		{"limit", "timeout", "mailbox_paused", "general.mailbox_paused"},
		{"limit", "other", "mailbox_recipients", "general.mailbox_day_used_up"},
		{"limit", "other", "over_recipients_per_day", "general.mailbox_day_too_small"},
		{"accept", "other", "", "general.invalid_message"},
		{"accept", "other", "outbox_full", "general.outbox_full"},
		{"accept", "other", "outbox_unavailable", "general.outbox_unavailable"},
		{"accept", "other", "tenant_gone", "general.tenant_gone"},
		{"accept", "other", "tenant_paused", "general.tenant_paused"},
		{"accept", "other", "canceled", "general.message_canceled"},
		{"accept", "other", "expired", "general.expired"},
		{"connect", "refused", "expired", "general.expired"},
		{"final", "other", "interrupted", "general.interrupted"},
		{"", "", "", "general.unknown"},
		{"", "other", "nonsense", "general.unknown"},
	} {
		err, ok := failures()[tt.cause]
		if !ok && tt.cause != "" {
			t.Fatalf("no such cause: %s", tt.cause)
		}
		if got := Find(Query{Stage: tt.stage, Fault: tt.fault, Err: err}); got.ID != tt.want {
			t.Errorf("%s, %s %s: found %s, want %s", tt.stage, tt.cause, tt.fault, got.ID, tt.want)
		}
	}
}

type passing struct{ error }

func (passing) Temporary() bool { return true }

func TestFindTemporaryToken(t *testing.T) {
	t.Parallel()
	if got := Find(Query{Stage: "token", Err: fmt.Errorf("token: %w", passing{errors.New("no answer")})}); got.ID != "general.token_unavailable" {
		t.Errorf("found %s", got.ID)
	}
}

// TestFindTellsTwinsApart is for replies that mean something else for another
// grant, mechanism, stage or status.
func TestFindTellsTwinsApart(t *testing.T) {
	t.Parallel()
	exchange := Query{Vendor: Exchange, Stage: "auth", Code: 535, Enhanced: [3]int{5, 7, 3}, Text: "Authentication unsuccessful"}
	gmail := Query{Vendor: Gmail, Stage: "auth", Code: 535, Enhanced: [3]int{5, 7, 8}, Text: "Username and Password not accepted."}
	full := Query{Stage: "rcpt", Code: 450, Enhanced: [3]int{4, 2, 0}, Text: "later"}
	ended := Query{Stage: "auth", Code: 535, Text: "no", Grant: GrantDelegated}
	starttls := Query{Stage: "mail", Code: 530, Text: "Must issue a STARTTLS command first"}
	for _, tt := range []struct {
		name   string
		query  Query
		change func(*Query)
		want   string
	}{
		{"delegated", exchange, func(q *Query) { q.Grant = GrantDelegated }, "exchange.token_refused"},
		{"app", exchange, func(q *Query) { q.Grant = GrantApp }, "exchange.app_token_refused"},
		{"password", exchange, func(q *Query) { q.Grant = GrantPassword }, "exchange.password_refused"},
		{"mechanism of tokens", exchange, func(q *Query) { q.Mechanism = "xoauth2" }, "exchange.token_refused"},
		{"mechanism of passwords", exchange, func(q *Query) { q.Mechanism = "LOGIN" }, "exchange.password_refused"},
		{"nothing known", exchange, func(*Query) {}, "general.auth_refused"},
		{"Outlook.com", exchange, func(q *Query) { q.Vendor, q.Grant = Outlook, GrantDelegated }, "exchange.token_refused"},
		{"High Volume Email", Query{Vendor: HVE, Stage: "rcpt", Code: 550, Enhanced: [3]int{5, 1, 10}}, func(*Query) {}, "exchange.recipient_not_found"},
		{"Workspace relay", starttls, func(q *Query) { q.Vendor = WorkspaceRelay }, "gmail.starttls_required"},
		{"Gmail, token", gmail, func(q *Query) { q.Mechanism = "OAUTHBEARER" }, "gmail.token_refused"},
		{"Gmail, password", gmail, func(q *Query) { q.Mechanism = "PLAIN" }, "gmail.password_refused"},
		{"at RCPT", full, func(*Query) {}, "general.recipient_later"},
		{"after the content", full, func(q *Query) { q.Stage = "final" }, "general.throttled"},
		{"status", ended, func(q *Query) { q.Status = "Invalid_Token" }, "general.token_ended"},
		{"no status", ended, func(*Query) {}, "general.token_refused"},
		{"STARTTLS, anybody", starttls, func(*Query) {}, "general.starttls_required"},
		{"STARTTLS, Exchange", starttls, func(q *Query) { q.Vendor = Exchange }, "exchange.starttls_required"},
		{"STARTTLS, Gmail", starttls, func(q *Query) { q.Vendor = Gmail }, "gmail.starttls_required"},
		{"STARTTLS, Zoho", starttls, func(q *Query) { q.Vendor = Zoho }, "zoho.starttls_required"},
	} {
		tt.change(&tt.query)
		if got := Find(tt.query); got.ID != tt.want {
			t.Errorf("%s: found %s, want %s", tt.name, got.ID, tt.want)
		}
	}
}

// TestFindStaysAtHome gives replies of one vendor that are not unmistakable to
// servers of others.
func TestFindStaysAtHome(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		vendor, _, _ := strings.Cut(s.want, ".")
		if s.query.Err != nil || s.query.Code == 0 || vendor == "general" {
			continue
		}
		for _, other := range []Vendor{"", Exchange, Gmail, Yahoo, Fastmail, Zoho, SES, SendGrid, Mailgun, Postmark, Brevo} {
			q := s.query
			q.Vendor = other
			got := Find(q)
			i := slices.IndexFunc(table(), func(r row) bool { return r.ID == got.ID })
			r := table()[i]
			mine := len(r.Vendors) == 0 || slices.Contains(r.Vendors, other)
			anywhere := slices.ContainsFunc(r.Match, func(m match) bool { return m.Anywhere })
			if !mine && !anywhere {
				t.Errorf("at a server of %q: %s\n\tfound %s", other, s.line, got.ID)
			}
		}
	}
}

// TestFindLeavesCodesAtHome: an enhanced code alone does not tell whose server
// it is, so nobody but the vendor's customers gets the vendor's commands.
func TestFindLeavesCodesAtHome(t *testing.T) {
	t.Parallel()
	for _, r := range table() {
		for _, m := range r.Match {
			for _, e := range m.enhanced {
				for _, stage := range []string{"mail", "rcpt", "final"} {
					q := Query{Stage: stage, Code: 100*e[0][0] + 50, Enhanced: [3]int{e[0][0], e[1][0], e[2][0]}, Text: "No, thank you."}
					if d := Find(q); !strings.HasPrefix(d.ID, "general.") {
						t.Errorf("%s, %d %v: found %s", stage, q.Code, q.Enhanced, d.ID)
					}
				}
			}
		}
	}
}

// TestFindSlowsDownForUsOnly: what a stranger's server says, passed on by ours,
// does not pause a mailbox.
func TestFindSlowsDownForUsOnly(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		if s.query.Code < 500 {
			continue
		}
		for _, host := range []Vendor{"", s.query.Vendor} {
			atRcpt := s.query
			atRcpt.Vendor, atRcpt.Stage = host, "rcpt"
			passedOn := s.query
			passedOn.Vendor, passedOn.Stage, passedOn.Code, passedOn.Enhanced = host, "final", 554, [3]int{5, 0, 0}
			passedOn.Text = fmt.Sprintf("host mx.example.org[192.0.2.1] said: %d %s", s.query.Code, s.query.Text)
			for _, q := range []Query{atRcpt, passedOn} {
				if got := Find(q); got.Class == Throttle || q.Stage == "rcpt" && got.Class == Temporary {
					t.Errorf("at %q, %s: %d %v %s: found %s", q.Vendor, q.Stage, q.Code, q.Enhanced, q.Text, got.ID)
				}
			}
		}
	}
	for _, stage := range []string{"mail", "rcpt", "data", "final"} {
		for _, text := range []string{
			"quota exceeded", "Submission quota exceeded", "mailbox quota exceeded", "Daily user sending limit exceeded", "rate limit exceeded",
			"daily limit exceeded", "tenant external recipient rate limit", "SubmissionQuotaExceeded", "too many messages, slow down",
		} {
			for _, enhanced := range [][3]int{{}, {5, 7, 1}, {5, 1, 1}} {
				if got := Find(Query{Stage: stage, Code: 550, Enhanced: enhanced, Text: text}); got.Class != Permanent && got.Class != Authorization {
					t.Errorf("%s, %v %s: found %s", stage, enhanced, text, got.ID)
				}
			}
		}
	}
	for _, text := range []string{"4.2.2 quota exceeded", "4.2.1 recipient's rate limit exceeded", "please slow down"} {
		if got := Find(Query{Stage: "rcpt", Code: 450, Text: text}); got.Class != Temporary {
			t.Errorf("%s: found %s", text, got.ID)
		}
	}
	for _, r := range table() {
		for _, m := range r.Match {
			if r.Class != Throttle && r.Class != Temporary || len(m.Codes) == 0 || m.Codes[0][0] != '5' {
				continue
			}
			if len(m.Stages) == 0 || slices.Contains(m.Stages, "rcpt") {
				t.Errorf("%s: a 5yz reply that leaves hope has stages without rcpt", r.ID)
			}
			if r.Class == Throttle && (len(m.Enhanced) == 0 || len(m.Text) == 0) {
				t.Errorf("%s: a 5yz reply that slows down has an enhanced code and text", r.ID)
			}
		}
	}
}

// promises say that something sends again, in small letters. Whether it does
// depends on the program that sends.
var promises = map[Language][]string{
	English: {
		"tried again", "tried later", "is tried", "are tried", "be tried", "retried", "is sent again", "are sent again", "resent", "next try",
		"goes on by itself", "again by itself", "again by themselves", "sending goes on", "automatically",
	},
	Japanese: {"再試行", "自動的に再", "自動で再", "自動的に送", "再開", "再送され", "再送します", "送信を続けます", "次の試行"},
}

// TestTextsPromiseNothing holds the texts to what is true with an outbox and
// without one.
func TestTextsPromiseNothing(t *testing.T) {
	t.Parallel()
	for _, d := range All() {
		for l, phrases := range promises {
			text := d.In(l)
			for _, s := range append([]string{text.Meaning}, text.Do...) {
				for _, phrase := range phrases {
					if strings.Contains(strings.ToLower(s), phrase) {
						t.Errorf("%s: %q promises: %s", d.ID, phrase, s)
					}
				}
			}
		}
	}
	for _, phrase := range promises[English] {
		if strings.Contains(page(), phrase) {
			t.Errorf("the page promises: %q", phrase)
		}
	}
}

// TestFindUnknown holds every stage and class to a general row that says
// something, whatever the server's words and whoever it is.
func TestFindUnknown(t *testing.T) {
	t.Parallel()
	for _, vendor := range []Vendor{"", Exchange, Gmail} {
		for _, stage := range stages {
			for _, code := range []int{0, 250, 421, 450, 451, 500, 550, 554} {
				d := Find(Query{Vendor: vendor, Stage: stage, Code: code, Text: "the moon is in the wrong house"})
				if !strings.HasPrefix(d.ID, "general.") || d.ID == "general.unknown" && stage != "mail" && stage != "rcpt" && stage != "data" && stage != "ehlo" && stage != "rset" {
					t.Errorf("%q, %s, %d: found %s", vendor, stage, code, d.ID)
				}
				switch {
				case code/100 == 4 && d.Class != Temporary && d.Class != Throttle,
					code/100 == 5 && d.Class != Permanent && d.Class != Authorization:
					t.Errorf("%s, %d: found %s of class %s", stage, code, d.ID, d.Class)
				}
			}
		}
	}
}

// TestRows holds the texts to what pages and people expect of them.
func TestRows(t *testing.T) {
	t.Parallel()
	ids := make(map[string]bool)
	found := make(map[string]bool)
	for _, s := range samples(t) {
		found[s.want] = true
	}
	for _, d := range All() {
		if ids[d.ID] {
			t.Errorf("%s: comes twice", d.ID)
		}
		ids[d.ID] = true
		if vendor, _, _ := strings.Cut(d.ID, "."); vendor != "general" && !found[d.ID] {
			t.Errorf("%s: no reply in testdata finds it", d.ID)
		}
		en, ja := d.In(English), d.In(Japanese)
		for l, text := range map[Language]Text{English: en, Japanese: ja} {
			for _, s := range append([]string{text.Meaning}, text.Do...) {
				switch {
				case len(strings.TrimSpace(s)) < 5, s != strings.TrimSpace(s):
					t.Errorf("%s, %s: %q is no sentence", d.ID, l, s)
				case strings.Contains(s, "TODO"), strings.Contains(s, "  "), strings.Count(s, "`")%2 != 0:
					t.Errorf("%s, %s: %q is unfinished", d.ID, l, s)
				case !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "。") && !strings.HasSuffix(s, "`"):
					t.Errorf("%s, %s: %q does not end", d.ID, l, s)
				case (l == Japanese) != strings.ContainsFunc(s, isKana):
					t.Errorf("%s, %s: %q is in another language", d.ID, l, s)
				}
			}
			if len(text.Do) == 0 {
				t.Errorf("%s, %s: no steps", d.ID, l)
			}
		}
		if len(en.Do) != len(ja.Do) {
			t.Errorf("%s: %d steps in English, %d in Japanese", d.ID, len(en.Do), len(ja.Do))
			continue
		}
		for i := range en.Do {
			if a, b := commands(en.Do[i]), commands(ja.Do[i]); !slices.Equal(a, b) {
				t.Errorf("%s, step %d: commands differ:\n\t%q\n\t%q", d.ID, i+1, a, b)
			}
		}
		if a, b := commands(en.Meaning), commands(ja.Meaning); !slices.Equal(a, b) {
			t.Errorf("%s: words between backticks differ: %q, %q", d.ID, a, b)
		}
	}
	for id := range found {
		if !ids[id] {
			t.Errorf("%s: is in testdata, but no row", id)
		}
	}
}

func isKana(r rune) bool { return unicode.In(r, unicode.Hiragana, unicode.Katakana) }

// commands are what stands between backticks, sorted.
func commands(s string) []string {
	var out []string
	for i, part := range strings.Split(s, "`") {
		if i%2 == 1 {
			out = append(out, part)
		}
	}
	slices.Sort(out)
	return out
}

// TestCommands holds the table to the commands that the source gives.
func TestCommands(t *testing.T) {
	t.Parallel()
	for id, command := range map[string]string{
		"exchange.smtp_auth_disabled_tenant":  "Set-TransportConfig -SmtpClientAuthenticationDisabled $false",
		"exchange.smtp_auth_disabled_mailbox": "Set-CASMailbox -Identity user@example.com -SmtpClientAuthenticationDisabled $false",
		"exchange.basic_auth_disabled":        "Get-AuthenticationPolicy",
		"exchange.app_token_refused":          "Get-ServicePrincipal",
		"exchange.password_refused":           "Get-CASMailbox -Identity user@example.com",
		"exchange.mailbox_logon_failure":      "Add-MailboxPermission -Identity user@example.com -User <object id> -AccessRights FullAccess",
		"exchange.send_as_denied":             "Add-RecipientPermission -Identity from@example.com -AccessRights SendAs -Trustee user@example.com",
		"exchange.no_send_as_right":           "Set-OrganizationConfig -SendFromAliasEnabled $true",
		"exchange.too_many_recipients":        "Set-Mailbox -Identity user@example.com -RecipientLimits 1000",
		"hve.bad_token_data":                  "Add-HVEAppAccess",
	} {
		all := All()
		i := slices.IndexFunc(all, func(d Diagnosis) bool { return d.ID == id })
		if i < 0 || !slices.Contains(commands(strings.Join(all[i].In(English).Do, " ")), command) {
			t.Errorf("%s: %s is not there", id, command)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	const texts = `"en": {"meaning": "a", "do": ["b"]}, "ja": {"meaning": "a", "do": ["b"]}`
	row := func(what string) string { return `[{` + what + `}]` }
	good := `"id": "a.b", "class": "permanent", "who": "nobody", ` + texts
	if _, err := parse([]byte(row(good + `, "match": [{}]`))); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"not JSON":           `[{`,
		"something behind":   `[] x`,
		"unknown member":     row(good + `, "match": [{}], "note": "x"`),
		"unknown condition":  row(good + `, "match": [{"code": ["535"]}]`),
		"no match":           row(good),
		"no id":              row(`"class": "permanent", "who": "nobody", "match": [{}], ` + texts),
		"unknown class":      row(strings.Replace(good, "permanent", "forever", 1) + `, "match": [{}]`),
		"unknown person":     row(strings.Replace(good, `"nobody"`, `"god"`, 1) + `, "match": [{}]`),
		"no Japanese":        row(`"id": "a.b", "class": "permanent", "who": "nobody", "match": [{}], "en": {"meaning": "a", "do": ["b"]}`),
		"unknown vendor":     row(good + `, "match": [{}], "vendors": ["exchagne"]`),
		"unknown stage":      row(good + `, "match": [{"stages": ["authentication"]}]`),
		"unknown grant":      row(good + `, "match": [{"grants": ["token"]}]`),
		"unknown cause":      row(good + `, "match": [{"causes": ["weather"]}]`),
		"bad code":           row(good + `, "match": [{"codes": ["53"]}]`),
		"bad enhanced code":  row(good + `, "match": [{"enhanced": ["5.7"]}]`),
		"range backwards":    row(good + `, "match": [{"enhanced": ["5.7.9-1"]}]`),
		"capitals":           row(good + `, "match": [{"text": ["Denied"]}]`),
		"text of three":      row(good + `, "match": [{"text": ["bad"]}]`),
		"code anywhere":      row(good + `, "match": [{"anywhere": true, "enhanced": ["5.7.60"]}]`),
		"part of one letter": row(good + `, "match": [{"text": ["denied … x"]}]`),
	} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestEnhanced(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		set   string
		code  [3]int
		has   bool
		exact bool
	}{
		{"5.7.1", [3]int{5, 7, 1}, true, true},
		{"5.7.1", [3]int{5, 7, 10}, false, true},
		{"5.7.606-649", [3]int{5, 7, 606}, true, false},
		{"5.7.606-649", [3]int{5, 7, 649}, true, false},
		{"5.7.606-649", [3]int{5, 7, 605}, false, false},
		{"5.7.606-649", [3]int{5, 7, 650}, false, false},
		{"*.7.*", [3]int{4, 7, 0}, true, false},
		{"*.7.*", [3]int{4, 2, 7}, false, false},
	} {
		e, ok := parseEnhanced(tt.set)
		if !ok || e.has(tt.code) != tt.has || e.exact() != tt.exact {
			t.Errorf("%s, %v: read %v, has %v, exact %v", tt.set, tt.code, ok, e.has(tt.code), e.exact())
		}
	}
}

func TestVendorOf(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]Vendor{
		"smtp.office365.com":                      Exchange,
		"SMTP.Office365.COM.":                     Exchange,
		"smtp-legacy.office365.com":               Exchange,
		"outlook-dod.office365.us":                Exchange,
		"smtp.partner.outlook.cn":                 Exchange,
		"contoso-com.mail.protection.outlook.com": Exchange,
		"smtp-hve.office365.com":                  HVE,
		"smtp-mail.outlook.com":                   Outlook,
		"smtp.gmail.com":                          Gmail,
		"smtp-relay.gmail.com":                    WorkspaceRelay,
		"smtp.mail.yahoo.com":                     Yahoo,
		"smtp.aol.com":                            Yahoo,
		"smtp.fastmail.com":                       Fastmail,
		"smtppro.zoho.com.au":                     Zoho,
		"smtp.zeptomail.eu":                       Zoho,
		"email-smtp.ap-northeast-1.amazonaws.com": SES,
		"smtp.sendgrid.net":                       SendGrid,
		"smtp.eu.mailgun.org":                     Mailgun,
		"smtp-broadcasts.postmarkapp.com":         Postmark,
		"smtp-relay.brevo.com":                    Brevo,
		"ec2-203-0-113-9.compute-1.amazonaws.com": "",
		"smtp.gmail.com.evil.example":             "",
		"notgmail.com":                            "",
		"smtp.mail.yahoo.co.jp":                   "", // another company
		"mail.example.com":                        "",
		"192.0.2.1":                               "",
		"":                                        "",
	} {
		if got := VendorOf(host); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

func TestScore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b score
		want bool
	}{
		{score{2, 0}, score{1, 9}, true},
		{score{1, 9}, score{2, 0}, false},
		{score{1, 9}, score{1, 8}, true},
		{score{1, 8}, score{1, 9}, false},
		{score{1, 9}, score{1, 9}, false}, // the first stays
	} {
		if got := tt.a.above(tt.b); got != tt.want {
			t.Errorf("%v above %v: %v", tt.a, tt.b, got)
		}
	}
}

// TestInBound looks at no more of a text than is meant to be looked at.
func TestInBound(t *testing.T) {
	t.Parallel()
	words := "greylist"
	q := Query{Stage: "rcpt", Code: 450, Text: strings.Repeat("x", maxText-len(words)) + words}
	if got := Find(q); got.ID != "general.greylisted" {
		t.Errorf("at the end: found %s", got.ID)
	}
	q.Text = "x" + q.Text
	if got := Find(q); got.ID != "general.recipient_later" {
		t.Errorf("behind the end: found %s", got.ID)
	}
}

// TestImports keeps the package usable by all others.
func TestImports(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if !strings.HasSuffix(path, "/mailer/diagnosis") {
			t.Errorf("imports %s", path)
		}
	}
}

func FuzzFind(f *testing.F) {
	for _, s := range samples(f) {
		q := s.query
		f.Add(string(q.Vendor), string(q.Grant), "", q.Stage, q.Code, q.Enhanced[0], q.Enhanced[1], q.Enhanced[2], q.Text, "401", "")
	}
	f.Fuzz(func(t *testing.T, vendor, grant, mechanism, stage string, code, a, b, c int, text, status, fault string) {
		q := Query{
			Vendor: Vendor(vendor), Grant: Grant(grant), Mechanism: mechanism, Stage: stage,
			Code: code, Enhanced: [3]int{a, b, c}, Text: text, Status: status, Fault: fault, Err: errors.New(text),
		}
		d := Find(q)
		for _, l := range []Language{English, Japanese, "xx", ""} {
			if text := d.In(l); d.ID == "" || d.Class == "" || d.Who == "" || text.Meaning == "" || len(text.Do) == 0 {
				t.Errorf("%+v: %+v", q, d)
			}
		}
		q.Text = strings.ToUpper(text)
		if len(q.Text) == len(text) && strings.ToLower(q.Text) == strings.ToLower(text) {
			if other := Find(q); other.ID != d.ID {
				t.Errorf("%q: %s; in capitals %s", text, d.ID, other.ID)
			}
		}
	})
}

func BenchmarkFind(b *testing.B) {
	q := Query{
		Vendor: Exchange, Grant: GrantDelegated, Stage: "rcpt", Code: 550, Enhanced: [3]int{5, 1, 10},
		Text: "RESOLVER.ADR.RecipientNotFound; Recipient nobody@example.com not found by SMTP address lookup",
	}
	b.ReportAllocs()
	for b.Loop() {
		Find(q)
	}
}

func TestByID(t *testing.T) {
	t.Parallel()
	for _, want := range All() {
		if got, ok := ByID(want.ID); !ok || got != want {
			t.Errorf("%s: found %s", want.ID, got.ID)
		}
	}
	if got, ok := ByID("general.no_such_row"); ok || got.ID != "" {
		t.Errorf("found %s", got.ID)
	}
}
