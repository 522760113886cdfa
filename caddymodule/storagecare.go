package caddymodule

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// condition is what is known of the storage and of what lies in it. Its zero
// value is ready; it is safe for concurrent use.
type condition struct {
	test atomic.Pointer[tokens.StorageReport]
	pass atomic.Pointer[keyPass]
}

// keyPass is how a pass over the records went.
type keyPass struct {
	use *tokens.KeyUse
	err error
}

const (
	// The first pass over the records begins between rewrapDelay and twice that
	// after a start, when all that is urgent is done.
	rewrapDelay = 3 * time.Minute
	// rewrapEvery is the pause between passes while there are several keys, and
	// rewrapSoon the one after a pass that left something.
	rewrapEvery = 24 * time.Hour
	rewrapSoon  = time.Hour
)

// tendStorage tries the storage out and then seals records anew that are under
// an old key, for as long as there are several.
func (a *App) tendStorage(ctx context.Context) {
	a.testStorage(ctx)
	wait := rewrapDelay + rand.N(rewrapDelay) //nolint:gosec // sets instances apart
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = a.rewrap(ctx)
		if ring, err := a.keys(); err != nil || len(ring.IDs()) == 1 {
			return
		}
	}
}

// tested are the reports on storages that were tried out in this process, by
// their names: a reload needs no new test.
var tested sync.Map // string → *tokens.StorageReport

func (a *App) testStorage(ctx context.Context) {
	files, local := a.storage.(*certmagic.FileStorage)
	test := tokens.SelfTest{Storage: durable(a.storage), Modified: a.modified}
	if local { // the only ones that tell their place, and can be opened twice
		if report, ok := tested.Load(files.Path); ok {
			a.condition.test.Store(report.(*tokens.StorageReport))
			return
		}
		test.Second = durable(&certmagic.FileStorage{Path: files.Path})
	}
	report := test.Run(ctx, a.condition.test.Store)
	if report.Ended.IsZero() {
		return // this configuration has ended, and its report with it
	}
	if local {
		tested.Store(files.Path, report)
	}
	findings := report.Findings()
	for _, finding := range findings {
		a.logger.Warn("the storage lacks something", "storage", describeStorage(a.storage), "finding", finding)
	}
	if len(findings) == 0 {
		a.logger.Info("the storage passed its test", "storage", describeStorage(a.storage))
	}
}

// modified tells when a key was written, by the storage's clock.
func (a *App) modified(ctx context.Context, key string) (time.Time, error) {
	info, err := a.storage.Stat(ctx, key)
	return info.Modified, err
}

// rewrap makes one pass over the records and returns when to make the next.
func (a *App) rewrap(ctx context.Context) (wait time.Duration) {
	rewrapper := tokens.Rewrapper{Store: a.store, Sources: a.registry.load().sources()}
	use, err := rewrapper.Run(ctx)
	if ctx.Err() != nil || use == nil {
		return rewrapSoon
	}
	settings, failed := a.saved.reseal(ctx, a.settingsStore())
	for id, n := range settings {
		use.Records[id] += n
	}
	if failed != nil {
		use.Failures++
		err = errors.Join(err, failed)
	}
	a.condition.pass.Store(&keyPass{use, err})
	ring, _ := a.keys()
	known := make(map[tokens.KeyID]bool)
	free := true
	for i, id := range ring.IDs() {
		known[id] = true
		free = free && (i == 0 || use.Unneeded(id))
	}
	for id, n := range use.Records {
		if !known[id] {
			a.logger.Error("token records are sealed with a key that is not configured; bring the key back as a further encryption_key, or sign the accounts in again",
				"key_id", id.String(), "records", n)
		}
	}
	if use.Damaged > 0 {
		a.logger.Error("token records are damaged; bring them back from a backup, or sign the accounts in again", "records", use.Damaged)
	}
	if use.Newer > 0 {
		a.logger.Error("token records were written by a newer version of this plugin; update this instance", "records", use.Newer)
	}
	if err != nil {
		a.logger.Warn("not all token records could be looked at; it goes on in an hour", "failures", use.Failures, "error", err)
	}
	if len(known) > 1 {
		a.logger.Info("token records looked at for their keys", "rewrapped", use.Rewrapped, "left", use.Left, "older_keys_unneeded", free)
	}
	if use.Left > 0 || use.Failures > 0 {
		return rewrapSoon
	}
	return rewrapEvery
}
