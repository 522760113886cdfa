//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// startBare starts Caddy with a send route and nothing else, with these lines and tenants
// in its app.
func startBare(t testing.TB, lines string, tenants map[string]string) *Stack {
	t.Helper()
	s := &Stack{dir: t.TempDir(), URL: fmt.Sprintf("http://localhost:%d", reservePort(t)), keys: map[string]string{}}
	s.SendURL = s.URL
	env := append(os.Environ(), "HOME="+s.dir)
	for name, settings := range tenants {
		s.keys[name] = "canary-key-" + rand.Text()
		variable := fmt.Sprintf("E2E_KEY_%d", len(s.keys))
		env = append(env, variable+"="+s.keys[name])
		lines += fmt.Sprintf("\ntenant %[1]s {\nauth none\nfrom sender@example.com\n%[2]s\n}\nkey %[1]s {env.%[3]s} %[1]s", name, settings, variable)
	}
	s.startCaddy(t, fmt.Sprintf(`{
	admin off
	persist_config off
	storage file_system %[1]s/storage
	oauth_mail {
%[2]s
	}
}
%[3]s {
	oauth_mail send
}
`, s.dir, lines, s.URL), env)
	return s
}

// scripted is the setting of a tenant that sends to a mail server with these answers.
func scripted(t testing.TB, answers map[string][]string) string {
	t.Helper()
	host, port := (&mailertest.Script{Answers: answers}).Listen(t)
	return fmt.Sprintf("server plaintext://%s:%d", host, port)
}

// Without an outbox the SDKs hear of what passes, too, and are told when to come back.
func TestResendSDKsWithoutOutbox(t *testing.T) {
	t.Parallel()
	tenants := map[string]string{
		"down": fmt.Sprintf("server plaintext://127.0.0.1:%d", reservePort(t)),
		"spam": scripted(t, map[string][]string{"MAIL": {"550 5.1.8 Access denied, bad outbound sender. AS(42003)"}}),
		"day":  scripted(t, nil) + "\nrecipients_per_day 1",
	}
	day := func(s *sdk) string { return fmt.Sprintf("day-%d", slices.Index(sdks, s)) }
	for _, sdk := range sdks { // the mailbox rests then
		tenants[day(sdk)] = scripted(t, map[string][]string{mailertest.Content: {"550 5.4.5 Daily user sending limit exceeded."}})
	}
	s := startBare(t, "outbox off\nmax_body 64KiB", tenants)
	s.Send(t, "day", sdkMessage(nil))
	by := func(tenant string) sdkCall { return sdkCall{Op: "send", Key: s.keys[tenant], Email: sdkMessage(nil)} }
	long := func(octets int) sdkCall {
		c := by("down")
		c.Email.Text = strings.Repeat("x", octets)
		return c
	}
	runSDKRefusals(t, s, func(sdk *sdk) []sdkRefusal {
		return []sdkRefusal{
			{"mail server down", by("down"), http.StatusServiceUnavailable, "application_error", "cannot be reached"},
			{"a body that is too large", long(64 << 10), http.StatusRequestEntityTooLarge, "validation_error", "64 KiB"},
			{"one that is far too large", long(20 << 20), http.StatusRequestEntityTooLarge, "validation_error", "64 KiB"},
			{"a mailbox that is blocked for spam", by("spam"), http.StatusUnavailableForLegalReasons, "security_error", "blocked the sender"},
			{"more recipients than in a day", by("day"), http.StatusTooManyRequests, "daily_quota_exceeded", "24 hours"},
			{"more than the mail server takes in a day", by(day(sdk)), http.StatusTooManyRequests, "daily_quota_exceeded", "Daily user sending limit"},
		}
	})

	s.keys["wrong"] = "canary-key-that-nobody-knows"
	for n := 0; s.post(t, "wrong", note("")).status != http.StatusTooManyRequests; n++ {
		if n == 100 {
			t.Fatal("nobody minds that many wrong keys")
		}
	}
	call := by("wrong")
	refusal := sdkRefusal{"too many wrong keys", call, http.StatusTooManyRequests, "rate_limit_exceeded", "Too many"}
	t.Run("wrong keys by", func(t *testing.T) {
		for _, sdk := range sdks {
			t.Run(sdk.name, func(t *testing.T) {
				t.Parallel()
				// Another wrong key is looked at every 6 s: the first calls may meet that.
				calls := make([]*sdkCall, 4)
				for i := range calls {
					another := call
					calls[i] = &another
				}
				sdk.run(t, s.SendURL, calls)
				i := slices.IndexFunc(calls, func(c *sdkCall) bool {
					return c.result.Error != nil && strings.Contains(c.result.Error.Message, refusal.words)
				})
				sdk.checkRefusal(t, refusal, calls[max(i, 0)].result)
			})
		}
	})
}

// What the outbox has no room for is refused.
func TestResendSDKsOutboxFull(t *testing.T) {
	t.Parallel()
	s := startBare(t, "outbox bbolt {\nmax_size 1MiB\n}", map[string]string{"down": fmt.Sprintf("server plaintext://127.0.0.1:%d", reservePort(t))})
	big := sdkMessage(func(e *sdkEmail) { e.Text = strings.Repeat("0123456789", 40<<10) })
	for n := 0; ; n++ {
		a := s.post(t, "down", big)
		if a.status == http.StatusInsufficientStorage && n > 0 {
			break
		}
		if a.status != http.StatusOK || n == 10 {
			t.Fatalf("after %d: %.300s", n, a)
		}
	}
	call := sdkCall{Op: "send", Key: s.keys["down"], Email: big}
	runSDKRefusals(t, s, func(*sdk) []sdkRefusal {
		return []sdkRefusal{{"no room", call, http.StatusInsufficientStorage, "application_error", "no space left"}}
	})
}
