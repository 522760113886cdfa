package tokens

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// verifyTimeout bounds the mail server's judgement of a new token.
const verifyTimeout = time.Minute

// accept checks a grant and saves it.
func (f *Flow) accept(ctx context.Context, p Provider, pend *pending, g *grant) (*Token, Reason, error) {
	account := pend.Ticket.Account
	now := f.now().UTC()
	if missing := missingScopes(p.Scopes, g.scopes); len(missing) > 0 {
		return nil, ReasonScope, errors.New("not granted: " + tidy(strings.Join(missing, " ")))
	}
	if g.refreshToken == "" {
		return nil, ReasonRefresh, errors.New("the provider gave no refresh token: ask for the scope offline_access, or for offline access with prompt consent")
	}
	id, err := readIDToken(g.idToken, p, pend.Nonce, now)
	if err != nil {
		return nil, ReasonExchange, err
	}
	// Before the lock: a mail server may take its time.
	decided, err := f.verify(ctx, account, id, g.accessToken)
	if err != nil {
		return nil, ReasonIdentity, err
	}
	if unlock, err := f.Store.lock(ctx, account); err == nil {
		defer unlock()
	}
	old, err := f.Store.Load(ctx, account)
	switch {
	case unreadable(err):
		return nil, ReasonStorage, fmt.Errorf("%w; disconnect the account first, if that record is lost", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, ReasonStorage, err
	}
	if err := samePerson(account, old, id, decided); err != nil {
		return nil, ReasonIdentity, err
	}
	t := &Token{
		Account:      account,
		Generation:   1,
		AccessToken:  NewSecret(g.accessToken),
		RefreshToken: NewSecret(g.refreshToken),
		Scopes:       g.scopes,
		Identity:     id,
		AuthorizedAt: now,
		AuthorizedBy: pend.Ticket.By,
		IssuedAt:     now,
		Expiry:       now.Add(g.expiresIn),
	}
	if old != nil {
		t.Generation = old.Generation + 1
		if !t.AuthorizedAt.After(old.AuthorizedAt) {
			// Another instance's clock is ahead. The later sign-in must look later.
			t.AuthorizedAt = old.AuthorizedAt.Add(time.Microsecond)
		}
	}
	if err := f.Store.Save(ctx, t); err != nil {
		return nil, ReasonStorage, err
	}
	return t, "", nil
}

// verify decides whether the person who signed in may use the mailbox. The mail
// server decides where it can be asked; the names in the ID token only where it
// can not, since they can be changed and be aliases. Decided reports whether
// the mail server did.
func (f *Flow) verify(ctx context.Context, a Account, id Identity, accessToken string) (decided bool, err error) {
	if f.Verify != nil {
		ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
		defer cancel()
		err := f.Verify(ctx, a, accessToken)
		if err == nil {
			return true, nil
		}
		if errors.Is(err, ErrRefused) {
			return true, errors.New("the account that signed in" + signedIn(id) + " may not send as " + a.User + ": " + tidy(err.Error(), accessToken))
		}
	}
	if len(id.Names) > 0 && !id.names(a.User) {
		return false, errors.New("the account that signed in" + signedIn(id) + " is not " + a.User)
	}
	return false, nil
}

// samePerson refuses a sign-in of another person than the one before. Decided
// says whether the mail server has let the new token in.
func samePerson(a Account, old *Token, id Identity, decided bool) error {
	if old == nil || !old.Identity.known() {
		return nil
	}
	if id.known() && !old.Identity.same(id) {
		return errors.New("another account was authorized for " + a.User + " before; disconnect it first if this one is to take its place")
	}
	if !id.known() && !decided {
		return errors.New("the provider does not say who signed in, as it did before, and the mail server could not be asked")
	}
	return nil
}

func signedIn(id Identity) string {
	if len(id.Names) == 0 {
		return ""
	}
	return " (" + tidy(id.Names[0]) + ")"
}

// missingScopes returns the scopes that were asked for and not granted. A
// provider that tells no scopes granted all (RFC 6749, section 5.1). Scopes
// that concern the sign-in itself are often left out of the answer.
func missingScopes(asked, granted []string) []string {
	if granted == nil {
		return nil
	}
	aside := []string{"offline_access", "openid", "email", "profile"}
	var missing []string
	for _, s := range asked {
		if slices.Contains(aside, s) || slices.ContainsFunc(granted, func(g string) bool { return strings.EqualFold(g, s) }) {
			continue
		}
		missing = append(missing, s)
	}
	return missing
}
