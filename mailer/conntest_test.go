package mailer

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// outline is what was gone through: "dns", "-tls" for skipped, "!auth" for failed.
func outline(steps []Step) string {
	words := make([]string, 0, len(steps))
	for _, s := range steps {
		mark := ""
		switch {
		case s.Skipped != "":
			mark = "-"
		case s.Err != nil:
			mark = "!"
		}
		words = append(words, mark+string(s.Stage))
	}
	return strings.Join(words, " ")
}

// closedPort is a port of loopback that nothing listens at.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestBrokenSetups: the connection test names the stage and the cause of what is
// wrong, and goes no further.
func TestBrokenSetups(t *testing.T) {
	t.Parallel()
	const disabled = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information."
	tests := []struct {
		name string
		// change breaks the server and the settings for it.
		change func(t *testing.T, script *mailertest.Script, s *Server)
		source TokenSource
		stage  Stage
		kind   Kind
		code   string
		// diagnosis is the row of the table.
		diagnosis string
		says      []string
		want      string // outline
		facts     func(Facts) bool
	}{
		{
			name:   "no DNS",
			change: func(_ *testing.T, _ *mailertest.Script, s *Server) { s.Host = "no..such.host" },
			stage:  StageDNS, diagnosis: "general.dns_not_found", kind: KindTemporary, says: []string{"no such host"},
			want: "!dns -connect -greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset",
		},
		{
			name:   "closed port",
			change: func(t *testing.T, _ *mailertest.Script, s *Server) { s.Port = closedPort(t) },
			stage:  StageConnect, diagnosis: "general.connection_refused", kind: KindTemporary, says: []string{"connection refused"},
			want:  "dns !connect -greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset",
			facts: func(f Facts) bool { return slices.ContainsFunc(f.Failed, mentions("127.0.0.1")) },
		},
		{
			name:   "plain server",
			change: func(_ *testing.T, script *mailertest.Script, _ *Server) { script.TLS = nil },
			stage:  StageSTARTTLS, diagnosis: "general.starttls_not_offered", kind: KindConfig, code: "starttls_not_offered", says: []string{"does not offer STARTTLS"},
			want: "dns connect greeting ehlo !starttls -tls -ehlo -token -auth -mail -rset",
		},
		{
			name:   "TLS from the start at a port for STARTTLS",
			change: func(_ *testing.T, _ *mailertest.Script, s *Server) { s.Security = ImplicitTLS },
			stage:  StageTLS, diagnosis: "general.not_tls", kind: KindConfig, says: []string{"first record does not look like a TLS handshake"},
			want: "dns connect !tls -greeting -ehlo -token -auth -mail -rset",
		},
		{
			name: "STARTTLS at a port for TLS from the start",
			change: func(_ *testing.T, script *mailertest.Script, s *Server) {
				script.Implicit, s.Timeouts.Greeting = true, 300*time.Millisecond
			},
			stage: StageGreeting, diagnosis: "general.implicit_tls", kind: KindConfig, code: "implicit_tls", says: []string{"speaks TLS from the start", "smtps://"},
			want: "dns connect !greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset",
		},
		{
			name: "STARTTLS at a port for TLS from the start, and an authority that is not trusted",
			change: func(_ *testing.T, script *mailertest.Script, s *Server) {
				script.Implicit, s.Timeouts.Greeting, s.RootCAs = true, 300*time.Millisecond, x509.NewCertPool()
			},
			stage: StageGreeting, diagnosis: "general.implicit_tls", kind: KindConfig, code: "implicit_tls",
			want: "dns connect !greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset",
		},
		{
			name:   "bad CA",
			change: func(_ *testing.T, _ *mailertest.Script, s *Server) { s.RootCAs = x509.NewCertPool() },
			stage:  StageTLS, diagnosis: "general.unknown_authority", kind: KindConfig, says: []string{"certificate signed by unknown authority"},
			want:  "dns connect greeting ehlo starttls !tls -ehlo -token -auth -mail -rset",
			facts: func(f Facts) bool { return f.TLS.Issuer == "CN=mailertest" && len(f.TLS.Chain) == 0 },
		},
		{
			name: "wrong name",
			change: func(t *testing.T, script *mailertest.Script, s *Server) {
				script.TLS, s.RootCAs = mailertest.NewOtherCertificate(t, "other.example.com")
			},
			stage: StageTLS, diagnosis: "general.wrong_name", kind: KindConfig, says: []string{"certificate is valid for other.example.com, not localhost"},
			want:  "dns connect greeting ehlo starttls !tls -ehlo -token -auth -mail -rset",
			facts: func(f Facts) bool { return slices.Equal(f.TLS.Names, []string{"other.example.com"}) },
		},
		{
			name: "expired certificate",
			change: func(t *testing.T, script *mailertest.Script, s *Server) {
				script.TLS, s.RootCAs = mailertest.NewExpiredCertificate(t)
			},
			stage: StageTLS, diagnosis: "general.certificate_expired", kind: KindConfig, says: []string{"certificate has expired"},
			want:  "dns connect greeting ehlo starttls !tls -ehlo -token -auth -mail -rset",
			facts: func(f Facts) bool { return f.TLS.NotAfter.Year() == 1999 },
		},
		{
			name:   "no AUTH offered",
			change: func(_ *testing.T, script *mailertest.Script, _ *Server) { script.Auth = "" },
			stage:  StageAuth, diagnosis: "general.auth_not_offered", kind: KindConfig, code: "auth_not_offered", says: []string{"does not offer XOAUTH2 or OAUTHBEARER", "it offers: none"},
			want: "dns connect greeting ehlo starttls tls ehlo -token !auth -mail -rset",
		},
		{
			name:   "no token",
			change: func(*testing.T, *mailertest.Script, *Server) {},
			source: &tokenList{err: errors.New("nobody has signed in")},
			stage:  StageToken, diagnosis: "general.no_token", kind: KindUnauthorized, says: []string{"nobody has signed in"},
			want: "dns connect greeting ehlo starttls tls ehlo !token -auth -mail -rset",
		},
		{
			name: "token refused",
			change: func(_ *testing.T, script *mailertest.Script, _ *Server) {
				script.Answers = map[string][]string{
					"AUTH":               {"334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIiwic2NvcGUiOiJtYWlsIn0="},
					mailertest.Challenge: {"535 5.7.8 Username and Password not accepted"},
				}
			},
			stage: StageAuth, diagnosis: "gmail.token_refused", kind: KindUnauthorized, says: []string{"5.7.8", "status 401"},
			want:  "dns connect greeting ehlo starttls tls ehlo token !auth -mail -rset",
			facts: func(f Facts) bool { return f.Mechanism == "XOAUTH2" },
		},
		{
			name: "SMTP AUTH disabled",
			change: func(_ *testing.T, script *mailertest.Script, _ *Server) {
				script.Answers = map[string][]string{"AUTH": {disabled}}
			},
			source: &tokenList{tokens: []string{canaryToken, "another-canary-token"}}, // which is not tried
			stage:  StageAuth, diagnosis: "exchange.smtp_auth_disabled_tenant", kind: KindUnauthorized, says: []string{"5.7.139", "disabled for the Tenant"},
			want: "dns connect greeting ehlo starttls tls ehlo token !auth -mail -rset",
		},
		{
			name: "sender refused",
			change: func(_ *testing.T, script *mailertest.Script, _ *Server) {
				script.Answers = map[string][]string{"MAIL": {"550 5.7.60 SMTP; Client does not have permissions to send as this sender"}}
			},
			stage: StageMail, diagnosis: "exchange.no_send_as_right", kind: KindRejected, says: []string{"5.7.60"},
			want:  "dns connect greeting ehlo starttls tls ehlo token auth !mail -rset",
			facts: func(f Facts) bool { return f.From == "a@example.com" },
		},
		{
			name: "RSET refused",
			change: func(_ *testing.T, script *mailertest.Script, _ *Server) {
				script.Answers = map[string][]string{"RSET": {"421 4.3.0 closing"}}
			},
			stage: StageReset, diagnosis: "general.later", kind: KindTemporary, says: []string{"421"},
			want: "dns connect greeting ehlo starttls tls ehlo token auth mail !rset",
		},
		{
			name:   "settings that cannot be",
			change: func(_ *testing.T, _ *mailertest.Script, s *Server) { s.LocalName = "a b" },
			stage:  StageConnect, diagnosis: "general.connect_failed", kind: KindConfig, says: []string{"malformed local name"},
			want: "-dns !connect -greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := &mailertest.Script{Auth: "XOAUTH2"}
			server := Server{Host: "localhost"}
			script.TLS, server.RootCAs = mailertest.NewCertificate(t)
			tt.change(t, script, &server)
			if server.Port == 0 {
				_, server.Port = script.Listen(t)
			}
			if tt.source == nil {
				tt.source = &tokenList{tokens: []string{canaryToken}, stubborn: true}
			}
			tenant := &Tenant{Server: server, Auth: Token{User: account, Source: tt.source}}
			got := tenant.Test(t.Context(), Probe{From: sender})
			checkBroken(t, got, tt.stage, tt.kind, tt.diagnosis, tt.says...)
			if got.Err.Code != tt.code {
				t.Errorf("code %q, want %q", got.Err.Code, tt.code)
			}
			if o := outline(got.Steps); o != tt.want {
				t.Errorf("stages\n%s, want\n%s", o, tt.want)
			}
			for _, s := range got.Steps {
				if s.Err != nil && tt.facts != nil && !tt.facts(s.Facts) {
					t.Errorf("facts of %s: %+v %+v", s.Stage, s.Facts, s.Facts.TLS)
				}
			}
			if n := len(script.Contents()); n != 0 || script.Said("DATA") > 0 || script.Said("RCPT") > 0 {
				t.Error("more than the test was said to the server")
			}
		})
	}
}

const canaryToken = "canary-token-of-some-length"

// checkBroken checks what a test that failed says, and that it does not say the
// token.
func checkBroken(t *testing.T, v Verdict, stage Stage, kind Kind, diagnosed string, says ...string) {
	t.Helper()
	if v.Err == nil || v.FailedStage() != stage || v.Err.Kind != kind {
		t.Fatalf("%v at %q, want a failure at %s of kind %v; stages %s", v.Err, v.FailedStage(), stage, kind, outline(v.Steps))
	}
	for _, s := range says {
		if !strings.Contains(v.Err.Error(), s) {
			t.Errorf("error %q does not say %q", v.Err, s)
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	type errorOf struct {
		Kind, Message string
		Diagnosis     struct {
			ID     string
			En, Ja struct{ Meaning string }
		}
	}
	var answer struct {
		OK     bool
		Failed string `json:"failed_stage"`
		Error  errorOf
		Steps  []struct {
			Stage, Status string
			Error         errorOf
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.OK || answer.Failed != string(stage) || answer.Error.Kind != kind.String() || answer.Error.Message != v.Err.Error() || len(answer.Steps) != len(v.Steps) {
		t.Errorf("as JSON: %s", text)
	}
	if d := answer.Error.Diagnosis; d.ID != diagnosed || d.En.Meaning == "" || d.Ja.Meaning == "" {
		t.Errorf("diagnosis %+v, want %s", d, diagnosed)
	}
	failed := 0
	for _, s := range answer.Steps {
		if s.Status == "failed" {
			failed++
			if s.Error != answer.Error {
				t.Errorf("%s failed by %+v, the test by %+v", s.Stage, s.Error, answer.Error)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d stages failed, as JSON: %s", failed, text)
	}
	if strings.Contains(string(text), "canary") {
		t.Errorf("the token shows: %s", text)
	}
}

func mentions(part string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, part) }
}

// TestHangs: a silent server is given up long before the time that a message
// would wait for it.
func TestHangs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		step      string
		stage     Stage
		diagnosis string
		took      time.Duration
		want      string
	}{
		{"", StageConnect, "general.connection_timed_out", 15 * time.Second, "-dns !connect -greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset"},
		{
			mailertest.Greeting, StageGreeting, "general.greeting_timed_out", 35 * time.Second, // and a look whether it speaks TLS
			"-dns connect !greeting -ehlo -starttls -tls -ehlo -token -auth -mail -rset",
		},
		{"EHLO", StageEHLO, "general.stalled", 30 * time.Second, "-dns connect greeting !ehlo -starttls -tls -ehlo -token -auth -mail -rset"},
		{"AUTH", StageAuth, "general.stalled", 30 * time.Second, "-dns connect greeting ehlo starttls tls ehlo token !auth -mail -rset"},
		{"MAIL", StageMail, "general.stalled", 30 * time.Second, "-dns connect greeting ehlo starttls tls ehlo token auth !mail -rset"},
	} {
		t.Run(string(tt.stage), func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Answers: map[string][]string{tt.step: {mailertest.Silent}}, Auth: "XOAUTH2"}
			tenant := tlsTenant(t, s)
			tenant.Auth = Token{User: account, Source: &tokenList{tokens: []string{canaryToken}}}
			synctest.Test(t, func(t *testing.T) {
				if tt.stage == StageConnect {
					tenant.Server.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					}
				}
				got := tenant.Test(t.Context(), Probe{From: sender})
				checkBroken(t, got, tt.stage, KindTemporary, tt.diagnosis)
				if got.Took != tt.took {
					t.Errorf("it took %v, want %v", got.Took, tt.took)
				}
				if o := outline(got.Steps); o != tt.want {
					t.Errorf("stages %s, want %s", o, tt.want)
				}
				if tt.stage == StageGreeting && !strings.Contains(got.Err.Error(), "server said nothing for 30s") {
					t.Error(got.Err)
				}
			})
		})
	}
}

// TestConnectionTestLimits: the limit and the context end a test wherever it is.
func TestConnectionTestLimits(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(tenant *Tenant, ctx context.Context) Verdict{
		"its own": func(tenant *Tenant, ctx context.Context) Verdict { return tenant.Test(ctx, Probe{From: sender}) },
		"given": func(tenant *Tenant, ctx context.Context) Verdict {
			return tenant.Test(ctx, Probe{From: sender, Limit: 40 * time.Second})
		},
		"context": func(tenant *Tenant, ctx context.Context) Verdict {
			ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
			defer cancel()
			return tenant.Test(ctx, Probe{From: sender})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tenant := tlsTenant(t, &mailertest.Script{Answers: map[string][]string{"AUTH": {mailertest.Silent}}, Auth: "XOAUTH2"})
			synctest.Test(t, func(t *testing.T) {
				// The token takes 35 s to come.
				tenant.Auth = Token{User: account, Source: slowToken(35 * time.Second)}
				want := 40 * time.Second
				if name == "its own" {
					want = time.Minute
				}
				got := run(tenant, t.Context())
				checkBroken(t, got, StageAuth, KindTemporary, "general.stalled")
				if got.Took != want {
					t.Errorf("it took %v, want %v", got.Took, want)
				}
			})
		})
	}
}

type slowToken time.Duration

func (s slowToken) AccessToken(ctx context.Context) (string, error) {
	select {
	case <-time.After(time.Duration(s)):
		return canaryToken, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
func (slowToken) Reject(string) bool { return false }

// knownToken is a token whose end is known.
type knownToken struct{ tokenList }

var tokenEnd = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func (*knownToken) Expiry() time.Time { return tokenEnd }

// TestConnectionTest: a test that passes tells all that there is to know, stage
// by stage, and sends nothing.
func TestConnectionTest(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{
		Auth:  "LOGIN XOAUTH2",
		Offer: []string{"SIZE 157286400", "PIPELINING", "CHUNKING", "LIMITS RCPTMAX=500 MAILMAX=20 OTHER=1 RCPTDOMAINMAX=x"},
		Answers: map[string][]string{
			mailertest.Greeting: {"220-mail.example.com ready\n220 and \x1b[31mwaiting"},
			"MAIL":              {"250 2.1.0 Sender OK"},
		},
	}
	var roots *x509.CertPool
	s.TLS, roots = mailertest.NewCertificate(t)
	_, port := s.Listen(t)
	tenant := &Tenant{
		Server: Server{Host: "localhost", Port: port, RootCAs: roots},
		Auth:   Token{User: account, Source: &knownToken{tokenList{tokens: []string{canaryToken}}}},
	}
	var reported []Step
	got := tenant.Test(t.Context(), Probe{From: sender, Report: func(s Step) { reported = append(reported, s) }})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	if o := outline(got.Steps); o != "dns connect greeting ehlo starttls tls ehlo token auth mail rset" {
		t.Fatalf("stages %s", o)
	}
	if diff := cmp.Diff(got.Steps, reported); diff != "" {
		t.Errorf("reported otherwise than returned:\n%s", diff)
	}
	now := time.Now()
	for i, st := range got.Steps {
		if st.Took < 0 || st.Took > time.Minute || st.Began.IsZero() || st.Began.After(now) || st.Round != 1 {
			t.Errorf("%s: began %v, took %v, round %d", st.Stage, st.Began, st.Took, st.Round)
		}
		if i > 0 && st.Began.Before(got.Steps[i-1].Began) {
			t.Errorf("%s began before what came before it", st.Stage)
		}
	}
	facts := func(i int) Facts { return got.Steps[i].Facts }
	if f := facts(0); !slices.Contains(f.Addresses, "127.0.0.1") {
		t.Errorf("dns: %+v", f)
	}
	if f := facts(1); f.Address != net.JoinHostPort("127.0.0.1", portOf(t, f.Address)) || f.Proxy != "" {
		t.Errorf("connect: %+v", f)
	}
	if f := facts(2); f.Greeting != "mail.example.com ready and  [31mwaiting" {
		t.Errorf("greeting: %q", f.Greeting)
	}
	if f := facts(3); !slices.Contains(f.Capabilities, "STARTTLS") || len(f.Mechanisms) != 0 {
		t.Errorf("first ehlo: %+v", f)
	}
	if f := facts(4); f.Reply != "220 2.0.0 go ahead" {
		t.Errorf("starttls: %+v", f)
	}
	leaf, err := x509.ParseCertificate(s.TLS.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&TLSFacts{
		Version: "TLS 1.3", CipherSuite: facts(5).TLS.CipherSuite,
		Subject: "CN=mail.example.com", Names: []string{"localhost", "mail.example.com", "127.0.0.1", "::1"}, Issuer: "CN=mailertest",
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Chain: []string{"CN=mail.example.com", "CN=mailertest"},
	}, facts(5).TLS); diff != "" || !strings.HasPrefix(facts(5).TLS.CipherSuite, "TLS_") {
		t.Errorf("tls: %s\n%+v", diff, facts(5).TLS)
	}
	if diff := cmp.Diff(Facts{
		Capabilities: append(slices.Clone(s.Offer), "AUTH LOGIN XOAUTH2"),
		MaxSize:      157286400,
		Limits:       map[string]int64{"RCPTMAX": 500, "MAILMAX": 20},
		Mechanisms:   []string{"LOGIN", "XOAUTH2"},
	}, facts(6)); diff != "" {
		t.Errorf("second ehlo:\n%s", diff)
	}
	if f := facts(7); !f.Expires.Equal(tokenEnd) {
		t.Errorf("token: %+v", f)
	}
	if f := facts(8); f.Mechanism != "XOAUTH2" || !slices.Equal(f.Mechanisms, []string{"LOGIN", "XOAUTH2"}) {
		t.Errorf("auth: %+v", f)
	}
	if f := facts(9); f.From != "a@example.com" || f.Reply != "250 2.1.0 Sender OK" {
		t.Errorf("mail: %+v", f)
	}
	text, err := json.Marshal(got)
	if err != nil || strings.Contains(string(text), "canary") || !strings.Contains(string(text), `"ok":true`) || !strings.Contains(string(text), "only a test mail proves") {
		t.Errorf("as JSON: %s (%v)", text, err)
	}
	lines := s.Lines()
	if tail := lines[len(lines)-3:]; !slices.Equal(tail, []string{"MAIL FROM:<a@example.com>", "RSET", "QUIT"}) {
		t.Errorf("said at the end: %q", tail)
	}
	if s.Sessions() != 1 {
		t.Errorf("%d sessions", s.Sessions())
	}
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestSkippedStages: what the settings do not call for is skipped, with the
// reason.
func TestSkippedStages(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*mailertest.Script, *Tenant)
		from   Address
		want   string
		why    map[Stage]string
	}{
		"plaintext with a password": {
			change: func(s *mailertest.Script, t *Tenant) {
				s.TLS, t.Server.Security, t.Auth = nil, Plaintext, Password{"u", "p"}
			},
			from: sender,
			want: "-dns connect greeting ehlo -tls -token auth mail rset",
			why:  map[Stage]string{StageDNS: "address", StageTLS: "plaintext", StageToken: "password"},
		},
		"TLS from the start without a sign-in": {
			change: func(s *mailertest.Script, t *Tenant) { s.Implicit, t.Server.Security = true, ImplicitTLS },
			from:   sender,
			want:   "-dns connect tls greeting ehlo -token -auth mail rset",
			why:    map[Stage]string{StageDNS: "address", StageToken: "nobody signs in", StageAuth: "nobody signs in"},
		},
		"without a sender": {
			change: func(_ *mailertest.Script, t *Tenant) {
				t.Auth = Token{User: account, Source: &tokenList{tokens: []string{"tok"}}}
			},
			want: "-dns connect greeting ehlo starttls tls ehlo token auth -mail -rset",
			why:  map[Stage]string{StageDNS: "address", StageMail: "no sender", StageReset: "no sender"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Auth: "PLAIN XOAUTH2"}
			tenant := &Tenant{}
			s.TLS, tenant.Server.RootCAs = mailertest.NewCertificate(t)
			tt.change(s, tenant)
			tenant.Server.Host, tenant.Server.Port = s.Listen(t)
			got := tenant.Test(t.Context(), Probe{From: tt.from})
			if got.Err != nil || outline(got.Steps) != tt.want {
				t.Fatalf("%v; stages\n%s, want\n%s", got.Err, outline(got.Steps), tt.want)
			}
			for _, st := range got.Steps {
				if st.Skipped != "" && (tt.why[st.Stage] == "" || !strings.Contains(st.Skipped, tt.why[st.Stage])) {
					t.Errorf("%s skipped because %q", st.Stage, st.Skipped)
				}
			}
		})
	}
}

// TestConnectionTestTakesAnotherToken: a stale token is no fault of the set-up.
func TestConnectionTestTakesAnotherToken(t *testing.T) {
	t.Parallel()
	s := mailertest.NewServer(t)
	s.AllowToken(account, "good-token")
	source := &tokenList{tokens: []string{"stale-token", "good-token"}}
	tenant := &Tenant{
		Server: Server{Host: s.Host, Port: s.Port, RootCAs: s.CertPool},
		Auth:   Token{User: account, Source: source},
	}
	got := tenant.Test(t.Context(), Probe{From: sender})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	const want = "-dns connect greeting ehlo starttls tls ehlo token !auth " +
		"-dns connect greeting ehlo starttls tls ehlo token auth mail rset"
	if o := outline(got.Steps); o != want {
		t.Errorf("stages %s", o)
	}
	for i, st := range got.Steps {
		if want := 1 + i/9; st.Round != min(want, 2) {
			t.Errorf("%d, %s: round %d", i, st.Stage, st.Round)
		}
	}
	if !slices.Equal(source.rejected, []string{"stale-token"}) {
		t.Errorf("rejected %q", source.rejected)
	}
}

// TestConnectionTestLeavesThePool: a test neither takes nor leaves a connection
// there.
func TestConnectionTestLeavesThePool(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{}
	tenant := plainTenant(s)
	tenant.Pool = &Pool{Max: 1}
	defer tenant.Pool.Close()
	if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil {
		t.Fatal(err)
	}
	for want := 2; want < 4; want++ {
		if got := tenant.Test(t.Context(), Probe{From: sender}); got.Err != nil {
			t.Fatal(got.Err)
		}
		if n := s.Sessions(); n != want {
			t.Errorf("%d sessions, want %d", n, want)
		}
	}
	if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil || s.Sessions() != 3 {
		t.Errorf("%v, %d sessions", err, s.Sessions())
	}
}
