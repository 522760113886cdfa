package caddymodule

import (
	"maps"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// failingAccounts are those whose last refresh failed, so that a row of failures is one
// event. They outlive configurations.
var failingAccounts sync.Map // tokens.Account → struct{}

// observer tells what happens to tokens as metrics and events, in the audit log and to
// alerts.
func (a *App) observer() tokens.Observer {
	return tokens.Observer{
		Refreshed: func(account tokens.Account, took time.Duration) {
			countRefresh(account, "ok", took, tokens.StateAuthorized)
		},
		RefreshFailed: func(account tokens.Account, err *tokens.Error, took time.Duration) {
			countRefresh(account, err.Kind.String(), took, tokens.StateFailing)
			if _, again := failingAccounts.LoadOrStore(account, struct{}{}); again {
				return
			}
			a.emitAccount("oauth_token_refresh_failed", account, map[string]any{"kind": err.Kind.String(), "code": err.Code})
			a.watch.poke()
		},
		Recovered: func(account tokens.Account) {
			failingAccounts.Delete(account)
			a.emitAccount("oauth_token_refresh_recovered", account, nil)
			a.watch.poke()
		},
		NeedsAuthorization: func(account tokens.Account, err *tokens.Error) {
			accountStates.Store(account, tokens.StateUnauthorized)
			a.emitAccount("oauth_authorization_required", account, map[string]any{"code": err.Code})
			a.audit("account.authorization_required", "provider", account.Provider, "user", account.User, "by", "system", "code", err.Code)
			a.watch.poke()
		},
		Authorized: func(account tokens.Account) {
			accountStates.Store(account, tokens.StateAuthorized)
			failingAccounts.Delete(account)
			a.emitAccount("oauth_authorized", account, nil)
			a.watch.poke()
		},
		Disconnected: func(account tokens.Account) {
			accountStates.Store(account, tokens.StateUnauthorized)
			failingAccounts.Delete(account)
			a.emitAccount("oauth_revoked", account, nil)
			a.watch.poke()
		},
	}
}

// emitAccount emits an event about an account.
func (a *App) emitAccount(name string, account tokens.Account, more map[string]any) {
	about := map[string]any{"provider": account.Provider, "user": account.User}
	maps.Copy(about, more)
	a.events.emit(name, about)
}
