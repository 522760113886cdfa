package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/user"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// adminClient calls the administration on Caddy's admin API. Caddy's own client for it
// makes one text of every error, and cannot read an answer piece by piece.
type adminClient struct {
	client *http.Client
	// address is where the API is, origin what its URLs begin with, and sendOrigin
	// whether requests name it, as they must over TCP.
	address, origin string
	sendOrigin      bool
	tokenFile       string
	token           string
	language        diagnosis.Language
}

// tokenFileVariable names a file with the management token.
const tokenFileVariable = "OAUTH_MAIL_TOKEN_FILE" //nolint:gosec // a name

// connect finds the admin API.
func (c *commandLine) connect() error {
	address, err := caddycmd.DetermineAdminAPIAddress(c.text("address"), nil, c.text("config"), c.text("adapter"))
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return &exit{exitUsage, fmt.Sprintf("%q is no address of an admin API", address)}
	}
	api := &adminClient{address: address, origin: "http://127.0.0.1", tokenFile: c.text("token-file"), language: c.language}
	if api.tokenFile == "" {
		api.tokenFile = os.Getenv(tokenFileVariable)
	}
	target := parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		target, _, _ = strings.Cut(parsed.Host, "|") // permissions
	} else if !parsed.IsFdNetwork() {
		api.origin, api.sendOrigin = "http://"+target, true
	}
	api.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, parsed.Network, target)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.api = api
	return nil
}

// answerError is an RFC 9457 problem of the administration.
type answerError struct {
	Status    int              `json:"status"`
	Detail    string           `json:"detail"`
	Reason    string           `json:"reason"`
	Who       string           `json:"who"`
	Do        string           `json:"do"`
	Name      string           `json:"name"`
	TokenFile string           `json:"token_file"`
	Diagnosis diagnosis.Advice `json:"diagnosis"`
}

func (p *answerError) Error() string {
	text := strings.TrimSuffix(p.Detail, ".")
	if p.Diagnosis.Meaning != "" {
		text += ".\n" + p.Diagnosis.Meaning + "\nTo do (" + string(p.Diagnosis.Who) + "):"
		for _, step := range p.Diagnosis.Do {
			text += "\n  - " + step
		}
		return text
	}
	if p.Do != "" {
		text += ".\nTo do (" + p.Who + "): " + p.Do
	}
	return text
}

// exit is the exit code that the problem amounts to.
func (p *answerError) exit() error {
	if p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden && p.Name == "" {
		return &exit{exitDenied, p.Error()}
	}
	return &exit{exitFailed, p.Error()}
}

// request makes a request; the answer is good, or an error.
func (a *adminClient) request(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.origin+adminAPIPath+path, body)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if a.sendOrigin {
		req.Header.Set("Origin", a.origin)
	}
	if u, err := user.Current(); err == nil {
		req.Header.Set(userHeader, u.Username)
	}
	req.Header.Set("Accept-Language", string(a.language))
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &exit{exitAway, fmt.Sprintf("no Caddy answers at %s (%v); start it, or name its admin API with --address; a configuration with `admin off` has none", a.address, err)}
	}
	if resp.StatusCode < 300 || strings.HasPrefix(path, "/health") && resp.StatusCode == http.StatusServiceUnavailable {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	p := &answerError{Status: resp.StatusCode}
	if json.Unmarshal(text, p) != nil || p.Detail == "" {
		if resp.StatusCode == http.StatusNotFound {
			return nil, &exit{exitAway, "the Caddy at " + a.address + " has no oauth_mail built in, or an older one"}
		}
		return nil, &exit{exitAway, fmt.Sprintf("the admin API at %s says: HTTP %d %s", a.address, resp.StatusCode, bytes.TrimSpace(text))}
	}
	if resp.StatusCode == http.StatusServiceUnavailable && p.Name == "" {
		return nil, &exit{exitAway, p.Detail}
	}
	return nil, p
}

// authorize gets the management token, from the file that was named or from where the
// server says that it lies.
func (a *adminClient) authorize(ctx context.Context) error {
	if a.token != "" {
		return nil
	}
	name := a.tokenFile
	if name == "" {
		resp, err := a.request(ctx, http.MethodGet, strings.TrimPrefix(tokenFilePath, adminAPIPath), nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var v struct {
			TokenFile string `json:"token_file"`
		}
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&v); err != nil || !strings.HasSuffix(v.TokenFile, managementTokenSuffix) {
			return &exit{exitDenied, "the server does not say where its management token lies; name the file with --token-file"}
		}
		name = v.TokenFile
	}
	token, err := readManagementToken(name)
	switch {
	case errors.Is(err, os.ErrPermission):
		return &exit{exitDenied, "this needs the management token in " + name + ", which only Caddy's user and root can read; run the command as one of them, with sudo for example"}
	case errors.Is(err, os.ErrNotExist):
		return &exit{exitDenied, "this needs the management token in " + name + ", which is not there; if Caddy runs in a container, run the command in it, too; if the file was deleted, load the configuration again"}
	case err != nil:
		return &exit{exitDenied, err.Error()}
	}
	a.token = token
	return nil
}

// do makes a call and returns its answer. What is not GET needs the token.
func (c *commandLine) do(method, path string, body any) (json.RawMessage, error) {
	resp, err := c.open(method, path, body, "application/json")
	if err != nil {
		return nil, err
	}
	return wholeAnswer(resp)
}

// wholeAnswer reads an answer to its end.
func wholeAnswer(resp *http.Response) (json.RawMessage, error) {
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	return text, nil
}

// get reads an answer into v.
func (c *commandLine) get(path string, v any) error {
	answer, err := c.do(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	return understand(answer, v)
}

// open makes a call whose answer is read by the caller.
func (c *commandLine) open(method, path string, body any, accept string) (*http.Response, error) {
	if c.api == nil {
		if err := c.connect(); err != nil {
			return nil, err
		}
	}
	header := http.Header{"Accept": {accept}}
	var content io.Reader
	if method != http.MethodGet {
		if err := c.api.authorize(c.cmd.Context()); err != nil {
			return nil, err
		}
		header.Set("Content-Type", "application/json")
		if method == http.MethodDelete {
			header.Set("If-Match", "*") // what is there by now goes
		}
		if body == nil {
			body = struct{}{}
		}
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	resp, err := c.api.request(c.cmd.Context(), method, path, header, content)
	if p, ok := errors.AsType[*answerError](err); ok {
		return nil, p.exit()
	}
	return resp, err
}

// stream makes a call whose answer comes in lines, and hands out each. The last one is
// returned.
func (c *commandLine) stream(path string, body any, line func(json.RawMessage) error) (last json.RawMessage, err error) {
	resp, err := c.open(http.MethodPost, path, body, ndjson)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if last != nil {
			if err := line(last); err != nil {
				return nil, err
			}
		}
		last = bytes.Clone(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	return last, nil
}

// send posts a message.
func (a *adminClient) send(ctx context.Context, path string, header http.Header, message []byte) (json.RawMessage, error) {
	resp, err := a.request(ctx, http.MethodPost, path, header, bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	return wholeAnswer(resp)
}
