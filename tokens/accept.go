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

// expected is what every way of signing in knows when a grant comes.
type expected struct {
	account Account
	by      string
	nonce   string // empty where none was sent
	// imported is the [Token.Imported] to be.
	imported string
}

// accept checks a grant and saves it. All ways of signing in end here.
func (f *Flow) accept(ctx context.Context, c *Client, p Provider, want expected, g *grant) (*Completed, Reason, error) {
	account := want.account
	now := f.now().UTC()
	if missing := missingScopes(p.Scopes, g.scopes); len(missing) > 0 {
		return nil, ReasonScope, errors.New("not granted: " + tidy(strings.Join(missing, " ")))
	}
	if g.refreshToken == "" {
		return nil, ReasonRefresh, errors.New("the provider gave no refresh token: ask for the scope offline_access, or for offline access with prompt consent")
	}
	id, err := readIDToken(g.idToken, p, want.nonce, now)
	if err != nil {
		return nil, ReasonExchange, err
	}
	// Before the lock: a mail server may take its time.
	letIn, doubt := f.verify(ctx, account, g.accessToken)
	if !letIn {
		if reason, err := named(account, id, doubt); err != nil {
			return nil, reason, err
		}
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
	pinned := old
	if old != nil && !old.belongsTo(c.registration) {
		pinned = nil // another provider's word on who is who
	}
	if err := samePerson(account, pinned, id, letIn); err != nil {
		return nil, ReasonIdentity, err
	}
	if errors.Is(doubt, ErrRefused) && pinned != nil && !pinned.Identity.known() {
		return nil, ReasonMailServer, fmt.Errorf("the token that is saved for %s may be better: %w", account.User, doubt)
	}
	t := &Token{
		Account:      account,
		Registration: c.registration,
		Generation:   1,
		AccessToken:  NewSecret(g.accessToken),
		RefreshToken: NewSecret(g.refreshToken),
		Imported:     want.imported,
		Requested:    p.Scopes,
		Scopes:       g.scopes,
		Identity:     id,
		AuthorizedAt: now,
		AuthorizedBy: want.by,
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
	if err := f.Store.SaveIssued(ctx, t); err != nil {
		return nil, ReasonStorage, err
	}
	return &Completed{Token: t, Doubt: doubt}, "", nil
}

// tried is what came of trying a token at the mail server. Its text is tidied,
// and nothing of the error that it was made of remains.
type tried struct {
	text    string
	refused bool
}

func (e *tried) Error() string { return e.text }

func (e *tried) Is(target error) bool { return e.refused && target == ErrRefused } //nolint:errorlint // this is errors.Is

// verify tries a new access token at the mail server. Without a way to do so
// there is no doubt, but nobody was let in either.
func (f *Flow) verify(ctx context.Context, a Account, accessToken string) (letIn bool, doubt error) {
	if f.Verify == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	err := f.Verify(ctx, a, accessToken)
	if err == nil {
		return true, nil
	}
	return false, &tried{text: tidy(err.Error(), accessToken), refused: errors.Is(err, ErrRefused)}
}

// named decides by the names in the ID token, which can be changed and be
// aliases, whether the person who signed in may use the mailbox: the mail
// server has not let the token in, or could not be asked.
func named(a Account, id Identity, doubt error) (Reason, error) {
	refused := errors.Is(doubt, ErrRefused)
	switch {
	case id.names(a.User):
		return "", nil
	case len(id.Names) > 0 && refused:
		return ReasonIdentity, fmt.Errorf("the account that signed in%s may not send as %s: %w", signedIn(id), a.User, doubt)
	case len(id.Names) > 0:
		return ReasonIdentity, fmt.Errorf("the account that signed in%s is not %s", signedIn(id), a.User)
	case refused:
		return ReasonMailServer, fmt.Errorf("the mail server does not let %s in, and the provider does not say who signed in: %w", a.User, doubt)
	}
	return "", nil
}

// samePerson refuses a sign-in of another person than the one before. LetIn
// says whether the mail server has let the new token in.
func samePerson(a Account, old *Token, id Identity, letIn bool) error {
	if old == nil || !old.Identity.known() {
		return nil
	}
	if id.known() && !old.Identity.same(id) {
		return errors.New("another account was authorized for " + a.User + " before; disconnect it first if this one is to take its place")
	}
	if !id.known() && !letIn {
		return errors.New("the provider does not say who signed in, as it did before, and the mail server has not let the token in")
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
