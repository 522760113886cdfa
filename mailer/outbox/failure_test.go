package outbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

type passing struct{ error }

func (passing) Temporary() bool { return true }

// TestFailureDiagnosis: what is stored of an error means what the error meant, with what
// concerns its message and without.
func TestFailureDiagnosis(t *testing.T) {
	t.Parallel()
	dial := func(err error) error {
		return fmt.Errorf("dialing: %w", &net.OpError{Op: "dial", Net: "tcp", Err: err})
	}
	sendAs := "5.2.252 SendAsDenied; shop@example.com not allowed to send as desk@example.com"
	for _, tt := range []struct {
		e    mailer.Error
		want string
	}{
		{mailer.Error{Stage: mailer.StageConnect, Kind: mailer.KindTemporary, Err: dial(os.NewSyscallError("connect", syscall.ECONNREFUSED))}, "general.connection_refused"},
		{mailer.Error{Stage: mailer.StageDNS, Kind: mailer.KindTemporary, Err: dial(&net.DNSError{IsNotFound: true})}, "general.dns_not_found"},
		{mailer.Error{Stage: mailer.StageConnect, Kind: mailer.KindTemporary, Err: dial(os.ErrDeadlineExceeded)}, "general.connection_timed_out"},
		{mailer.Error{Stage: mailer.StageGreeting, Kind: mailer.KindTemporary, Err: io.EOF}, "general.greeting_closed"},
		{mailer.Error{Stage: mailer.StageToken, Kind: mailer.KindTemporary, Err: passing{errors.New("busy")}}, "general.token_unavailable"},
		{mailer.Error{Stage: mailer.StageToken, Kind: mailer.KindUnauthorized, Err: errors.New("nobody has signed in")}, "general.no_token"},
		{mailer.Error{Stage: mailer.StageConnect, Kind: mailer.KindTemporary, Code: "proxy_unreachable", Err: io.EOF}, "general.proxy_unreachable"},
		{mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindThrottled, Code: "mailbox_rate"}, "general.mailbox_rate"},
		{mailer.Error{
			Stage: mailer.StageFinal, Kind: mailer.KindRejected, Server: "smtp.office365.com:587",
			Reply: mailer.Reply{Code: 554, Text: sendAs},
		}, "exchange.send_as_denied"},
		{mailer.Error{
			Stage: mailer.StageAuth, Kind: mailer.KindUnauthorized, Server: "smtp.office365.com:587", Grant: diagnosis.GrantApp,
			Reply: mailer.Reply{Code: 535, Enhanced: mailer.EnhancedCode{5, 7, 3}, Text: "Authentication unsuccessful"},
		}, "exchange.app_token_refused"},
	} {
		if got := tt.e.Diagnosis().ID; got != tt.want {
			t.Errorf("%v: the error itself means %s, want %s", &tt.e, got, tt.want)
		}
		for _, e := range []*mailer.Error{&tt.e, tt.e.WithoutMessage()} {
			b, err := json.Marshal(outbox.NewFailure(time.Now(), e))
			if err != nil {
				t.Fatal(err)
			}
			var f outbox.Failure
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatal(err)
			}
			if got := f.Err().Diagnosis(); got != tt.e.Diagnosis() {
				t.Errorf("%v: stored %s means %s, want %s", e, b, got.ID, tt.want)
			}
		}
	}
	// A row that is not in the table any more, and a failure of before there were ids.
	for _, id := range []string{"general.gone", ""} {
		f := outbox.Failure{Stage: mailer.StageRcpt, Kind: mailer.KindTemporary, Reply: mailer.Reply{Code: 450, Text: "greylisted"}, Diagnosis: id}
		if got := f.Err().Diagnosis().ID; got != "general.greylisted" {
			t.Errorf("with the id %q: %s", id, got)
		}
	}
}
