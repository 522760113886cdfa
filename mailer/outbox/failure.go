package outbox

import (
	"errors"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// Failure is a [mailer.Error] in a form that can be stored.
type Failure struct {
	At         time.Time       `json:"at"`
	Stage      mailer.Stage    `json:"stage"`
	Kind       mailer.Kind     `json:"kind"`
	Server     string          `json:"server,omitempty"`
	Reply      mailer.Reply    `json:"reply,omitzero"`
	RetryAfter time.Duration   `json:"retry_after,omitempty"`
	Field      string          `json:"field,omitempty"`
	Code       string          `json:"code,omitempty"`
	AuthStatus string          `json:"auth_status,omitempty"`
	Grant      diagnosis.Grant `json:"grant,omitempty"`
	// Diagnosis is the id of the error's diagnosis, which what is stored of the error
	// might not lead to.
	Diagnosis string `json:"diagnosis,omitempty"`
	// Cause is the text of Err.
	Cause string `json:"cause,omitempty"`
}

// NewFailure makes a failure of an error.
func NewFailure(at time.Time, e *mailer.Error) *Failure {
	f := &Failure{
		At: at.UTC(), Stage: e.Stage, Kind: e.Kind, Server: e.Server, Reply: e.Reply, RetryAfter: e.RetryAfter,
		Field: e.Field, Code: e.Code, AuthStatus: e.AuthStatus, Grant: e.Grant,
		Diagnosis: e.Diagnosis().ID,
	}
	if e.Err != nil {
		f.Cause = e.Err.Error()
	}
	return f
}

// Err returns the error again, with its diagnosis. What it wraps is a text only.
func (f *Failure) Err() *mailer.Error {
	e := &mailer.Error{
		Stage: f.Stage, Kind: f.Kind, Server: f.Server, Reply: f.Reply, RetryAfter: f.RetryAfter,
		Field: f.Field, Code: f.Code, AuthStatus: f.AuthStatus, Grant: f.Grant,
		DiagnosisID: f.Diagnosis,
	}
	if f.Cause != "" {
		e.Err = errors.New(f.Cause)
	}
	return e
}
