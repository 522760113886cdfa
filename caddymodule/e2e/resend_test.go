//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// sdk is one of Resend's official SDKs, unchanged, in a program that uses it.
type sdk struct {
	name string
	// inGo tells that it is for Go: it has attachments as bytes only, one address for
	// replies, and errors that are a text.
	inGo bool
	// argument chooses the SDK in its program.
	argument string
	// permissive tells that it knows batches in which some messages may be wrong.
	permissive bool
	// lists tells that it knows the list of messages.
	lists bool
}

var sdks = []*sdk{
	{name: "npm 4.8", argument: "resend-4"},
	{name: "npm 6.0", argument: "resend-6.0"},
	{name: "npm latest", argument: "resend", permissive: true, lists: true},
	{name: "Go v2", argument: "v2", inGo: true, permissive: true, lists: true},
	{name: "Go v3", argument: "v3", inGo: true, permissive: true, lists: true},
}

// sdkCall is one use of an SDK, and what the SDK has told.
type sdkCall struct {
	// Op is what to call: send, batch, get, list, update, cancel, or domains, which is
	// Resend's alone.
	Op     string     `json:"op"`
	Key    string     `json:"key"`
	Email  sdkEmail   `json:"email"`
	Emails []sdkEmail `json:"emails"`
	// ID is the message that the call is about. Of is the call before it that made one.
	ID          string `json:"id,omitempty"`
	Of          *int   `json:"of,omitempty"`
	ScheduledAt string `json:"scheduledAt,omitempty"`
	Idempotency string `json:"idempotency,omitempty"`
	Permissive  bool   `json:"permissive,omitempty"`

	result sdkResult
}

// sdkEmail is a message as a program gives it to an SDK.
type sdkEmail struct {
	From        string            `json:"from,omitempty"`
	To          []string          `json:"to,omitempty"`
	Cc          []string          `json:"cc,omitempty"`
	Bcc         []string          `json:"bcc,omitempty"`
	ReplyTo     string            `json:"replyTo,omitempty"`
	Subject     string            `json:"subject,omitempty"`
	Text        string            `json:"text,omitempty"`
	HTML        string            `json:"html,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Tags        []sdkTag          `json:"tags,omitempty"`
	Attachments []sdkAttachment   `json:"attachments,omitempty"`
	ScheduledAt string            `json:"scheduledAt,omitempty"`
}

type sdkTag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// sdkAttachment has a content, which is text that the SDK sends as it is, or bytes,
// which each SDK writes in its own way: a Buffer object, base64, or a list of numbers.
type sdkAttachment struct {
	Filename    string `json:"filename"`
	ContentType string `json:"contentType,omitempty"`
	ContentID   string `json:"contentID,omitempty"`
	Content     string `json:"content,omitempty"`
	Bytes       []byte `json:"bytes,omitempty"`
}

type sdkResult struct {
	ID   string
	Data struct {
		ID     string
		Object string
		// Data is of batches and of lists.
		Data json.RawMessage
		// Errors are those of a permissive batch.
		Errors []struct {
			Index   int
			Message string
		}
		Subject     string
		To          []string
		LastEvent   string `json:"last_event"`
		ScheduledAt string `json:"scheduled_at"`
	}
	Error *sdkError
}

// sdkError is an SDK's own error. Those of Go have no more than a message, but where
// a rate was exceeded.
type sdkError struct {
	StatusCode                          int
	Name, Message                       string
	RateLimit                           bool
	Limit, Remaining, Reset, RetryAfter string
}

// id is the message that the call has made.
func (c *sdkCall) id(t testing.TB) string {
	t.Helper()
	if c.result.Error != nil {
		t.Errorf("the SDK says %+v", c.result.Error)
	}
	return c.result.ID
}

// ids are the messages of a batch, or of a list.
func (c *sdkCall) ids(t testing.TB) []string {
	t.Helper()
	if c.result.Error != nil {
		t.Fatalf("the SDK says %+v", c.result.Error)
	}
	var list []struct{ ID string }
	if err := json.Unmarshal(c.result.Data.Data, &list); err != nil {
		t.Fatalf("%v: %s", err, c.result.Data.Data)
	}
	ids := make([]string, 0, len(list))
	for _, m := range list {
		ids = append(ids, m.ID)
	}
	return ids
}

// buildGoSDK builds the program that uses the SDKs for Go, once.
var buildGoSDK = sync.OnceValues(func() (string, error) {
	file := filepath.Join(suiteDir, "resendgo")
	build := exec.Command("go", "build", "-o", file, ".")
	build.Dir = "resendgo"
	var said bytes.Buffer
	build.Stdout, build.Stderr = &said, &said
	if err := build.Run(); err != nil {
		return said.String(), err
	}
	return file, nil
})

// run makes the calls, one after the other, in one program with this base URL.
func (s *sdk) run(t testing.TB, baseURL string, calls []*sdkCall) {
	t.Helper()
	text, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"node", "node/resend.mjs"}
	if s.inGo {
		program, err := buildGoSDK()
		if err != nil {
			t.Fatalf("building the program with the SDKs for Go: %v\n%s", err, program)
		}
		argv = []string{program}
	}
	cmd := exec.Command(argv[0], append(argv[1:], s.argument)...)
	cmd.Env = append(os.Environ(), "RESEND_BASE_URL="+baseURL)
	cmd.Stdin = bytes.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s is missing or broken: %v\n%s", s.name, err, stderr.String())
	}
	var results []json.RawMessage
	if err := json.Unmarshal(out, &results); err != nil || len(results) != len(calls) {
		t.Fatalf("%v: %s", err, out)
	}
	for i, r := range results {
		if err := json.Unmarshal(r, &calls[i].result); err != nil {
			t.Fatalf("%v: %s", err, r)
		}
		t.Logf("%s: %s: %.300s", s.name, calls[i].Op, r)
	}
}

// Resend's SDKs work unchanged, but for their base URL, with all ways to write one:
// what they send arrives, and what is refused is an error of theirs.
func TestResendSDKs(t *testing.T) {
	t.Parallel()
	silent := newSilentServer(t)
	s := Start(t, Options{Outbox: true, Lines: restrictedKeys(), Tenants: map[string]string{
		silentTenant: "server plaintext://" + silent.Addr().String() + "\nauth none\nfrom sender@example.com",
	}})
	s.SignIn(t)
	t.Run("mail", func(t *testing.T) { testSDKMail(t, s) })
	t.Run("refusals", func(t *testing.T) { testSDKRefusals(t, s, silent) })
	s.checkSecrets(t)
}

// baseURLs are the ways to write where the send route is, for an SDK. Those for Go cut
// off a path without a slash at the end.
func (s *sdk) baseURLs(stack *Stack) []string {
	urls := []string{stack.URL, stack.URL + "/", stack.URL + "/prefix/"}
	if !s.inGo {
		urls = append(urls, stack.URL+"/prefix")
	}
	return urls
}
