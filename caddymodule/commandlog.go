package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	// logEvery is the time between two looks at the messages, followLast how many of
	// them are looked at: what happens to older ones is not told.
	logEvery   = time.Second
	followLast = 200
)

func logCommand() *cobra.Command {
	cmd := verb("log", "Tells what became of the last messages, a line each, the newest last", cobra.NoArgs, (*commandLine).log)
	selectMessages(cmd, 20)
	cmd.Flags().BoolP("follow", "f", false, "Go on, and tell each change of the newest "+strconv.Itoa(followLast))
	return cmd
}

// messageLog is what of the messages was told already.
type messageLog struct {
	c *commandLine
	// looked is how many of the last messages are looked at.
	looked int
	// told has the states of the messages that the last look has seen.
	told map[string]outbox.State
}

func (c *commandLine) log([]string) error {
	limit, _ := c.cmd.Flags().GetInt("limit")
	l := messageLog{c: c, looked: limit}
	if c.set("follow") {
		l.looked = max(limit, followLast)
	}
	if err := l.look(limit); err != nil || !c.set("follow") {
		return err
	}
	away := false
	for {
		if err := c.pause(logEvery); err != nil {
			return nil
		}
		err := l.look(l.looked)
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case err != nil && !away: // Caddy may be restarting
			fmt.Fprintf(c.err, "%s; trying again.\n", capitalized(strings.TrimSuffix(err.Error(), ".")))
		}
		away = err != nil
	}
}

// look tells what is new among the last messages.
func (l *messageLog) look(last int) error {
	answer, err := l.c.messages(l.looked)
	if err != nil {
		return err
	}
	var page struct {
		Messages []json.RawMessage `json:"messages"`
	}
	if err := understand(answer, &page); err != nil {
		return err
	}
	states := make(map[string]outbox.State, len(page.Messages))
	for i, raw := range slices.Backward(page.Messages) {
		var m messageView
		if err := understand(raw, &m); err != nil {
			return err
		}
		states[m.ID] = m.State
		if i >= last || l.told[m.ID] == m.State {
			continue
		}
		line := m.line()
		if l.c.json {
			line = string(raw)
		}
		fmt.Fprintln(l.c.out, line)
	}
	l.told = states
	return nil
}

// line tells what became of a message.
func (m *messageView) line() string {
	at, why := m.AcceptedAt, ""
	switch f := m.Failure; {
	case m.FinishedAt != nil:
		at = *m.FinishedAt
	case f != nil:
		at = f.At
	}
	switch d := m.Delivery; {
	case m.State == outbox.StateSent && d != nil:
		why = strings.TrimSpace(d.Server + " " + d.QueueID)
	case m.State == outbox.StateCanceled:
		why = "by " + m.CanceledBy
	case m.Failure != nil:
		why = m.Failure.words()
	}
	line := fmt.Sprintf("%s  %-9s  %s  %s  %s > %s", at.Local().Format(time.DateTime), m.State, m.ID, m.Tenant, m.From, m.to())
	if why != "" {
		line += ": " + why
	}
	return line
}

// to names the first recipient, and says how many more there are.
func (m *messageView) to() string {
	switch n := len(m.Recipients); n {
	case 0:
		return ""
	case 1:
		return m.Recipients[0].Address
	default:
		return fmt.Sprintf("%s +%d", m.Recipients[0].Address, n-1)
	}
}
