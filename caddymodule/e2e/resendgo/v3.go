//nolint:dupl // Each major version has types of its own, and no interface spans them.
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/resend/resend-go/v3"
)

func doV3(c call) (id string, data any, err error) {
	client := resend.NewClient(c.Key)
	ctx := context.Background()
	switch c.Op {
	case "send":
		var sent *resend.SendEmailResponse
		if sent, err = client.Emails.SendWithOptions(ctx, requestV3(c.Email), &resend.SendEmailOptions{IdempotencyKey: c.Idempotency}); err == nil {
			id, data = sent.Id, sent
		}
	case "batch":
		requests := make([]*resend.SendEmailRequest, 0, len(c.Emails))
		for _, e := range c.Emails {
			requests = append(requests, requestV3(e))
		}
		options := &resend.BatchSendEmailOptions{IdempotencyKey: c.Idempotency}
		if c.Permissive {
			options.BatchValidation = resend.BatchValidationPermissive
		}
		data, err = client.Batch.SendWithOptions(ctx, requests, options)
	case "get":
		data, err = client.Emails.Get(c.ID)
	case "list":
		data, err = client.Emails.List()
	case "update":
		data, err = client.Emails.Update(&resend.UpdateEmailRequest{Id: c.ID, ScheduledAt: c.ScheduledAt})
	case "cancel":
		data, err = client.Emails.Cancel(c.ID)
	case "domains":
		data, err = client.Domains.List()
	default:
		err = fmt.Errorf("no call %q", c.Op)
	}
	return id, data, err
}

func requestV3(e email) *resend.SendEmailRequest {
	r := &resend.SendEmailRequest{
		From: e.From, To: e.To, Cc: e.Cc, Bcc: e.Bcc, ReplyTo: e.ReplyTo, Subject: e.Subject, Text: e.Text, Html: e.HTML,
		Headers: e.Headers, ScheduledAt: e.ScheduledAt,
	}
	for _, t := range e.Tags {
		r.Tags = append(r.Tags, resend.Tag(t))
	}
	for _, a := range e.Attachments {
		r.Attachments = append(r.Attachments, &resend.Attachment{
			Filename: a.Filename, ContentType: a.ContentType, ContentId: a.ContentID, Content: a.Bytes,
		})
	}
	return r
}

func explainV3(err error) (failure, bool) {
	r, ok := errors.AsType[*resend.RateLimitError](err)
	if !ok || !errors.Is(err, resend.ErrRateLimit) {
		return failure{}, false
	}
	return failure{r.Message, true, r.Limit, r.Remaining, r.Reset, r.RetryAfter}, true
}
