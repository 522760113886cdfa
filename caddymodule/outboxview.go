package caddymodule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// outboxView is the outbox as administrators see it.
type outboxView struct {
	// Engine is "off" without an outbox.
	Engine string `json:"engine"`
	// Shared: several instances may use it.
	Shared bool `json:"shared"`
	// Bytes is what messages take on the disk, and MaxBytes the most that they may;
	// zero for no limit.
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`
	// Accepting is false from a message that could not be stored until one is; Refusing
	// is the code that senders hear then.
	Accepting bool   `json:"accepting"`
	Refusing  string `json:"refusing,omitempty"`
	// Messages counts by state, over all tenants.
	Messages map[outbox.State]int `json:"messages"`
	OldestAt *time.Time           `json:"oldest_at,omitempty"`
	Tenants  []laneView           `json:"tenants"`
}

// laneView is a tenant's messages as administrators see them.
type laneView struct {
	Tenant string `json:"tenant"`
	// Configured is false where messages are left of a tenant that there is no more.
	Configured bool                 `json:"configured"`
	Messages   map[outbox.State]int `json:"messages"`
	// OldestAt is when the oldest message was accepted that waits.
	OldestAt *time.Time `json:"oldest_at,omitempty"`
	// State is "open", "resting", "parked" or "paused"; with all but the first, Since
	// is when that began, and Until when a message tries whether it can go again.
	State   string              `json:"state"`
	Since   *time.Time          `json:"since,omitempty"`
	Until   *time.Time          `json:"until,omitempty"`
	Failure *messageFailureView `json:"failure,omitempty"`
	// PausedBy is who has paused it.
	PausedBy string `json:"paused_by,omitempty"`
}

func viewOutbox(stats outbox.Stats, lanes map[string]outbox.Lane, s *snapshot, l diagnosis.Language) outboxView {
	v := outboxView{Bytes: stats.Bytes, MaxBytes: stats.MaxBytes, Messages: map[outbox.State]int{}, Tenants: []laneView{}}
	names := map[string]bool{}
	for name := range s.tenants {
		names[name] = true
	}
	for name := range stats.Tenants {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		t := stats.Tenants[name]
		v.Tenants = append(v.Tenants, viewLane(name, t, lanes[name], s, l))
		for state, n := range t.Messages {
			v.Messages[state] += n
		}
		if !t.Oldest.IsZero() && (v.OldestAt == nil || t.Oldest.Before(*v.OldestAt)) {
			v.OldestAt = given(t.Oldest)
		}
	}
	return v
}

func viewLane(name string, t outbox.TenantStats, lane outbox.Lane, s *snapshot, l diagnosis.Language) laneView {
	v := laneView{
		Tenant: name, Configured: s.tenants[name] != nil, Messages: map[outbox.State]int{}, OldestAt: given(t.Oldest),
		State: viewLaneState(lane), Since: given(lane.Since), Until: given(lane.Until), PausedBy: lane.By, Failure: viewFailure(lane.Failure, l),
	}
	for state, n := range t.Messages {
		if n != 0 {
			v.Messages[state] = n
		}
	}
	return v
}

func viewLaneState(l outbox.Lane) string { return cmp.Or(string(l.State), "open") }

// messagesView is a part of a list.
type messagesView struct {
	Messages []messageView `json:"messages"`
	// Next is `before` of the next part; not there at the end.
	Next string `json:"next,omitempty"`
}

// messageView is a message as administrators see it.
type messageView struct {
	ID        string     `json:"id"`
	MessageID string     `json:"message_id"`
	Tenant    string     `json:"tenant"`
	Caller    callerView `json:"caller"`
	RequestID string     `json:"request_id,omitempty"`
	From      string     `json:"from"`
	// Sender is the envelope's; empty for the null sender.
	Sender     string              `json:"sender"`
	Recipients []recipientView     `json:"recipients"`
	Size       int64               `json:"size"`
	State      outbox.State        `json:"state"`
	AcceptedAt time.Time           `json:"accepted_at"`
	ExpiresAt  *time.Time          `json:"expires_at,omitempty"`
	NextTryAt  *time.Time          `json:"next_try_at,omitempty"`
	Attempts   int                 `json:"attempts"`
	Failure    *messageFailureView `json:"failure,omitempty"`
	Delivery   *deliveryView       `json:"delivery,omitempty"`
	FinishedAt *time.Time          `json:"finished_at,omitempty"`
	// CanceledBy is who has canceled it.
	CanceledBy string `json:"canceled_by,omitempty"`
}

type callerView struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Addr string `json:"addr,omitempty"`
}

// recipientView is a recipient: "waiting", "accepted" or "refused". With the first,
// Kind and SMTP are why it was not accepted yet, if it was tried.
type recipientView struct {
	Address string     `json:"address"`
	State   string     `json:"state"`
	Kind    string     `json:"kind,omitempty"`
	SMTP    *smtpReply `json:"smtp,omitempty"`
}

// messageFailureView is why a message was not sent.
type messageFailureView struct {
	At        time.Time        `json:"at"`
	Stage     string           `json:"stage"`
	Kind      string           `json:"kind"`
	Code      string           `json:"code,omitempty"`
	Server    string           `json:"server,omitempty"`
	SMTP      *smtpReply       `json:"smtp,omitempty"`
	Cause     string           `json:"cause,omitempty"`
	Diagnosis diagnosis.Advice `json:"diagnosis"`
}

// words are those of the mail server, or what happened without any.
func (f *messageFailureView) words() string {
	if f.Cause != "" || f.SMTP == nil {
		return f.Cause
	}
	return "the mail server said: " + strings.Join(strings.Fields(fmt.Sprintf("%d %s %s", f.SMTP.Code, f.SMTP.Enhanced, f.SMTP.Text)), " ")
}

// deliveryView is how a message was sent.
type deliveryView struct {
	Tenant  string     `json:"tenant"`
	Server  string     `json:"server,omitempty"`
	SMTP    *smtpReply `json:"smtp,omitempty"`
	QueueID string     `json:"queue_id,omitempty"`
	Staging string     `json:"staging,omitempty"`
}

func viewMessage(m *outbox.Message, l diagnosis.Language) messageView {
	v := messageView{
		ID: m.ID, MessageID: m.MessageID, Tenant: m.Tenant, Caller: callerView{Kind: m.Caller.Kind, Name: m.Caller.Name},
		RequestID: m.Caller.Request, From: m.From.Mailbox(), Sender: m.Sender.Mailbox(), Recipients: []recipientView{},
		Size: m.Size, State: m.State, AcceptedAt: m.Accepted, ExpiresAt: given(m.Expires), NextTryAt: given(m.Due),
		Attempts: m.Attempts, Failure: viewFailure(m.Failure, l), FinishedAt: given(m.Finished), CanceledBy: m.By,
	}
	if m.State == outbox.StateHeld { // until a person decides
		v.ExpiresAt = nil
	}
	if m.Caller.Addr.IsValid() {
		v.Caller.Addr = m.Caller.Addr.String()
	}
	for _, r := range m.Recipients {
		v.Recipients = append(v.Recipients, viewRecipient(r))
	}
	if d := m.Delivery; d != nil {
		v.Delivery = &deliveryView{d.Tenant, d.Server, newSMTPReply(mailer.StageFinal, d.Reply), d.QueueID, d.Staging}
	}
	return v
}

func viewRecipient(r outbox.Recipient) recipientView {
	v := recipientView{Address: r.Address.Mailbox(), State: "waiting", SMTP: newSMTPReply(mailer.StageRcpt, r.Reply)}
	if r.Kind != mailer.KindNone {
		v.Kind = r.Kind.String()
	}
	switch {
	case r.Done && r.Kind == mailer.KindNone:
		v.State = "accepted"
	case r.Done:
		v.State = "refused"
	}
	return v
}

func viewFailure(f *outbox.Failure, l diagnosis.Language) *messageFailureView {
	if f == nil {
		return nil
	}
	return &messageFailureView{
		At: f.At, Stage: string(f.Stage), Kind: f.Kind.String(), Code: f.Code, Server: f.Server,
		SMTP: newSMTPReply(f.Stage, f.Reply), Cause: f.Cause, Diagnosis: f.Err().Diagnosis().Advice(l),
	}
}
