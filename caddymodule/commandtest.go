package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

func testCommand() *cobra.Command {
	cmd := verb("test <tenant>", "Tries a tenant's connection and sign-in, stage by stage; with --to it sends a test mail", cobra.ExactArgs(1), (*commandLine).test)
	cmd.Flags().String("from", "", "Sender to try (default: the tenant's own)")
	cmd.Flags().String("to", "", "Send a test mail to this address, too")
	return cmd
}

// toldStep is a stage of a test as the server tells it.
type toldStep struct {
	Stage      string     `json:"stage"`
	Round      int        `json:"round"`
	Status     string     `json:"status"`
	DurationMS float64    `json:"duration_ms"`
	Why        string     `json:"why"`
	Facts      toldFacts  `json:"facts"`
	Error      *toldError `json:"error"`
}

type toldFacts struct {
	Address   string `json:"address"`
	Proxy     string `json:"proxy"`
	Mechanism string `json:"mechanism"`
	From      string `json:"from"`
	TLS       *struct {
		Version string `json:"version"`
		Subject string `json:"subject"`
	} `json:"tls"`
	Expires time.Time `json:"expires_at"`
}

// String is what a line has room for.
func (f toldFacts) String() string {
	var parts []string
	for _, p := range []string{f.Address, f.Mechanism, f.From} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	if f.Proxy != "" {
		parts = append(parts, "through "+f.Proxy)
	}
	if f.TLS != nil && f.TLS.Version != "" {
		parts = append(parts, strings.TrimSuffix(f.TLS.Version+", "+f.TLS.Subject, ", "))
	}
	if !f.Expires.IsZero() {
		parts = append(parts, "good until "+f.Expires.Local().Format(time.DateTime))
	}
	return strings.Join(parts, ", ")
}

type toldError struct {
	Message   string `json:"message"`
	Diagnosis struct {
		Who string         `json:"who"`
		En  diagnosis.Text `json:"en"`
		Ja  diagnosis.Text `json:"ja"`
	} `json:"diagnosis"`
}

// toldVerdict is the end of a test, with or without a mail.
type toldVerdict struct {
	OK          bool       `json:"ok"`
	Server      string     `json:"server"`
	FailedStage string     `json:"failed_stage"`
	Error       *toldError `json:"error"`
	Note        string     `json:"note"`
	// Test, Message and Problem are those of a test mail.
	Test    *toldVerdict `json:"test"`
	Message *sent        `json:"message"`
	Problem *answerError `json:"problem"`
}

// test tries a tenant, and shows each stage when it ends.
func (c *commandLine) test(args []string) error {
	body := map[string]string{}
	call := "/test"
	if from := c.text("from"); from != "" {
		body["from"] = from
	}
	if to := c.text("to"); to != "" {
		body["to"], call = to, "/mail"
	}
	last, err := c.stream("/tenants/"+url.PathEscape(args[0])+call, body, func(line json.RawMessage) error {
		var s toldStep
		return c.show(line, &s, func() { c.printStep(s) })
	})
	if err != nil {
		return err
	}
	var v toldVerdict
	if err := json.Unmarshal(last, &v); err != nil {
		return fmt.Errorf("the test broke off: %w", err)
	}
	if err := c.show(last, &v, func() {
		c.printVerdict(v)
		c.printSignIn(args[0], v)
	}); err != nil || v.OK {
		return err
	}
	return &exit{exitTestFailed, ""}
}

// printSignIn names the command that has a person sign in, where that is what a
// tenant's test has failed for.
func (c *commandLine) printSignIn(tenant string, v toldVerdict) {
	if v.Test != nil {
		v = *v.Test
	}
	var t tenantView
	if v.FailedStage != string(mailer.StageToken) || c.get("/tenants/"+url.PathEscape(tenant), &t) != nil ||
		t.State != string(tokens.StateUnauthorized) {
		return
	}
	c.printf("  - %s\n", signInCommand(tokens.Account{Provider: t.Provider, User: t.User}))
}

var stepMarks = map[string]string{"ok": "✔", "failed": "✖", "skipped": "-"}

func (c *commandLine) printStep(s toldStep) {
	took, about := "", s.Facts.String()
	if s.Status == "skipped" {
		about = s.Why
	} else {
		took = fmt.Sprintf("%.0f ms", s.DurationMS)
	}
	c.printf("%s\n", strings.TrimRight(fmt.Sprintf("%s %-9s %8s  %s", stepMarks[s.Status], s.Stage, took, about), " "))
}

func (c *commandLine) printVerdict(v toldVerdict) {
	if v.Test != nil && !v.Test.OK {
		v = *v.Test
	}
	switch {
	case v.Error != nil:
		c.printf("\nFailed: %s\n", v.Error.Message)
		t := v.Error.Diagnosis.En
		if c.language == diagnosis.Japanese {
			t = v.Error.Diagnosis.Ja
		}
		c.printAdvice(diagnosis.Advice{Meaning: t.Meaning, Who: diagnosis.Who(v.Error.Diagnosis.Who), Do: t.Do})
	case v.Problem != nil:
		c.printf("\nNot sent: %s\n", v.Problem.Error())
	case v.Message != nil:
		c.printf("\n")
		c.printSent(*v.Message)
	default:
		c.printf("\nOK. %s.\n", capitalized(v.Note))
	}
}

// printAdvice tells what it means, whose job it is and what to do.
func (c *commandLine) printAdvice(a diagnosis.Advice) {
	if a.Meaning == "" {
		return
	}
	c.printf("%s\nTo do (%s):\n", a.Meaning, a.Who)
	for _, step := range a.Do {
		c.printf("  - %s\n", step)
	}
}

// printSent tells what became of a message.
func (c *commandLine) printSent(v sent) {
	switch v.Status {
	case "sent":
		c.printf("Sent: %s, Message-ID %s\n", v.ID, v.MessageID)
	default:
		c.printf("%s: %s, Message-ID %s\n", capitalized(v.Status), v.ID, v.MessageID)
		if v.NextTryAt != nil {
			c.printf("It is tried again at %s; see caddy oauth-mail outbox show %s\n", v.NextTryAt.Local().Format(time.DateTime), v.ID)
		}
	}
	if v.Staging != "" {
		c.printf("Staging: it went to %s in place of its recipients\n", v.Staging)
	}
	for _, r := range v.Rejected {
		c.printf("Refused: %s", r.Address)
		if r.SMTP != nil {
			c.printf(" (%d %s)", r.SMTP.Code, r.SMTP.Text)
		}
		c.printf("\n")
	}
	if v.Diagnosis != nil {
		c.printAdvice(*v.Diagnosis)
		return // the warnings say it again
	}
	for _, w := range v.Warnings {
		c.printf("Warning: %s\n", w)
	}
}

// tenant is the named tenant, or the only one.
func (c *commandLine) tenant(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	var v struct {
		Tenants []struct {
			Name string `json:"name"`
		} `json:"tenants"`
	}
	if err := c.get("/tenants", &v); err != nil {
		return "", err
	}
	if len(v.Tenants) == 1 {
		return v.Tenants[0].Name, nil
	}
	return "default", nil
}

// post sends a message as it is.
func (c *commandLine) post(tenant string, header http.Header, message []byte) (json.RawMessage, error) {
	if c.api == nil {
		if err := c.connect(); err != nil {
			return nil, err
		}
	}
	if err := c.api.authorize(c.cmd.Context()); err != nil {
		return nil, err
	}
	header.Set("Content-Type", mediaMessage)
	return c.api.send(c.cmd.Context(), "/tenants/"+url.PathEscape(tenant)+"/send", header, message)
}
