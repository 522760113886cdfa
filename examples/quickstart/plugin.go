package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"
)

// maxAnswer is as much of an answer as is read, in octets.
const maxAnswer = 1 << 20

// A plugin speaks to the plugin's endpoints as an operator and as a web application would.
type plugin struct {
	base     string // its URL, without a slash at the end
	operator string
	password string
	key      string // for the send route
	client   *http.Client
}

// An account is one mailbox as the admin endpoint tells of it.
type account struct {
	Provider string `json:"provider"`
	User     string `json:"user"`
	State    string `json:"state"`
}

// authorize asks for a link that lets the owner of a mailbox sign in.
func (p *plugin) authorize(ctx context.Context, provider, user string) (string, error) {
	path := "/admin/accounts/" + url.PathEscape(provider) + "/" + url.PathEscape(user) + "/authorize"
	var answer struct {
		URL     string    `json:"url"`
		Expires time.Time `json:"expires_at"`
	}
	err := p.call(ctx, http.MethodPost, path, p.asOperator, struct{}{}, http.StatusCreated, &answer)
	if err != nil {
		return "", err
	}
	if answer.URL == "" {
		return "", errors.New("the answer has no url")
	}
	return answer.URL, nil
}

// state answers what the plugin says of a mailbox, "unknown" when it doesn't know it.
func (p *plugin) state(ctx context.Context, provider, user string) (string, error) {
	var answer struct {
		Accounts []account `json:"accounts"`
	}
	err := p.call(ctx, http.MethodGet, "/admin/accounts", p.asOperator, nil, http.StatusOK, &answer)
	if err != nil {
		return "", err
	}
	for _, a := range answer.Accounts {
		if a.Provider == provider && a.User == user {
			return a.State, nil
		}
	}
	return "unknown", nil
}

// A post is the body of the send route, as far as it is used here.
type post struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

// A receipt is the send route's answer.
type receipt struct {
	ID        string `json:"id"`
	MessageID string `json:"message_id"`
	Status    string `json:"status"`
}

// send posts a mail and gives the plugin wait to have it delivered.
func (p *plugin) send(ctx context.Context, m post, wait time.Duration) (receipt, error) {
	var r receipt
	err := p.call(ctx, http.MethodPost, "/emails", func(req *http.Request) {
		req.Header.Set("Authorization", "Bearer "+p.key)
		req.Header.Set("Prefer", fmt.Sprintf("wait=%d", int(wait.Seconds())))
	}, m, http.StatusOK, &r)
	return r, err
}

func (p *plugin) asOperator(req *http.Request) { req.SetBasicAuth(p.operator, p.password) }

func (p *plugin) call(ctx context.Context, method, path string, sign func(*http.Request), body any, want int, answer any) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	sign(req)

	res, err := p.client.Do(req)
	if err != nil {
		return plainError(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return plainError(err)
	}
	if res.StatusCode != want {
		return fmt.Errorf("%s %s answered %s", method, path, describe(res, b))
	}
	err = json.Unmarshal(b, answer)
	if err != nil {
		return fmt.Errorf("%s %s answered no usable JSON: %w", method, path, err)
	}
	return nil
}

// plainError takes the URL out of an HTTP client's error, since it may carry a code or a ticket, and says in words
// that time ran out.
func plainError(err error) error {
	if where, ok := errors.AsType[*url.Error](err); ok {
		err = where.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
}

// describe puts an unwelcome answer in one line: the status and what a person would read of the body.
func describe(res *http.Response, body []byte) string {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	said := string(body)
	if kind == "text/html" {
		said = visibleText(body)
	}
	said = shorten(said, 300)
	if said == "" {
		return res.Status
	}
	return res.Status + ": " + said
}
