package caddymodule

import (
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// admin is the administration as Go functions. Whatever is mounted on them, an
// HTTP route or a command line, adds nothing but its own form. None of their
// answers holds a secret.
type admin struct {
	app *App
}

// adminError is a call that cannot be served.
type adminError struct {
	kind adminErrorKind
	err  error
	// reason tells programs why a sign-in failed; who has to do something about
	// it, and what. Empty with other errors.
	reason string
	who    tokens.Who
	do     string
}

type adminErrorKind int

const (
	adminNotFound adminErrorKind = iota
	adminInvalid
	adminConflict // somebody has to do something else first
	adminGone     // it took too long
	adminUpstream // the provider or the storage failed
	// somebody else was faster
	adminOutdated
	adminUnconditional // it does not say what it changes
)

func (e *adminError) Error() string { return e.err.Error() }
func (e *adminError) Unwrap() error { return e.err }

func (a admin) storage() storageView { return a.app.storageReport() }

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
