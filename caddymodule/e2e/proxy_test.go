//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
)

// proxy stands before the authorization server, under its issuer's address. It
// keeps what was asked and answered, and makes trouble where a test wants some.
type proxy struct {
	URL *url.URL

	server  *httptest.Server
	backend string
	closed  chan struct{} // closed at the end of the test

	mu      sync.Mutex
	calls   []call
	faults  []*plannedFault
	secrets map[string]string // what must not show elsewhere, and what it is
}

// call is one request to the authorization server.
type call struct {
	Path   string
	Grant  string // grant_type, at the token endpoint
	Form   url.Values
	Status int // 0: there was no answer
	Answer map[string]any
}

// exchange is a call under way.
type exchange struct {
	http.ResponseWriter
	r       *http.Request
	form    url.Values
	closed  chan struct{}
	forward func() response
}

// response is what the authorization server answered.
type response struct {
	status int
	header http.Header
	body   []byte
}

func (x *exchange) write(a response) {
	for k, v := range a.header {
		if k != "Content-Length" {
			x.Header()[k] = v
		}
	}
	x.WriteHeader(a.status)
	_, _ = x.Write(a.body)
}

// fault answers in the authorization server's place.
type fault func(x *exchange)

type plannedFault struct {
	path, grant string
	left        int
	do          fault
}

// failWith answers with a status. A code is an OAuth error code, or empty.
func failWith(status int, code string, header ...string) fault {
	return func(x *exchange) {
		for i := 0; i+1 < len(header); i += 2 {
			x.Header().Set(header[i], header[i+1])
		}
		if code != "" {
			x.Header().Set("Content-Type", "application/json")
			x.WriteHeader(status)
			_ = json.NewEncoder(x).Encode(map[string]string{"error": code})
			return
		}
		http.Error(x, "<h1>"+http.StatusText(status)+"</h1>", status)
	}
}

// hang never answers.
func hang(x *exchange) {
	select {
	case <-x.r.Context().Done():
	case <-x.closed:
	}
	panic(http.ErrAbortHandler)
}

// garbage answers with something that is no JSON.
func garbage(x *exchange) {
	x.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(x, "<html><body>Welcome to our new portal!</body></html>")
}

// lost lets the authorization server act, and loses its answer.
func lost(x *exchange) {
	x.forward()
	panic(http.ErrAbortHandler)
}

// redirect sends the caller elsewhere, keeping method and body.
func redirect(to string) fault {
	return func(x *exchange) {
		x.Header().Set("Location", to)
		x.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// rewrite changes the answer's JSON.
func rewrite(change func(map[string]any)) fault {
	return func(x *exchange) {
		a := x.forward()
		var m map[string]any
		if json.Unmarshal(a.body, &m) == nil {
			change(m)
			a.body, _ = json.Marshal(m)
		}
		x.write(a)
	}
}

func newProxy(t testing.TB, backendPort int) *proxy {
	t.Helper()
	p := &proxy{backend: "127.0.0.1:" + strconv.Itoa(backendPort), closed: make(chan struct{}), secrets: map[string]string{}}
	p.server = httptest.NewServer(p)
	u, err := url.Parse(p.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = "localhost:" + u.Port()
	p.URL = u
	t.Cleanup(func() {
		close(p.closed)
		p.server.CloseClientConnections()
		p.server.Close()
	})
	return p
}

// plan makes the next calls of a path fail, and says how many are left to: all
// until the returned func is called, where times is negative. A grant narrows it
// to token requests of that type.
func (p *proxy) plan(path, grant string, times int, do fault) (cancel func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := &plannedFault{path: path, grant: grant, left: times, do: do}
	p.faults = append(p.faults, f)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		f.left = 0
	}
}

// count is how many calls there were of a path, and of a grant where it is given.
func (p *proxy) count(path, grant string) int { return len(p.called(path, grant)) }

func (p *proxy) called(path, grant string) []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []call
	for _, c := range p.calls {
		if c.Path == path && (grant == "" || c.Grant == grant) {
			found = append(found, c)
		}
	}
	return found
}

// keep notes a value that must not show anywhere.
func (p *proxy) keep(what, value string) {
	if value == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.secrets[value] == "" {
		p.secrets[value] = what
	}
}

// canaries returns what passed here and must not show elsewhere.
func (p *proxy) canaries() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := map[string]string{}
	for value, what := range p.secrets {
		found[value] = what
	}
	return found
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(body))
	c := call{Path: r.URL.Path, Form: form}
	if c.Path == "/token" {
		c.Grant = form.Get("grant_type")
	}
	for _, name := range []string{"code", "code_verifier", "refresh_token", "client_secret", "client_assertion", "device_code", "token"} {
		p.keep(name, form.Get(name))
	}
	p.mu.Lock()
	var do fault
	for _, f := range p.faults {
		if f.path == c.Path && (f.grant == "" || f.grant == c.Grant) && f.left != 0 {
			f.left--
			do = f.do
			break
		}
	}
	p.calls = append(p.calls, c)
	index := len(p.calls) - 1
	p.mu.Unlock()
	x := &exchange{ResponseWriter: w, r: r, form: form, closed: p.closed}
	x.forward = func() response {
		a := p.forward(r, body)
		p.note(index, a)
		return a
	}
	if do != nil {
		do(x)
		return
	}
	x.write(x.forward())
}

// forward asks the authorization server.
func (p *proxy) forward(r *http.Request, body []byte) response {
	out, err := http.NewRequest(r.Method, "http://"+p.backend+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return response{status: http.StatusBadGateway}
	}
	out.Host = r.Host
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding")
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		return response{status: http.StatusBadGateway}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return response{status: http.StatusBadGateway}
	}
	return response{resp.StatusCode, resp.Header, answer}
}

// note keeps an answer, and the secrets in it.
func (p *proxy) note(index int, a response) {
	if at, err := url.Parse(a.header.Get("Location")); err == nil {
		p.keep("code", at.Query().Get("code"))
	}
	var m map[string]any
	if json.Unmarshal(a.body, &m) == nil {
		for _, name := range []string{"access_token", "refresh_token", "id_token"} {
			value, _ := m[name].(string)
			p.keep(name, value)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[index].Status, p.calls[index].Answer = a.status, m
}
