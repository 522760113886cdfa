package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// smtpServers are the SMTP servers in use, by the addresses that they listen at.
// Sockets stay open over reloads: connections that wait at one that closes are reset.
var smtpServers = caddy.NewUsagePool() // string → *smtpServer

// smtpSpool holds the messages that are being received, over all addresses.
var smtpSpool = &mailer.Spool{MaxBytes: 512 << 20}

// smtpServer is a socket with its sessions. New sessions begin with the configuration
// that has started last.
type smtpServer struct {
	address string
	socket  net.Listener
	server  *listener.Server
	// relay logs for the newest configuration, also what older sessions have to say, and
	// lines takes the lines that there are of each message.
	relay     relay
	lines     atomic.Pointer[zap.Logger]
	inventory inventory
	quiet     quiet

	mu      sync.Mutex
	serving bool
	claims  claims[App, smtpClaim]
}

// smtpClaim is what a configuration wants of an address.
type smtpClaim struct {
	entrance *smtpEntrance
	config   *listener.Config
}

// smtpServer takes a reference to the server of an address. A new one listens, and
// serves nobody yet.
func (h *holdings) smtpServer(a smtpAddress) (*smtpServer, error) {
	key := a.String()
	v, _, err := smtpServers.LoadOrNew(key, func() (caddy.Destructor, error) {
		l, err := a.Listen(context.Background(), 0, net.ListenConfig{})
		if err != nil {
			return nil, socketError(err)
		}
		socket, ok := l.(net.Listener)
		if !ok {
			return nil, fmt.Errorf("%s is no address for connections", key)
		}
		return &smtpServer{address: key, socket: socket, server: listener.New(new(listener.Config))}, nil
	})
	if err != nil {
		return nil, err
	}
	s := v.(*smtpServer)
	h.smtp = append(h.smtp, s)
	return s, nil
}

// hold has new sessions begin with a configuration that starts.
func (s *smtpServer) hold(by *App, e *smtpEntrance, c *listener.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims.add(by, smtpClaim{e, c})
	s.useLocked()
	if s.serving {
		return
	}
	s.serving = true
	go func() {
		if err := s.server.Serve(s.socket); err != nil {
			slog.New(&s.relay).Error("an SMTP address is no longer served", "address", s.address, "error", err)
		}
	}()
}

// withdraw has no more sessions begin with a configuration that ends.
func (s *smtpServer) withdraw(by *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims.withdraw(by)
	s.useLocked()
}

func (s *smtpServer) useLocked() {
	if c := s.claims.newest(); c != nil {
		s.relay.to(c.by.logger)
		s.lines.Store(c.by.lines)
		s.server.Use(c.want.config)
	}
}

// revoked reports that somebody who could send when his session began cannot sign in
// any more, or is in no such network.
func (s *smtpServer) revoked(e *smtpEntrance, id *listener.Identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.claims.newest()
	if c == nil {
		return false // the sessions end anyway
	}
	now := c.want.entrance
	return now != e && !now.knows(e, id)
}

// releaseSMTP gives the references of a configuration back.
func (h *holdings) releaseSMTP(a *App) {
	for _, s := range h.smtp {
		s.withdraw(a)
		_, _ = smtpServers.Delete(s.address)
	}
	h.smtp = nil
}

// Destruct closes the socket. It does not wait for sessions in which a message is
// under way; they have some time to end.
func (s *smtpServer) Destruct() error {
	_ = s.socket.Close() // a reload may want the address at once
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		s.shutdown(ctx)
	}()
	return nil
}

// shutdown ends the sessions: by force when ctx ends.
func (s *smtpServer) shutdown(ctx context.Context) {
	if err := s.server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		slog.New(&s.relay).Warn("SMTP sessions were cut in which a message was under way; their clients have to send it again", "address", s.address)
	}
}

// stopSMTP ends all sessions of an exit, before what they send with is closed.
func (h *holdings) stopSMTP(ctx context.Context) {
	var ended sync.WaitGroup
	for _, s := range h.smtp {
		ended.Go(func() { s.shutdown(ctx) })
	}
	ended.Wait()
}
