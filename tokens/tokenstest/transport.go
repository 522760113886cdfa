package tokenstest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
)

// RoundTrip answers a request without a network. As a real transport it tells
// the request's trace that the headers were written.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.WroteHeaders != nil {
		t.WroteHeaders()
	}
	form := url.Values{}
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body.Close()
		if form, err = url.ParseQuery(string(body)); err != nil {
			return nil, err
		}
	}
	a, err := s.handle(r, form)
	if err != nil {
		return nil, err
	}
	header := a.header
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r,
	}, nil
}

// ServeHTTP answers a request over a network. An answer that is to be lost
// breaks the connection.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, PathAuthorize) {
		s.authorize(w, r)
		return
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	a, err := s.handle(r, r.PostForm)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// authorize has the person named in login_hint consent at once.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	answer, err := s.Consent(s.Issuer+PathAuthorize+"?"+r.URL.RawQuery, q.Get("login_hint"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+answer.Encode(), http.StatusFound)
}

// handle finds the endpoint.
func (s *Server) handle(r *http.Request, form url.Values) (answer, error) {
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		return answer{}, err
	}
	base := strings.TrimSuffix(issuer.Path, "/")
	oidc, oauth := base+"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"+base
	switch r.Method + " " + r.URL.Path {
	case "GET " + oidc:
		if s.PlainOAuth {
			break
		}
		return s.metadata(), nil
	case "GET " + oauth:
		return s.metadata(), nil
	case "POST " + base + PathToken:
		return s.scripted(r, form, func() answer {
			if form.Get("grant_type") == deviceGrant {
				return s.deviceToken(form, r.Header)
			}
			return s.token(form, r.Header)
		})
	case "POST " + base + PathDevice:
		return s.scripted(r, form, func() answer { return s.deviceAuthorization(form, r.Header) })
	case "POST " + base + PathRevoke:
		return s.scripted(r, form, func() answer { return s.revoke(form, r.Header) })
	}
	return answer{status: http.StatusNotFound, body: []byte("not found")}, nil
}

// scripted notes a request and answers it as scripted, or as it should be.
func (s *Server) scripted(r *http.Request, form url.Values, proper func() answer) (answer, error) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.URL.Path, form, r.Header.Clone()})
	var next Reply
	if len(s.replies) > 0 {
		next, s.replies = s.replies[0], s.replies[1:]
	}
	s.mu.Unlock()
	if next == nil {
		return proper(), nil
	}
	return next(r, form, proper)
}
