//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// answer is an HTTP answer.
type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

// name and code are what an error is called, roughly and finely.
func (a answer) name() string { s, _ := a.json["name"].(string); return s }
func (a answer) code() string { s, _ := a.json["detail_code"].(string); return s }

func (a answer) String() string { return fmt.Sprintf("status %d: %s", a.status, a.body) }

func (s *Stack) do(t testing.TB, r *http.Request) answer {
	t.Helper()
	client := &http.Client{Timeout: 2 * patience}
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &a.json)
	s.answers = append(s.answers, fmt.Sprint(resp.Header)+a.body)
	return a
}

// post sends a message, given as JSON, by a tenant.
func (s *Stack) post(t testing.TB, tenant string, message any) answer {
	t.Helper()
	r, err := s.newPost(tenant, message)
	if err != nil {
		t.Fatal(err)
	}
	return s.do(t, r)
}

// newPost makes the request that sends a message.
func (s *Stack) newPost(tenant string, message any) (*http.Request, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, s.URL+"/emails", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+s.keys[tenant])
	return r, nil
}

// Send sends a message that has to go.
func (s *Stack) Send(t testing.TB, tenant string, message any) answer {
	t.Helper()
	a := s.post(t, tenant, message)
	if a.status != http.StatusOK || a.json["status"] != "sent" {
		t.Fatalf("sending by %s: %s", tenant, a)
	}
	return a
}

// admin makes a call to the administration.
func (s *Stack) admin(t testing.TB, method, path string) answer {
	t.Helper()
	return s.administer(t, method, path, struct{}{})
}

// administer makes a call to the administration that has settings.
func (s *Stack) administer(t testing.TB, method, path string, settings any) answer {
	t.Helper()
	body, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(method, s.URL+"/admin"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(operator, operatorPassword)
	r.Header.Set("Content-Type", "application/json")
	return s.do(t, r)
}

// account returns the account as the administration shows it.
func (s *Stack) account(t testing.TB) account {
	t.Helper()
	a := s.admin(t, http.MethodGet, "/accounts/idp/"+s.user)
	var v account
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != http.StatusOK {
		t.Fatalf("the account: %s", a)
	}
	return v
}

// refresh asks the administration to renew the token now.
func (s *Stack) refresh(t testing.TB) answer {
	t.Helper()
	return s.admin(t, http.MethodPost, "/accounts/idp/"+s.user+"/refresh")
}

// account is an account as the administration shows it.
type account struct {
	State      string
	Generation uint64
	ExpiresAt  time.Time `json:"expires_at"`
	Failure    *struct{ Kind, Code, Description string }
}

func (a account) kind() string {
	if a.Failure == nil {
		return ""
	}
	return a.Failure.Kind
}

func (a account) String() string {
	return fmt.Sprintf("%s, generation %d, failure %+v", a.State, a.Generation, a.Failure)
}
