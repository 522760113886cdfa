package mailer

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// stepJSON is a [Step] for pages and programs.
type stepJSON struct {
	Stage      Stage      `json:"stage"`
	Round      int        `json:"round,omitempty"`
	Status     string     `json:"status"`
	StartedAt  time.Time  `json:"started_at,omitzero"`
	DurationMS *float64   `json:"duration_ms,omitempty"`
	Why        string     `json:"why,omitempty"`
	Facts      Facts      `json:"facts,omitzero"`
	Error      *errorJSON `json:"error,omitempty"`
}

// errorJSON is an [Error] for pages and programs.
type errorJSON struct {
	Stage   Stage      `json:"stage"`
	Kind    string     `json:"kind"`
	Code    string     `json:"code,omitempty"`
	Message string     `json:"message"`
	Reply   *replyJSON `json:"reply,omitempty"`
	// AuthStatus is the status in the challenge that announced the refusal.
	AuthStatus string        `json:"auth_status,omitempty"`
	Diagnosis  diagnosisJSON `json:"diagnosis"`
}

// diagnosisJSON is a [diagnosis.Diagnosis] in all languages.
type diagnosisJSON struct {
	ID       string          `json:"id"`
	Class    diagnosis.Class `json:"class"`
	Who      diagnosis.Who   `json:"who"`
	English  diagnosis.Text  `json:"en"`
	Japanese diagnosis.Text  `json:"ja"`
}

type replyJSON struct {
	Code     int    `json:"code"`
	Enhanced string `json:"enhanced,omitempty"`
	Text     string `json:"text"`
}

func newErrorJSON(e *Error) *errorJSON {
	if e == nil {
		return nil
	}
	j := &errorJSON{Stage: e.Stage, Kind: e.Kind.String(), Code: e.Code, Message: e.Error(), AuthStatus: e.AuthStatus}
	if r := e.Reply; r.Code != 0 {
		j.Reply = &replyJSON{r.Code, r.Enhanced.String(), r.Text}
	}
	d := e.Diagnosis()
	j.Diagnosis = diagnosisJSON{d.ID, d.Class, d.Who, d.In(diagnosis.English), d.In(diagnosis.Japanese)}
	return j
}

func milliseconds(d time.Duration) *float64 {
	ms := float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
	return &ms
}

// MarshalJSON implements [json.Marshaler]. The status is "ok", "failed" or
// "skipped".
func (s Step) MarshalJSON() ([]byte, error) {
	j := stepJSON{Stage: s.Stage, Status: "ok", StartedAt: s.Began, Why: s.Skipped, Facts: s.Facts, Error: newErrorJSON(s.Err)}
	if s.Round > 1 {
		j.Round = s.Round
	}
	switch {
	case s.Skipped != "":
		j.Status = "skipped"
		return json.Marshal(j)
	case s.Err != nil:
		j.Status = "failed"
	}
	j.DurationMS = milliseconds(s.Took)
	return json.Marshal(j)
}

// testNote says what a test that passed does not prove.
const testNote = "no mail was sent; whether the mailbox may send as this sender, only a test mail proves, since some servers refuse it with the content"

// MarshalJSON implements [json.Marshaler].
func (v Verdict) MarshalJSON() ([]byte, error) {
	j := struct {
		OK          bool       `json:"ok"`
		Tenant      string     `json:"tenant,omitempty"`
		Server      string     `json:"server"`
		FailedStage Stage      `json:"failed_stage,omitempty"`
		DurationMS  *float64   `json:"duration_ms"`
		Error       *errorJSON `json:"error,omitempty"`
		Note        string     `json:"note,omitempty"`
		Steps       []Step     `json:"steps,omitempty"`
	}{OK: v.Err == nil, Tenant: v.Tenant, Server: v.Server, DurationMS: milliseconds(v.Took), Error: newErrorJSON(v.Err), Steps: v.Steps}
	if v.Err == nil {
		j.Note = testNote
	} else {
		j.FailedStage = v.FailedStage()
	}
	return json.Marshal(j)
}

// FailedStage is the stage in which the test failed; empty if it did not.
func (v Verdict) FailedStage() Stage {
	if v.Err == nil {
		return ""
	}
	for _, s := range slices.Backward(v.Steps) {
		if s.Err != nil {
			return s.Stage
		}
	}
	return v.Err.Stage
}
