package caddymodule

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestPassOn: an unknown path is the next handler's, and never an empty 200.
func TestPassOn(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	tests := []struct {
		name   string
		next   caddyhttp.HandlerFunc
		status int
		body   string
		err    error
	}{
		{"nobody answers", func(http.ResponseWriter, *http.Request) error { return nil }, 404, "not here", nil},
		{"a status", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}, 204, "", nil},
		{"a body", func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.WriteString(w, "hello")
			return err
		}, 200, "hello", nil},
		{"a copied body", func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.Copy(w, strings.NewReader("hello"))
			return err
		}, 200, "hello", nil},
		{"a flush", func(w http.ResponseWriter, _ *http.Request) error {
			return http.NewResponseController(w).Flush()
		}, 200, "", nil},
		{"an error", func(http.ResponseWriter, *http.Request) error { return failed }, 200, "", failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			err := passOn(w, httptest.NewRequest("GET", "/other", nil), tt.next, func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "not here", http.StatusNotFound)
			})
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if w.Code != tt.status || strings.TrimSpace(w.Body.String()) != tt.body {
				t.Errorf("status %d, body %q; want %d, %q", w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}

// TestRoles: who may do what.
func TestRoles(t *testing.T) {
	t.Parallel()
	app := &App{logger: slog.New(slog.DiscardHandler)}
	s, err := build(settings{})
	if err != nil {
		t.Fatal(err)
	}
	app.registry.current.Store(s)
	const see, change = "/providers", "/accounts/p/a@example.com/authorize"
	named := map[string]string{"vera": "viewer", "otto": "operator", "anna": "admin"}
	tests := []struct {
		name         string
		user         string
		roles        map[string]string
		open         bool
		see, changed int // 404: let in, and there is no such account
	}{
		{"nobody", "", nil, false, 401, 401},
		{"nobody, where all may", "", nil, true, 200, 404},
		{"somebody, without roles", "bob", nil, false, 200, 404},
		{"viewer", "vera", named, false, 200, 403},
		{"operator", "otto", named, false, 200, 404},
		{"admin", "anna", named, false, 200, 404},
		{"not named", "bob", named, false, 403, 403},
		{"all others are viewers", "bob", map[string]string{"*": "viewer", "anna": "admin"}, false, 200, 403},
		{"named among all others", "anna", map[string]string{"*": "viewer", "anna": "admin"}, false, 200, 404},
		{"name that looks like a placeholder", "{env.HOME}", named, false, 403, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &Handler{User: "{http.auth.user.id}", Roles: tt.roles, AllowUnauthenticated: tt.open, app: app, logger: app.logger}
			call := func(method, target string) int {
				r := httptest.NewRequest(method, target, strings.NewReader("{}"))
				r.Header.Set("Content-Type", "application/json")
				r = r.WithContext(context.WithValue(r.Context(), caddyhttp.ExtraLogFieldsCtxKey, new(caddyhttp.ExtraLogFields)))
				repl := caddyhttp.NewTestReplacer(r)
				repl.Set("http.auth.user.id", tt.user)
				w := httptest.NewRecorder()
				next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
				if err := h.serveAdmin(w, caddyhttp.PrepareRequest(r, repl, w, nil), next); err != nil {
					t.Fatal(err)
				}
				return w.Code
			}
			if got := call("GET", see); got != tt.see {
				t.Errorf("GET %s: status %d, want %d", see, got, tt.see)
			}
			if got := call("POST", change); got != tt.changed {
				t.Errorf("POST %s: status %d, want %d", change, got, tt.changed)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }
