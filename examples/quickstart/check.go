package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"time"
)

// stateAuthorized is how the plugin calls an account that can send.
const stateAuthorized = "authorized"

// checkLimit is how long the whole trip may take.
const checkLimit = 20 * time.Second

// A trip is the way from nothing to a mail that arrived, gone without a person: a browser's part, an operator's part
// and a web application's part.
type trip struct {
	plugin    *plugin
	inbox     *inbox
	issuer    string
	provider  string
	mailbox   string
	recipient string
	out       io.Writer // one line for each step

	client *http.Client
	steps  int
}

// A stepError tells where a trip ended.
type stepError struct {
	step int
	what string
	err  error
}

func (e *stepError) Error() string { return fmt.Sprintf("step %d, %s: %v", e.step, e.what, e.err) }
func (e *stepError) Unwrap() error { return e.err }

// run goes the whole way. The error is a [stepError].
func (t *trip) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	t.client = &http.Client{
		Jar: jar,
		// Each hop is a step, or part of one, and looked at.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}

	var (
		link     string
		current  visit
		mailSent = post{
			From:    "Quickstart <" + t.mailbox + ">",
			To:      t.recipient,
			Subject: "Quickstart check " + rand.Text(),
			Text:    "Grüße from the check. 次の行も届きます。\n.\nA line after a single dot.\n",
		}
		answer  receipt
		arrived *mail
	)
	steps := []struct {
		what string
		do   func() (string, error)
	}{
		{"ask the plugin for a sign-in link", func() (said string, err error) {
			link, err = t.plugin.authorize(ctx, t.provider, t.mailbox)
			return "the operator got one", err
		}},
		{"open the plugin's start page", func() (said string, err error) {
			current, err = t.open(ctx, link)
			if err != nil {
				return "", err
			}
			return "it shows a form", current.mustBePage()
		}},
		{"press Continue there", func() (said string, err error) {
			form, ok := current.formWith(func(f webForm) bool { return f.fields.Has("ticket") })
			if !ok {
				return "", fmt.Errorf("the page has no form with a ticket, it says: %s", current.text())
			}
			current, err = t.submit(ctx, current, form, nil)
			if err != nil {
				return "", err
			}
			if current.next == "" || originOf(current.next) != t.issuer {
				return "", fmt.Errorf("expected a redirect to the authorization server, got %s", current)
			}
			return "it leads to the authorization server", nil
		}},
		{"open the authorization server", func() (said string, err error) {
			current, err = t.follow(ctx, current)
			if err != nil {
				return "", err
			}
			return "it shows its sign-in page", current.mustBePage()
		}},
		{"sign in as " + t.mailbox, func() (said string, err error) {
			me := button{"user", t.mailbox}
			form, ok := current.formWith(func(f webForm) bool { return slices.Contains(f.buttons, me) })
			if !ok {
				return "", fmt.Errorf("the page has no button for that, it says: %s", current.text())
			}
			current, err = t.submit(ctx, current, form, &me)
			if err != nil {
				return "", err
			}
			if current.next == "" {
				return "", fmt.Errorf("expected a redirect, got %s", current)
			}
			return "it sends the browser back", nil
		}},
		{"return to the plugin", func() (said string, err error) {
			current, err = t.follow(ctx, current)
			if err != nil {
				return "", err
			}
			if originOf(current.url) != t.plugin.base {
				return "", fmt.Errorf("ended at %s and not at the plugin", originOf(current.url))
			}
			return "it exchanged the code for tokens", current.mustBePage()
		}},
		{"ask the plugin for the account's state", func() (string, error) {
			state, err := t.plugin.state(ctx, t.provider, t.mailbox)
			if err == nil && state != stateAuthorized {
				err = fmt.Errorf("it is %q", state)
			}
			return state, err
		}},
		{"post a mail", func() (said string, err error) {
			// What hasn't gone out in ten seconds won't, on one machine.
			answer, err = t.plugin.send(ctx, mailSent, 10*time.Second)
			if err == nil && answer.Status != "sent" {
				err = fmt.Errorf("the answer's status is %q: the plugin keeps the mail, but the mail server at the other end did not take it",
					answer.Status)
			}
			return "sent as " + answer.MessageID, err
		}},
		{"see it in the inbox", func() (said string, err error) {
			arrived, err = t.inbox.await(ctx, func(m *mail) bool { return m.Subject == mailSent.Subject })
			if err != nil {
				return "", fmt.Errorf("the inbox has %d mails and not this one", len(t.inbox.list()))
			}
			return "it arrived, signed in as " + arrived.SignedInAs, nil
		}},
		{"compare it with what was posted", func() (string, error) {
			return "envelope, headers and text are right", compareMail(arrived, mailSent, answer, t.mailbox)
		}},
	}
	for _, s := range steps {
		err := t.step(s.what, s.do)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *trip) step(what string, do func() (string, error)) error {
	t.steps++
	began := time.Now()
	said, err := do()
	took := time.Since(began).Round(time.Millisecond)
	if err != nil {
		fmt.Fprintf(t.out, "FAIL  %2d  %-48s %7s\n", t.steps, what, took)
		return &stepError{t.steps, what, err}
	}
	fmt.Fprintf(t.out, "ok    %2d  %-48s %7s  %s\n", t.steps, what, took, said)
	return nil
}

func compareMail(got *mail, want post, answer receipt, mailbox string) error {
	switch {
	case got.Trouble != "":
		return fmt.Errorf("a part cannot be read: %s", got.Trouble)
	case got.Subject != want.Subject:
		return fmt.Errorf("the subject is %q instead of %q", got.Subject, want.Subject)
	case strings.TrimSpace(unixLines(got.Text)) != strings.TrimSpace(want.Text):
		return fmt.Errorf("the text is %q instead of %q", got.Text, want.Text)
	case !strings.Contains(got.From, mailbox):
		return fmt.Errorf("the From field is %q, without %s", got.From, mailbox)
	case got.SignedInAs != mailbox:
		return fmt.Errorf("the plugin signed in as %s instead of %s", got.SignedInAs, mailbox)
	case !slices.Equal(got.RcptTo, []string{want.To}):
		return fmt.Errorf("the recipients are %q instead of %q", got.RcptTo, want.To)
	case got.MessageID == "" || strings.Trim(got.MessageID, "<>") != strings.Trim(answer.MessageID, "<>"):
		return fmt.Errorf("the Message-ID is %q, the answer said %q", got.MessageID, answer.MessageID)
	}
	return nil
}

func unixLines(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
