package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func statusCommand() *cobra.Command {
	cmd := verb("status [<tenant>...]", "Tells how all stands: tenants, accounts, messages that wait", nil, (*commandLine).status)
	cmd.Flags().Duration("watch", 0, "Show it again and again, with this time between")
	cmd.Flags().Lookup("watch").NoOptDefVal = "5s"
	return cmd
}

// status shows how all stands, and ends with what that amounts to.
func (c *commandLine) status(names []string) error {
	every, _ := c.cmd.Flags().GetDuration("watch")
	for {
		status, err := c.statusOnce(names)
		switch {
		case every > 0 && err == nil:
			select {
			case <-c.cmd.Context().Done():
				return nil
			case <-time.After(every):
			}
			c.printf("\n")
		case err != nil:
			return err
		case status == healthDegraded:
			return &exit{exitDegraded, ""}
		case status == healthFailing:
			return &exit{exitFailing, ""}
		default:
			return nil
		}
	}
}

func (c *commandLine) statusOnce(names []string) (status string, err error) {
	answer, err := c.do(http.MethodGet, "/status", nil)
	if err != nil {
		return "", err
	}
	var v statusView
	if err := understand(answer, &v); err != nil {
		return "", err
	}
	if len(names) > 0 {
		if v, err = v.only(names); err != nil {
			return "", err
		}
		if answer, err = json.Marshal(v); err != nil {
			return "", err
		}
	}
	return v.Status, c.show(answer, new(statusView), func() { c.printStatus(v) })
}

// only leaves the tenants that were named.
func (v statusView) only(names []string) (statusView, error) {
	all := v.Tenants
	v.Tenants, v.Troubles, v.Status = nil, []trouble{}, healthOK
	for _, name := range names {
		found := false
		for _, t := range all {
			if t.Name == name {
				v.Tenants, v.Troubles, found = append(v.Tenants, t), append(v.Troubles, t.Troubles...), true
			}
		}
		if !found {
			return v, fmt.Errorf("there is no tenant %q", name)
		}
	}
	v.Status = statusOf(v.Troubles)
	return v, nil
}

// healthWords are what people read.
var healthWords = map[string]string{
	healthOK: "ok", healthDegraded: "look here", healthFailing: "DOES NOT SEND",
}

func (c *commandLine) printStatus(v statusView) {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tSTATUS\tSERVER\tACCOUNT\tTOKEN\tWAITING")
	for _, t := range v.Tenants {
		account, token := t.Account, "-"
		if account == "" {
			account = "(" + t.Auth + ")"
		}
		if t.ExpiresAt != nil {
			token = "ended"
			if left := time.Until(*t.ExpiresAt).Round(time.Minute); left > 0 {
				token = "for " + shortDuration(left)
			}
		}
		word := healthWords[t.Status]
		if t.rests() {
			word = "waits"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", t.Name, word, t.Server, account, token, t.Waiting)
	}
	_ = w.Flush()
	if len(v.Tenants) == 0 {
		c.printf("There is no tenant.\n")
	}
	seen := map[troubleKey]bool{}
	for _, t := range v.Troubles {
		if seen[t.key()] {
			continue
		}
		seen[t.key()] = true
		c.printTrouble(t)
	}
	well := len(v.Troubles) == 0
	for _, t := range v.Tenants {
		if t.rests() {
			well = false
			c.printRest(t)
		}
	}
	if well {
		c.printf("\nAll is well.\n")
	}
}

// rests reports whether messages wait for what passes: no trouble yet, but not well either.
func (t *tenantStatus) rests() bool {
	return t.Status == healthOK && t.Outbox == string(outbox.LaneResting) && t.Waiting > 0
}

// printRest tells why messages wait, and until when.
func (c *commandLine) printRest(t tenantStatus) {
	c.printf("\n%s waits", t.Name)
	if t.Until != nil {
		c.printf(", and tries again at %s", t.Until.Local().Format(time.DateTime))
	}
	if t.Failure == nil {
		c.printf(".\n")
		return
	}
	c.printf(": %s\n", t.Failure.words())
	c.printAdvice(t.Failure.Diagnosis)
}

func (c *commandLine) printTrouble(t trouble) {
	head := strings.ReplaceAll(string(t.Kind), "_", " ")
	if about := t.about(); about != "" {
		head += ": " + about
	}
	c.printf("\n! %s\n  %s\n", head, capitalized(t.What))
	if t.Do != "" {
		c.printf("  To do (%s): %s\n", t.Who, t.Do)
	}
}

// shortDuration writes hours and minutes.
func shortDuration(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d/day))
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d/time.Hour), int(d%time.Hour/time.Minute))
	}
	return fmt.Sprintf("%dm", int(d/time.Minute))
}
