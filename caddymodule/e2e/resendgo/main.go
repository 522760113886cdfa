// Command resendgo is an application that uses Resend's official SDKs for Go as their
// documentation says. Their base URL comes from RESEND_BASE_URL. It makes the calls that
// it is given as JSON, by the SDK of the major version in its argument, and prints what
// the SDK has told of each. It is to node/resend.mjs what Go is to Node.
//
// It is a module of its own so that this one's users do not get Resend's.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// call is one use of an SDK.
type call struct {
	Op          string
	Key         string
	Email       email
	Emails      []email
	ID          string
	Of          *int // the call whose id is meant where ID is empty
	ScheduledAt string
	Idempotency string
	Permissive  bool
}

type email struct {
	From, Subject, Text, HTML string
	To, Cc, Bcc               []string
	ReplyTo, ScheduledAt      string
	Headers                   map[string]string
	Tags                      []struct{ Name, Value string }
	Attachments               []attachment
}

type attachment struct {
	Filename, ContentType, ContentID string
	Bytes                            []byte
}

// result is what an SDK has told.
type result struct {
	ID    string `json:"id,omitempty"`
	Data  any    `json:"data,omitempty"`
	Error any    `json:"error,omitempty"`
}

// failure is an SDK's error.
type failure struct {
	Message string `json:"message"`
	// Those of the type that stands for a rate that was exceeded.
	RateLimit  bool   `json:"rateLimit"`
	Limit      string `json:"limit"`
	Remaining  string `json:"remaining"`
	Reset      string `json:"reset"`
	RetryAfter string `json:"retryAfter"`
}

func main() {
	do := map[string]func(call) (id string, data any, err error){"v2": doV2, "v3": doV3}[os.Args[1]]
	var calls []call
	if err := json.NewDecoder(os.Stdin).Decode(&calls); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	results := make([]result, 0, len(calls))
	for _, c := range calls {
		if c.ID == "" && c.Of != nil {
			c.ID = results[*c.Of].ID
		}
		id, data, err := do(c)
		r := result{ID: id, Data: data}
		if err != nil {
			r = result{Error: explain(err)}
		}
		results = append(results, r)
	}
	_ = json.NewEncoder(os.Stdout).Encode(results)
}

func explain(err error) failure {
	if f, ok := explainV2(err); ok {
		return f
	}
	if f, ok := explainV3(err); ok {
		return f
	}
	return failure{Message: err.Error()}
}
