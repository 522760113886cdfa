package mailer

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// inTurn submits messages of which all but the first wait for its connection when
// its content begins, and returns what has become of them.
func inTurn(t *testing.T, n int, content wireContent, s *mailertest.Script) []Kind {
	t.Helper()
	tenant, _ := pooled(s, &Pool{Max: 1})
	defer tenant.Pool.Close()
	kinds := make([]Kind, n)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := tenant.Submit(t.Context(), letter, waitingContent{content, begin}, Options{}); err != nil {
				kinds[i] = asError(err).Kind
			}
		})
		synctest.Wait() // it has begun, or waits
	}
	close(begin)
	wg.Wait()
	return kinds
}

// TestNobodyFollowsUnasked: where the server does not offer PIPELINING no message
// announces itself behind the content of another.
func TestNobodyFollowsUnasked(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &mailertest.Script{Offer: shape.offer, Strict: true}
				kinds := inTurn(t, 4, bigger, s)
				if !slices.Equal(kinds, make([]Kind, 4)) || s.Sessions() != 1 || len(s.Contents()) != 4 {
					t.Errorf("kinds %v, %d sessions, %d contents; said %q", kinds, s.Sessions(), len(s.Contents()), s.Lines())
				}
			})
		})
	}
}

// TestRefusalsBefore: what becomes of the messages before it costs a message
// nothing, however often.
func TestRefusalsBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const no = "554 5.6.0 no"
		s := &mailertest.Script{
			Offer: []string{"PIPELINING"}, Strict: true,
			Answers: map[string][]string{mailertest.Content: {no, "", no, "", no, ""}},
		}
		kinds := inTurn(t, 6, hello, s)
		if want := []Kind{KindRejected, 0, KindRejected, 0, KindRejected, 0}; !slices.Equal(kinds, want) {
			t.Errorf("kinds %v, want %v; said %q", kinds, want, s.Lines())
		}
	})
}

// TestRefusedSenderCounts: a server that goes, as it has refused too many of the
// commands behind MAIL, has still refused the sender.
func TestRefusedSenderCounts(t *testing.T) {
	t.Parallel()
	for _, shape := range [][]string{{"PIPELINING"}, {"PIPELINING", "CHUNKING"}} {
		for _, end := range []string{"421 4.7.0 too many errors", mailertest.Close} {
			t.Run(fmt.Sprintf("%v/%q", shape, end), func(t *testing.T) {
				t.Parallel()
				s := &mailertest.Script{Offer: shape, Answers: map[string][]string{
					"MAIL": {"", "553 5.7.1 not yours", ""}, "RCPT": {"", "503 5.5.1 need MAIL", end, ""},
				}}
				tenant, _ := pooled(s, new(Pool))
				submit(t, tenant)
				env := Envelope{From: sender, To: []Address{someone, other, sender}}
				_, err := tenant.Submit(t.Context(), env, hello, Options{})
				if e := wantError(t, err, StageMail, KindRejected); e.Reply.Code != 553 {
					t.Errorf("%v", e)
				}
				submit(t, tenant)
				if n := len(s.Contents()); n != 2 || s.Sessions() != 2 {
					t.Errorf("%d contents, %d sessions; said %q", n, s.Sessions(), s.Lines())
				}
			})
		}
	}
}
