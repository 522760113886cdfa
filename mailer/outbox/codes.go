package outbox

// The codes of the errors of an outbox, in [mailer.Error.Code].
const (
	// CodeFull: there is no space for the message, which was not accepted.
	CodeFull = "outbox_full"
	// CodeUnavailable: the message could not be stored, and was not accepted.
	CodeUnavailable = "outbox_unavailable"
	// CodeUncertain: the storage did not answer for 25 s. The message may be accepted; a
	// repetition with the same idempotency key tells.
	CodeUncertain = "outbox_uncertain"
	// CodeBusy: as many senders wait for outcomes as may. The message is accepted, and sent
	// as any other.
	CodeBusy = "outbox_busy"
	// CodeConcurrent: a message with the same idempotency key is just being sent.
	CodeConcurrent = "concurrent_idempotent_requests"
	// CodeOtherRequest: the message with the same idempotency key was another.
	CodeOtherRequest = "invalid_idempotent_request"
	// CodeExpired: the message could not be sent in the time that it lives.
	CodeExpired = "expired"
	// CodeCanceled: the message was canceled, or dropped.
	CodeCanceled = "canceled"
	// CodeInterrupted: the process ended while it sent the message.
	CodeInterrupted = "interrupted"
	// CodeTenantGone: there is no such tenant any more.
	CodeTenantGone = "tenant_gone"
	// CodePaused: an operator has paused the tenant.
	CodePaused = "tenant_paused"
)
