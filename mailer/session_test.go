package mailer

import (
	"crypto/x509"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestSessions: later handshakes are shortened, and trust is not: who is not
// trusted does not come in by a session from before.
func TestSessions(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{}
	var roots *x509.CertPool
	s.TLS, roots = mailertest.NewCertificate(t)
	s.TLS.SessionTicketsDisabled = false
	host, port := s.Listen(t)
	server := Server{Host: host, Port: port, RootCAs: roots, Sessions: new(Sessions)}
	signIn := func(s Server) (*TLSFacts, error) {
		var tls *TLSFacts
		err := (&Tenant{Server: s}).SignIn(withTrace(t.Context(), func(st Step) {
			if st.Stage == StageTLS {
				tls = st.Facts.TLS
			}
		}), nil)
		return tls, err
	}
	for i, resumed := range []bool{false, true, true} {
		facts, err := signIn(server)
		if err != nil || facts.Resumed != resumed || len(facts.Chain) != 2 {
			t.Errorf("%d: %v, %+v", i, err, facts)
		}
	}
	// The connection test looks at the certificate of today.
	got := (&Tenant{Server: server}).Test(t.Context(), Probe{})
	for _, st := range got.Steps {
		if st.Stage == StageTLS && (st.Err != nil || st.Facts.TLS.Resumed) {
			t.Errorf("%v, %+v", st.Err, st.Facts.TLS)
		}
	}
	other := server
	other.RootCAs = x509.NewCertPool()
	_, err := signIn(other)
	wantError(t, err, StageTLS, KindConfig)
}
