package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func urlOf(listeners []net.Listener) string {
	return fmt.Sprintf("http://localhost:%d", portOf(listeners[0]))
}

func TestBusyPort(t *testing.T) {
	t.Parallel()
	listeners, err := listenLoopback(0, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	port := portOf(listeners[0])
	_, listenErr := listenLoopback(port, "mail server")
	for name, err := range map[string]error{"listen": listenErr, "probe": portFree(t.Context(), port, "mail server")} {
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range []string{fmt.Sprintf("port %d", port), "mail server", "stop the program"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
	}
}

func TestLoopbackHost(t *testing.T) {
	t.Parallel()
	h := loopbackHost(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for host, want := range map[string]int{
		"localhost:8027":   http.StatusNoContent,
		"127.0.0.1:8027":   http.StatusNoContent,
		"[::1]:8027":       http.StatusNoContent,
		"localhost":        http.StatusNoContent,
		"evil.example":     http.StatusMisdirectedRequest,
		"evil.example:80":  http.StatusMisdirectedRequest,
		"192.0.2.1:8027":   http.StatusMisdirectedRequest,
		"localhost.evil:1": http.StatusMisdirectedRequest,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", host, w.Code, want)
		}
	}
}
