package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// verifyTimeout bounds the sign-in at the mail server that follows consent: a
// person is waiting.
const verifyTimeout = 15 * time.Second

// verify tries a new access token at the mail server of the first tenant that
// will use it.
func (a *App) verify(ctx context.Context, account tokens.Account, accessToken string) error {
	_, users, err := a.registry.load().account(account)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	t := users[0]
	err = t.mail.SignIn(ctx, mailer.Token{
		User: t.user, Source: fixedToken(accessToken), Mechanism: t.auth.Mechanism,
	})
	var refused *mailer.Error
	if errors.As(err, &refused) && refused.Stage == mailer.StageAuth && refused.Kind == mailer.KindUnauthorized {
		return fmt.Errorf("%s says %q: %w", refused.Server, refused.Reply.String(), tokens.ErrRefused)
	}
	if err != nil {
		a.logger.Warn("a new token could not be tried at the mail server; the names in the ID token decide alone",
			"account", account.String(), "error", err)
	}
	return err
}

// fixedToken is a source of one token.
type fixedToken string

func (f fixedToken) AccessToken(context.Context) (string, error) { return string(f), nil }
func (f fixedToken) Reject(string) bool                          { return false }
