package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// What the mail server says of a new token, what the provider says of who
// signed in, and what was there before: together they decide.
func TestVerdict(t *testing.T) {
	t.Parallel()
	const (
		nobody   = "nobody had signed in"
		same     = "the same person had"
		unknown  = "who had signed in is not known"
		other    = "another person had"
		provider = "another person had, at another provider"
	)
	refused := fmt.Errorf("535 5.7.139 SmtpClientAuthentication is disabled: %w", ErrRefused)
	unreachable := errors.New("no connection")
	none, named, boss := "", "noreply@example.com", "boss@example.com"
	for name, test := range map[string]struct {
		person string
		before string
		verify error
		reason Reason // empty: saved
		doubt  bool
	}{
		"let in":                         {named, nobody, nil, "", false},
		"let in by an alias":             {boss, nobody, nil, "", false},
		"let in, another person":         {named, other, nil, ReasonIdentity, false},
		"refused, named":                 {named, nobody, refused, "", true},
		"refused, named, as before":      {named, same, refused, "", true},
		"refused, named, who before":     {named, unknown, refused, ReasonMailServer, false},
		"refused, named, another":        {named, other, refused, ReasonIdentity, false},
		"refused, named, moved":          {named, provider, refused, "", true},
		"refused, somebody else":         {boss, nobody, refused, ReasonIdentity, false},
		"refused, somebody else, before": {boss, same, refused, ReasonIdentity, false},
		"refused, nameless":              {none, nobody, refused, ReasonMailServer, false},
		"refused, nameless, as before":   {none, same, refused, ReasonMailServer, false},
		"undecided, named":               {named, nobody, unreachable, "", true},
		"undecided, named, who before":   {named, unknown, unreachable, "", true},
		"undecided, nameless":            {none, nobody, unreachable, "", true},
		"undecided, somebody else":       {boss, nobody, unreachable, ReasonIdentity, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				old := *f.authorized()
				old.Registration = f.provider().Registration()
				switch test.before {
				case nobody:
					if err := f.store.Delete(t.Context(), f.account); err != nil {
						t.Fatal(err)
					}
				case same:
					old.Identity = Identity{Issuer: f.server.Issuer, Subject: "subject"}
				case other:
					old.Identity = Identity{Issuer: f.server.Issuer, Subject: "another subject"}
				case provider:
					old.Identity = Identity{Issuer: "https://other.example", Subject: "another subject"}
					old.Registration = Provider{Issuer: "https://other.example"}.Registration()
				}
				if test.before != nobody {
					f.save(&old)
				}
				f.server.Claims = func(claims map[string]any) {
					claims["sub"] = "subject"
					if test.person == none {
						delete(claims, "email")
					}
				}
				flow := f.flow()
				access := ""
				flow.Verify = func(_ context.Context, _ Account, token string) error {
					access = token
					if test.verify != nil {
						return fmt.Errorf("%w: it came with %s", test.verify, token)
					}
					return nil
				}
				s := f.signIn(flow, f.client, test.person)
				done, err := flow.Complete(t.Context(), s.client, s.response, s.cookie)
				if test.reason != "" {
					var fe *FlowError
					if !errors.As(err, &fe) || fe.Reason != test.reason || done != nil {
						t.Fatalf("Complete = %+v, %v; want reason %s", done, err, test.reason)
					}
					if strings.Contains(err.Error(), access) {
						t.Errorf("the access token shows in %v", err)
					}
					if got := f.stored(); test.before != nobody && got.RefreshToken.Reveal() != old.RefreshToken.Reveal() {
						t.Error("the old token was not kept")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := f.stored(); got.RefreshToken.Reveal() != done.Token.RefreshToken.Reveal() {
					t.Error("the token was not saved")
				}
				if (done.Doubt != nil) != test.doubt {
					t.Fatalf("doubt: %v", done.Doubt)
				}
				if done.Doubt == nil {
					return
				}
				if errors.Is(done.Doubt, ErrRefused) != errors.Is(test.verify, ErrRefused) || !strings.HasPrefix(done.Doubt.Error(), test.verify.Error()) {
					t.Errorf("doubt: %v", done.Doubt)
				}
				if shown := fmt.Sprintf("%v %+v %#v", done.Doubt, done.Doubt, done.Doubt); strings.Contains(shown, access) {
					t.Errorf("the access token shows in %s", shown)
				}
			})
		})
	}
}

func TestNoVerifyNoDoubt(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	s := f.signIn(f.flow(), f.client, f.account.User)
	done, err := s.flow.Complete(t.Context(), s.client, s.response, s.cookie)
	if err != nil || done.Doubt != nil {
		t.Errorf("Complete = %+v, %v", done, err)
	}
}
