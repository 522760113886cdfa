package caddymodule

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// emailList is a part of the list of a caller's messages.
type emailList struct {
	Object  string      `json:"object"`
	HasMore bool        `json:"has_more"`
	Data    []emailItem `json:"data"`
}

// emailItem is a message in a list. Lists are never null, and times are in UTC: SDKs
// read them into types of their own.
type emailItem struct {
	ID        string   `json:"id"`
	MessageID string   `json:"message_id"`
	From      string   `json:"from"`
	To        []string `json:"to"`
	Cc        []string `json:"cc"`
	Bcc       []string `json:"bcc"`
	ReplyTo   []string `json:"reply_to"`
	// Subject is empty where it is not known.
	Subject     string     `json:"subject"`
	CreatedAt   time.Time  `json:"created_at"`
	ScheduledAt *time.Time `json:"scheduled_at"`
	LastEvent   string     `json:"last_event"`
}

// email is a message and what has become of it.
type email struct {
	Object string `json:"object"`
	emailItem
	// HTML and Text are null: bodies are not shown.
	HTML    *string      `json:"html"`
	Text    *string      `json:"text"`
	Tags    []mailer.Tag `json:"tags"`
	Details emailDetails `json:"oauth_mail"`
}

// emailDetails is what other services do not tell.
type emailDetails struct {
	Tenant string `json:"tenant"`
	// Status is the state in the outbox.
	Status     outbox.State `json:"status"`
	Attempts   int          `json:"attempts"`
	NextTryAt  *time.Time   `json:"next_try_at,omitempty"`
	ExpiresAt  *time.Time   `json:"expires_at,omitempty"`
	FinishedAt *time.Time   `json:"finished_at,omitempty"`
	// DetailCode and Diagnosis are of the last failure, and SMTP is the mail server's
	// last reply.
	DetailCode string            `json:"detail_code,omitempty"`
	SMTP       *smtpReply        `json:"smtp,omitempty"`
	Diagnosis  *diagnosis.Advice `json:"diagnosis,omitempty"`
	QueueID    string            `json:"queue_id,omitempty"`
	Staging    string            `json:"staging,omitempty"`
	// Metadata is as it came.
	Metadata   map[string]string `json:"metadata,omitempty"`
	Recipients []recipientView   `json:"recipients"`
}

func newEmailItem(m *outbox.Message) emailItem {
	v := emailItem{
		ID: m.ID, MessageID: m.MessageID, From: shown(m.From), To: []string{}, Cc: []string{}, Bcc: []string{}, ReplyTo: []string{},
		CreatedAt: m.Accepted.UTC(), LastEvent: lastEvent(m),
	}
	if m.State == outbox.StateScheduled {
		v.ScheduledAt = given(m.Due.UTC())
	}
	if s := m.Summary; s != nil {
		v.To, v.Cc, v.Bcc, v.ReplyTo, v.Subject = shownAll(s.To), shownAll(s.Cc), shownAll(s.Bcc), shownAll(s.ReplyTo), s.Subject
		return v
	}
	for _, r := range m.Recipients {
		v.To = append(v.To, r.Address.Mailbox())
	}
	return v
}

func newEmail(m *outbox.Message, l diagnosis.Language) email {
	v := email{Object: "email", emailItem: newEmailItem(m), Tags: []mailer.Tag{}, Details: emailDetails{
		Tenant: m.Tenant, Status: m.State, Attempts: m.Attempts, NextTryAt: given(m.Due.UTC()), FinishedAt: given(m.Finished.UTC()),
		Recipients: []recipientView{},
	}}
	d := &v.Details
	if s := m.Summary; s != nil {
		if s.Tags != nil {
			v.Tags = s.Tags
		}
		for _, note := range s.Metadata {
			if d.Metadata == nil {
				d.Metadata = make(map[string]string, len(s.Metadata))
			}
			d.Metadata[note.Name] = note.Value
		}
	}
	if !m.State.Final() && m.State != outbox.StateHeld {
		d.ExpiresAt = given(m.Expires.UTC())
	}
	if m.Failure != nil && m.State != outbox.StateSent {
		e := m.Failure.Err()
		p := mailProblem(e)
		d.DetailCode, d.SMTP = p.code, p.smtp
		if p.diagnosis != nil {
			advice := p.diagnosis.Advice(l)
			d.Diagnosis = &advice
		}
	}
	if t := m.Delivery; t != nil {
		d.QueueID, d.Staging = t.QueueID, t.Staging
		if m.State == outbox.StateSent {
			d.SMTP = newSMTPReply(mailer.StageFinal, t.Reply)
		}
	}
	for _, r := range m.Recipients {
		d.Recipients = append(d.Recipients, viewRecipient(r))
	}
	return v
}

// The last events of a message. They are Resend's, of those that are ever known here:
// its SDKs fail on others.
const (
	eventQueued    = "queued"
	eventScheduled = "scheduled"
	eventSent      = "sent"
	eventDelayed   = "delivery_delayed"
	eventFailed    = "failed"
	eventBounced   = "bounced"
	eventCanceled  = "canceled"
)

// lastEvent is what has last become of a message.
func lastEvent(m *outbox.Message) string {
	switch m.State {
	case outbox.StateScheduled:
		return eventScheduled
	case outbox.StateSent:
		return eventSent
	case outbox.StateCanceled:
		return eventCanceled
	case outbox.StateHeld:
		return eventDelayed
	case outbox.StateFailed:
		if f := m.Failure; f != nil && f.Kind == mailer.KindRejected && f.Reply.Code >= 500 {
			return eventBounced // the mail server wanted it not
		}
		return eventFailed
	case outbox.StateQueued, outbox.StateSending:
		if m.Failure != nil {
			return eventDelayed
		}
	}
	return eventQueued
}

// attachmentList are the attachments of a message.
type attachmentList struct {
	Object  string           `json:"object"`
	HasMore bool             `json:"has_more"`
	Data    []attachmentItem `json:"data"`
}

// attachmentItem is an attachment without its content.
type attachmentItem struct {
	ID          string `json:"id"`
	Filename    string `json:"filename"`
	Size        int64  `json:"size"`
	ContentType string `json:"content_type"`
	Disposition string `json:"content_disposition"`
	ContentID   string `json:"content_id,omitempty"`
}

func newAttachmentList(m *outbox.Message) attachmentList {
	v := attachmentList{Object: "list", Data: []attachmentItem{}}
	if m.Summary == nil {
		return v
	}
	for i, a := range m.Summary.Attachments {
		item := attachmentItem{attachmentID(m.ID, i), a.Filename, a.Size, a.ContentType, "attachment", a.ContentID}
		if a.Inline {
			item.Disposition = "inline"
		}
		v.Data = append(v.Data, item)
	}
	return v
}

// attachmentID is a UUID, as SDKs expect: the same one each time for a place in a
// message.
func attachmentID(message string, place int) string {
	parent, err := uuid.Parse(message)
	if err != nil {
		return message
	}
	return uuid.NewSHA1(parent, []byte(strconv.Itoa(place))).String()
}

// shown is an address as people read it: the name as it is, and quoted only where it
// could be taken for something else.
func shown(a mailer.Address) string {
	switch {
	case a.Name == "":
		return a.Mailbox()
	case strings.ContainsAny(a.Name, `()<>[]:;@\,."`):
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.Name) + `" <` + a.Mailbox() + ">"
	}
	return a.Name + " <" + a.Mailbox() + ">"
}

func shownAll(list []mailer.Address) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = shown(a)
	}
	return out
}
