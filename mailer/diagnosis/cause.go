package diagnosis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// The causes where no server replied.
const (
	causeDNSNotFound        = "dns_not_found"
	causeDNS                = "dns" // other trouble with names
	causeRefused            = "refused"
	causeUnreachable        = "unreachable"
	causeTLSRecord          = "tls_record" // what came was not TLS
	causeUnknownAuthority   = "unknown_authority"
	causeWrongName          = "wrong_name"
	causeCertificateExpired = "certificate_expired" // or not valid yet
	causeCertificate        = "certificate"         // anything else about it
	causeTLSVersion         = "tls_version"
	causeTLSAlert           = "tls_alert" // the peer broke the handshake off
	causeTimeout            = "timeout"
	causeCanceled           = "canceled"
	causeClosed             = "closed"
	causePassing            = "passing" // no token, for now
)

// causes are all of them, for those who write the table.
var causes = []string{
	causeDNSNotFound, causeDNS, causeRefused, causeUnreachable, causeTLSRecord, causeUnknownAuthority, causeWrongName,
	causeCertificateExpired, causeCertificate, causeTLSVersion, causeTLSAlert, causeTimeout, causeCanceled, causeClosed, causePassing,
}

// causeOf finds the cause in an error by its type. The order is from what is
// told exactly to what might be anything.
func causeOf(stage string, err error) string {
	if err == nil {
		return ""
	}
	if stage == "token" {
		return tokenCause(err)
	}
	for _, find := range []func(error) string{dnsCause, tlsCause, networkCause} {
		if cause := find(err); cause != "" {
			return cause
		}
	}
	return ""
}

// tokenCause asks the error itself. What lies below it is not about the mail
// server.
func tokenCause(err error) string {
	var passing interface{ Temporary() bool }
	if errors.As(err, &passing) && passing.Temporary() ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return causePassing
	}
	return ""
}

func dnsCause(err error) string {
	e, ok := errors.AsType[*net.DNSError](err)
	switch {
	case !ok:
		return ""
	case e.IsNotFound:
		return causeDNSNotFound
	}
	return causeDNS
}

func tlsCause(err error) string {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return causeTLSRecord
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return causeUnknownAuthority
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return causeWrongName
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return causeCertificateExpired
	} else if ok {
		return causeCertificate
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return causeCertificate
	}
	// The errors of crypto/tls about versions and alerts have no type.
	if text := err.Error(); strings.Contains(text, "tls: ") && strings.Contains(text, "protocol version") {
		return causeTLSVersion
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return causeTLSAlert
	}
	return ""
}

func networkCause(err error) string {
	var timeout interface{ Timeout() bool }
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(syscall.ECONNREFUSED):
		return causeRefused
	case is(syscall.ENETUNREACH, syscall.EHOSTUNREACH):
		return causeUnreachable
	case is(context.Canceled):
		return causeCanceled
	case is(os.ErrDeadlineExceeded, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return causeTimeout
	case is(io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE):
		return causeClosed
	}
	return ""
}
