package mailer

import (
	"crypto/tls"
	"sync"
)

// Sessions keep TLS sessions, which shorten later handshakes. The zero value is ready to
// use. They may be used concurrently.
type Sessions struct {
	mu    sync.Mutex
	cache tls.ClientSessionCache
	// configs are settings by the host that is to prove itself. Each connection has them
	// as long as it lives: there may be very many, to few hosts.
	configs map[string]*tls.Config
}

// maxConfigs is how many hosts have their settings kept.
const maxConfigs = 1000

// config returns the settings for a handshake with a server.
func (s *Sessions) config(server *Server) *tls.Config {
	if s == nil {
		return newTLSConfig(server, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache == nil {
		s.cache = tls.NewLRUClientSessionCache(0)
	}
	if c := s.configs[server.Host]; c != nil && c.RootCAs == server.RootCAs {
		return c
	}
	c := newTLSConfig(server, s.cache)
	if s.configs == nil || len(s.configs) >= maxConfigs {
		s.configs = make(map[string]*tls.Config)
	}
	s.configs[server.Host] = c
	return c
}

func newTLSConfig(server *Server, sessions tls.ClientSessionCache) *tls.Config {
	return &tls.Config{
		ServerName:         server.Host,
		RootCAs:            server.RootCAs,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: sessions,
		// Small records help pages that are shown while they come in, not mail.
		DynamicRecordSizingDisabled: true,
	}
}
