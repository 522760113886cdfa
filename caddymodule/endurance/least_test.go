//go:build endurance

package endurance

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

func init() {
	caddy.RegisterModule(new(leastHandler))
	httpcaddyfile.RegisterHandlerDirective("least", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		least := new(leastHandler)
		h.Next()
		return least, json.Unmarshal([]byte(h.RemainingArgs()[0]), least)
	})
	httpcaddyfile.RegisterDirectiveOrder("least", httpcaddyfile.Before, "respond")
}

// leastSite is a site with the handler at a path besides others.
func leastSite(caddyfile, path string, least *leastHandler) string {
	settings, err := json.Marshal(least)
	if err != nil {
		panic(err)
	}
	return strings.Replace(caddyfile, "\thandle /respond {", fmt.Sprintf("\thandle %s {\n\t\tleast `%s`\n\t}\n\thandle /respond {", path, settings), 1)
}

// leastHandler is the least that a handler of Caddy has to do which takes a message in
// JSON and sends it, or stores it before it answers. It knows no keys and no tenants,
// checks nothing, asks for nobody's permission, logs nothing, tries once, and never reads
// what it has stored. No send route that is of use can be faster by much.
type leastHandler struct {
	// Journal is the file that messages are stored in, sealed. Otherwise they are sent to
	// the server at Port, whose authority is in the file CA.
	Journal  string `json:"journal,omitempty"`
	Port     int    `json:"port,omitempty"`
	CA       string `json:"ca,omitempty"`
	Chunking bool   `json:"chunking,omitempty"`

	journal *leastJournal
	seal    cipher.AEAD
	server  contest.Server

	mu   sync.Mutex
	idle []*contest.Hand
}

// CaddyModule says that it is a handler.
func (*leastHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.least", New: func() caddy.Module { return new(leastHandler) }}
}

// Provision opens what it writes to.
func (h *leastHandler) Provision(caddy.Context) (err error) {
	if h.Journal == "" {
		text, err := os.ReadFile(h.CA)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		h.server = contest.Server{Host: "127.0.0.1", Port: h.Port, Roots: roots}
		return err
	}
	block, err := aes.NewCipher(make([]byte, 32))
	if err == nil {
		h.seal, err = cipher.NewGCMWithRandomNonce(block)
	}
	if err == nil {
		h.journal, err = newLeastJournal(h.Journal)
	}
	return err
}

var leastDesks = sync.Pool{New: func() any { return new(leastDesk) }}

// leastDesk is where a request is handled.
type leastDesk struct{ body, message bytes.Buffer }

// ServeHTTP takes a message.
func (h *leastHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	desk := leastDesks.Get().(*leastDesk)
	defer leastDesks.Put(desk)
	desk.body.Reset()
	desk.message.Reset()
	if _, err := desk.body.ReadFrom(io.LimitReader(r.Body, 1<<20)); err != nil {
		return err
	}
	var email struct{ To, Subject, Text string }
	if err := json.Unmarshal(desk.body.Bytes(), &email); err != nil {
		return err
	}
	id := rand.Text()
	fmt.Fprintf(&desk.message, "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\nDate: ", Sender, email.To, email.Subject)
	desk.message.Write(time.Now().AppendFormat(desk.message.AvailableBuffer(), time.RFC1123Z))
	fmt.Fprintf(&desk.message, "\r\nMessage-ID: <%s@example.com>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", id)
	for rest := []byte(email.Text); len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		desk.message.Write(line)
		desk.message.WriteString("\r\n")
		rest = after
	}
	status := http.StatusOK
	if h.journal != nil {
		status = http.StatusAccepted
		<-h.journal.add(h.seal.Seal(desk.body.Bytes()[:0], nil, desk.message.Bytes(), nil))
	} else if err := h.send(desk.message.Bytes()); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err := fmt.Fprintf(w, "{\"id\":%q}", id)
	return err
}

// send sends over a connection that nobody uses, or a new one.
func (h *leastHandler) send(message []byte) (err error) {
	var hand *contest.Hand
	h.mu.Lock()
	if n := len(h.idle); n > 0 {
		hand, h.idle = h.idle[n-1], h.idle[:n-1]
	}
	h.mu.Unlock()
	if hand == nil {
		if hand, err = h.server.Dial(); err != nil {
			return err
		}
	}
	if h.Chunking {
		err = hand.SendAtOnce(message)
	} else {
		err = hand.Send(message)
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.idle = append(h.idle, hand)
	h.mu.Unlock()
	return nil
}
