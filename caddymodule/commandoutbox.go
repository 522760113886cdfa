package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func outboxCommand() *cobra.Command {
	cmd := verb("outbox", "Shows the messages that wait, and lets you retry, cancel, pause and resume them", cobra.NoArgs, (*commandLine).outbox)
	list := verb("list", "Lists messages, the newest first", cobra.NoArgs, (*commandLine).outboxList)
	selectMessages(list, 50)
	export := verb("export <id>", "Writes a message as a file (.eml)", cobra.ExactArgs(1), (*commandLine).outboxExport)
	export.Flags().StringP("output", "o", "-", "File to write; - is the standard output")
	cmd.AddCommand(list, export,
		verb("show <id>", "Shows a message", cobra.ExactArgs(1), (*commandLine).outboxShow),
		verb("retry <id>...", "Tries messages now", cobra.MinimumNArgs(1), onMessages(http.MethodPost, "/retry", "Will be tried now")),
		verb("cancel <id>...", "Sends messages no more, and remembers them", cobra.MinimumNArgs(1), onMessages(http.MethodPost, "/cancel", "Canceled")),
		verb("drop <id>...", "Forgets messages, whatever has become of them", cobra.MinimumNArgs(1), onMessages(http.MethodDelete, "", "Dropped")),
		verb("pause <tenant>...", "Lets the messages of tenants wait", cobra.MinimumNArgs(1), onTenants("/pause", "Paused")),
		verb("resume <tenant>...", "Lets them go, whatever has kept them", cobra.MinimumNArgs(1), onTenants("/resume", "Resumed")),
	)
	return cmd
}

// outbox shows the figures.
func (c *commandLine) outbox([]string) error {
	answer, err := c.do(http.MethodGet, "/outbox", nil)
	if err != nil {
		return err
	}
	var v outboxView
	return c.show(answer, &v, func() {
		if v.Engine == "off" {
			c.printf("There is no outbox: messages are sent while their senders wait.\n")
			return
		}
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TENANT\tSTATE\tQUEUED\tSCHEDULED\tHELD\tFAILED\tOLDEST")
		for _, t := range v.Tenants {
			oldest := "-"
			if t.OldestAt != nil {
				oldest = shortDuration(time.Since(*t.OldestAt))
			}
			n := t.Messages
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", t.Tenant, t.State,
				n[outbox.StateQueued]+n[outbox.StateSending], n[outbox.StateScheduled], n[outbox.StateHeld], n[outbox.StateFailed], oldest)
		}
		_ = w.Flush()
		for _, t := range v.Tenants {
			if t.Failure != nil {
				c.printf("\n%s is %s: %s\n", t.Tenant, t.State, t.Failure.words())
				c.printAdvice(t.Failure.Diagnosis)
			}
		}
		if !v.Accepting {
			c.printf("\nIt takes no messages at present (%s).\n", v.Refusing)
		}
	})
}

// selectMessages adds the flags that say which messages are asked for.
func selectMessages(cmd *cobra.Command, limit int) {
	cmd.Flags().String("tenant", "", "Only those of a tenant")
	cmd.Flags().String("state", "", "Only those in a state: scheduled, queued, sending, held, sent, failed or canceled")
	cmd.Flags().Int("limit", limit, "How many")
}

// messages asks for the last messages of those that the flags select.
func (c *commandLine) messages(limit int) (json.RawMessage, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, name := range []string{"tenant", "state"} {
		if v := c.text(name); v != "" {
			q.Set(name, v)
		}
	}
	return c.do(http.MethodGet, "/outbox/messages?"+q.Encode(), nil)
}

func (c *commandLine) outboxList([]string) error {
	limit, _ := c.cmd.Flags().GetInt("limit")
	answer, err := c.messages(limit)
	if err != nil {
		return err
	}
	var v messagesView
	return c.show(answer, &v, func() {
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tACCEPTED\tTENANT\tSTATE\tFROM\tTO")
		for _, m := range v.Messages {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, m.AcceptedAt.Local().Format(time.DateTime), m.Tenant, m.State, m.From, m.to())
		}
		_ = w.Flush()
		if v.Next != "" {
			c.printf("There are more: --limit\n")
		}
	})
}

func (c *commandLine) outboxShow(args []string) error {
	answer, err := c.do(http.MethodGet, "/outbox/messages/"+url.PathEscape(args[0]), nil)
	if err != nil {
		return err
	}
	var m messageView
	return c.show(answer, &m, func() { c.printMessage(m) })
}

func (c *commandLine) printMessage(m messageView) {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	line("id", m.ID)
	line("Message-ID", m.MessageID)
	line("state", m.State)
	line("tenant", m.Tenant)
	line("by", m.Caller.Kind+" "+m.Caller.Name)
	line("from", m.From)
	for _, r := range m.Recipients {
		line("to", r.Address+" ("+r.State+")")
	}
	line("accepted", m.AcceptedAt.Local().Format(time.DateTime))
	if m.NextTryAt != nil {
		line("next try", m.NextTryAt.Local().Format(time.DateTime))
	}
	if m.FinishedAt != nil {
		line("finished", m.FinishedAt.Local().Format(time.DateTime))
	}
	line("tries", m.Attempts)
	if d := m.Delivery; d != nil {
		line("server", d.Server)
		if d.QueueID != "" {
			line("its name there", d.QueueID)
		}
	}
	_ = w.Flush()
	if f := m.Failure; f != nil {
		c.printf("\nLast failure, %s, at stage %s: %s\n", f.At.Local().Format(time.DateTime), f.Stage, f.words())
		c.printAdvice(f.Diagnosis)
	}
}

// onMessages makes the run of a verb that does something with messages.
func onMessages(method, call, done string) func(*commandLine, []string) error {
	return func(c *commandLine, ids []string) error {
		for _, id := range ids {
			answer, err := c.do(method, "/outbox/messages/"+url.PathEscape(id)+call, nil)
			if err != nil {
				return fmt.Errorf("message %s: %w", id, err)
			}
			if err := c.show(answer, new(map[string]any), func() { c.printf("%s: %s\n", done, id) }); err != nil {
				return err
			}
		}
		return nil
	}
}

// onTenants makes the run of a verb that does something with tenants.
func onTenants(call, done string) func(*commandLine, []string) error {
	return func(c *commandLine, names []string) error {
		for _, name := range names {
			answer, err := c.do(http.MethodPost, "/outbox/tenants/"+url.PathEscape(name)+call, nil)
			if err != nil {
				return err
			}
			if err := c.show(answer, new(map[string]any), func() { c.printf("%s: %s\n", done, name) }); err != nil {
				return err
			}
		}
		return nil
	}
}

// outboxExport writes a message as it is sent: it needs the management token, since it
// is somebody's mail.
func (c *commandLine) outboxExport(args []string) error {
	if err := c.connect(); err != nil {
		return err
	}
	if err := c.api.authorize(c.cmd.Context()); err != nil {
		return err
	}
	resp, err := c.open(http.MethodGet, "/outbox/messages/"+url.PathEscape(args[0])+"/eml", nil, mediaMessage)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	to := c.cmd.OutOrStdout() // octet for octet
	if name := c.text("output"); name != "-" {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		to = f
	}
	_, err = io.Copy(to, resp.Body)
	return err
}
