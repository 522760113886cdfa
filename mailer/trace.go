package mailer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"
)

// StageReset is the end of a transaction by RSET. Steps of it are traced; errors
// of it have the stage of what was to be ended.
const StageReset Stage = "rset"

// Step is one stage of a session with a server, as it ended.
type Step struct {
	Stage Stage
	// Round is set by [Tenant.Test]: 1, and 2 for the stages that were gone through
	// again with another token, after the server had refused the first one.
	Round int
	// Began is when the stage began, and Took how long it lasted; both are zero
	// for a stage that was skipped.
	Began time.Time
	Took  time.Duration
	// Skipped is why the stage was not gone through; empty if it was.
	Skipped string
	Facts   Facts
	// Err is why the stage failed; nil if it did not.
	Err *Error
}

// Facts are what was learned in a stage, as far as it came. They hold no
// secret. What comes from the server is a stranger's text without control
// characters.
type Facts struct {
	// Addresses are the server's IP addresses, in the order in which they are
	// tried (dns).
	Addresses []string `json:"addresses,omitempty"`
	// Address is the one connected to, with its port; with a proxy it is the
	// proxy's (connect).
	Address string `json:"address,omitempty"`
	// Failed are the addresses that were tried in vain, with the reason (connect).
	Failed []string `json:"failed,omitempty"`
	// Proxy is scheme, host and port of the proxy (connect).
	Proxy string `json:"proxy,omitempty"`
	// TLS is the handshake; without a version, how far it came (tls).
	TLS *TLSFacts `json:"tls,omitempty"`
	// Greeting is the server's first words (greeting).
	Greeting string `json:"greeting,omitempty"`
	// Capabilities are the lines of the reply to EHLO, without the first (ehlo).
	Capabilities []string `json:"capabilities,omitempty"`
	// MaxSize is the largest message in octets that the server takes (RFC 1870);
	// zero where it does not say (ehlo).
	MaxSize int64 `json:"max_size,omitempty"`
	// Limits are the server's own (RFC 9422): MAILMAX, RCPTMAX, RCPTDOMAINMAX (ehlo).
	Limits map[string]int64 `json:"limits,omitempty"`
	// Mechanisms are the SASL mechanisms offered (ehlo, auth).
	Mechanisms []string `json:"mechanisms,omitempty"`
	// Mechanism is the one used (auth).
	Mechanism string `json:"mechanism,omitempty"`
	// Expires is when the access token ends, where that is known (token).
	Expires time.Time `json:"expires_at,omitzero"`
	// From is the sender that was tried (mail).
	From string `json:"from,omitempty"`
	// Reply is the server's last reply (starttls, auth, mail, rset).
	Reply string `json:"reply,omitempty"`
}

// TLSFacts are a handshake and the certificate that the server showed.
type TLSFacts struct {
	Version     string `json:"version,omitempty"`
	CipherSuite string `json:"cipher_suite,omitempty"`
	// Resumed: the certificate was verified on an earlier connection.
	Resumed bool     `json:"resumed,omitempty"`
	Subject string   `json:"subject,omitempty"`
	Names   []string `json:"names,omitempty"`
	Issuer  string   `json:"issuer,omitempty"`
	// NotBefore and NotAfter bound the certificate's life.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	// Chain are the subjects from the certificate to the authority that is
	// trusted; empty if it was not verified.
	Chain []string `json:"chain,omitempty"`
}

// withTrace returns a context whose sessions with servers tell report about each
// of their stages when it ends, up to the sign-in. Report is called on the
// goroutine that does the work.
func withTrace(ctx context.Context, report func(Step)) context.Context {
	return context.WithValue(ctx, traceKey{}, report)
}

type traceKey struct{}

// traced goes through a stage and tells the context's tracer how it ended. Where
// there is none, the facts are nil; their methods take that.
func traced(ctx context.Context, stage Stage, run func(*Facts) *Error) *Error {
	report, ok := ctx.Value(traceKey{}).(func(Step))
	if !ok {
		return run(nil)
	}
	s := Step{Stage: stage, Began: time.Now()}
	s.Err = run(&s.Facts)
	s.Took = time.Since(s.Began)
	report(s)
	return s.Err
}

// What is told of a server's words at most.
const (
	maxFacts    = 100 // items of a list
	maxFactText = 500 // octets of one
)

func factList(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, 0, min(len(list), maxFacts))
	for _, s := range list[:min(len(list), maxFacts)] {
		out = append(out, printable(s, maxFactText))
	}
	return out
}

func (f *Facts) greeting(raw rawReply) {
	if f != nil {
		f.Greeting = printable(strings.Join(raw.lines, " "), maxFactText)
	}
}

func (f *Facts) reply(raw rawReply) {
	if f != nil && raw.code != 0 {
		f.Reply = raw.reply().String()
	}
}

// hello tells what the server said to EHLO.
func (f *Facts) hello(c *Conn, raw rawReply) {
	if f == nil {
		return
	}
	f.Capabilities = factList(raw.lines[1:])
	f.MaxSize = c.offered.all().maxSize
	f.Mechanisms = c.mechanisms()
	limits, _ := c.offered.all().of("LIMITS")
	for word := range strings.FieldsSeq(strings.ToUpper(limits)) {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || (name != "MAILMAX" && name != "RCPTMAX" && name != "RCPTDOMAINMAX") {
			continue
		}
		if f.Limits == nil {
			f.Limits = make(map[string]int64)
		}
		f.Limits[name] = n
	}
}

// handshake tells of a handshake that came to err, or nil.
func (f *Facts) handshake(s tls.ConnectionState, err *Error) {
	if f == nil {
		return
	}
	t := &TLSFacts{}
	certificates := s.PeerCertificates
	if err == nil {
		t.Version, t.CipherSuite, t.Resumed = tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.DidResume
	} else if bad, ok := errors.AsType[*tls.CertificateVerificationError](err.Err); ok {
		certificates = bad.UnverifiedCertificates
	}
	if len(certificates) > 0 {
		t.certificate(certificates[0])
	}
	if err == nil && len(s.VerifiedChains) > 0 {
		for _, c := range s.VerifiedChains[0] {
			t.Chain = append(t.Chain, printable(c.Subject.String(), maxFactText))
		}
	}
	if err == nil || len(certificates) > 0 {
		f.TLS = t
	}
}

func (t *TLSFacts) certificate(c *x509.Certificate) {
	names := factList(c.DNSNames)
	for _, ip := range c.IPAddresses[:min(len(c.IPAddresses), maxFacts)] {
		names = append(names, ip.String())
	}
	t.Names = names
	t.Subject, t.Issuer = printable(c.Subject.String(), maxFactText), printable(c.Issuer.String(), maxFactText)
	t.NotBefore, t.NotAfter = c.NotBefore, c.NotAfter
}

// dialTrace tells about look-up and connection as two stages, though the dialer
// does both in one.
type dialTrace struct {
	report  func(Step)
	proxied bool // names are the proxy's own, and looked up by us; the server's is not
	began   time.Time

	mu     sync.Mutex // the dialer tries IPv4 and IPv6 at the same time
	looked time.Time
	failed []string
}

// traceDial returns a context for dialing that feeds the trace, which is nil
// where nobody listens.
func traceDial(ctx context.Context, proxied bool) (context.Context, *dialTrace) {
	report, ok := ctx.Value(traceKey{}).(func(Step))
	if !ok {
		return ctx, nil
	}
	d := &dialTrace{report: report, proxied: proxied, began: time.Now()}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{DNSDone: d.lookedUp, ConnectDone: d.tried}), d
}

func (d *dialTrace) lookedUp(i httptrace.DNSDoneInfo) {
	if d.proxied || i.Err != nil { // which is told at the end
		return
	}
	s := Step{Stage: StageDNS, Began: d.began, Took: time.Since(d.began)}
	for _, a := range i.Addrs[:min(len(i.Addrs), maxFacts)] {
		s.Facts.Addresses = append(s.Facts.Addresses, a.String())
	}
	d.mu.Lock()
	d.looked = time.Now()
	d.mu.Unlock()
	d.report(s)
}

func (d *dialTrace) tried(_, addr string, err error) {
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = append(d.failed, addr+": "+err.Error())
}

// done tells how it ended.
func (d *dialTrace) done(c *Conn, err *Error) {
	if d == nil {
		return
	}
	s := Step{Stage: StageConnect, Began: d.began, Err: err}
	d.mu.Lock()
	if !d.looked.IsZero() {
		s.Began = d.looked
	}
	s.Facts.Failed = factList(d.failed)
	d.mu.Unlock()
	s.Took = time.Since(s.Began)
	if err != nil && err.Stage == StageDNS {
		s.Stage = StageDNS
	}
	s.Facts.Proxy = c.server.Proxy.String()
	if err == nil {
		s.Facts.Address = remoteAddr(c.raw)
	}
	d.report(s)
}

func remoteAddr(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}
