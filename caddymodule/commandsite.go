package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// keyVariable holds an API key, keyFileVariable names a file with one.
const (
	keyVariable     = "OAUTH_MAIL_KEY"
	keyFileVariable = "OAUTH_MAIL_KEY_FILE"
)

// siteTimeout bounds a call of the send route, which answers within half a minute.
const siteTimeout = 2 * time.Minute

// mailSite is the send route of a site. Whoever has one of its API keys may use it: who
// must not have the management token need not.
type mailSite struct {
	// address is that of the site, in words; emails is where mail goes.
	address, emails string
	key             string
}

// newMailSite returns the send route of the site at an address, for the API key in a file
// or in the environment. An empty tenant is the key's.
func newMailSite(address, keyFile, tenant string) (*mailSite, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("site: %q is no address such as https://mail.example.com", address)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("site: %q would have the key go over the network unencrypted; write https://", address)
	}
	s := &mailSite{address: address, key: os.Getenv(keyVariable)}
	path := []string{"emails"}
	if tenant != "" {
		path = []string{"t", tenant, "emails"}
	}
	s.emails = u.JoinPath(path...).String()
	if name := os.Getenv(keyFileVariable); name != "" {
		keyFile = name
	}
	if s.key == "" && keyFile != "" {
		text, err := os.ReadFile(keyFile) //nolint:gosec // whoever names it can read it
		if err != nil {
			return nil, fmt.Errorf("the API key cannot be read: %w", err)
		}
		s.key = string(text)
	}
	s.key = strings.TrimSpace(s.key)
	if strings.ContainsFunc(s.key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("what is given as the API key is none: it is one word")
	}
	return s, nil
}

// post hands a message over. The error of a site that refuses it is an [*answerError].
func (s *mailSite) post(ctx context.Context, header http.Header, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, siteTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.emails, bytes.NewReader(message))
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", typeMessage)
	req.Header.Set("Accept", "application/problem+json")
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
	// The key is for this site alone.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return &exit{exitAway, fmt.Sprintf("no site answers at %s: %v", s.address, err)}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	var taken sent
	if resp.StatusCode < 300 && json.Unmarshal(text, &taken) == nil && taken.ID != "" {
		return nil
	}
	p := &answerError{}
	if resp.StatusCode < 300 || json.Unmarshal(text, p) != nil || p.Detail == "" {
		// Whatever it is, it has not taken the mail.
		p = &answerError{Detail: fmt.Sprintf("the site at %s answers HTTP %d, and not as a send route of oauth_mail does", s.address, resp.StatusCode)}
	}
	p.Status = resp.StatusCode
	return p
}
