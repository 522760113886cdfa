//go:build powercut && linux

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/internal/disktest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// These tests need root, loop devices and ext4's tools, and fail without them.
//
//	go test -tags powercut -run 'PowerCut|Disk' -count=1 -timeout 20m ./caddymodule
const (
	// powerCuts is how many cuts the storage has to live through.
	powerCuts = 100
	// looseCuts is how many are made without flushing folders, to see that a cut
	// is one.
	looseCuts = 20
)

// TestStoragePowerCut: what was acknowledged is there after a power cut.
func TestStoragePowerCut(t *testing.T) { storageTrial.Keeps(t, powerCuts) }

// TestStoragePowerCutLoose: the same with what Caddy's file storage does by itself.
func TestStoragePowerCutLoose(t *testing.T) { storageTrial.Loses(t, looseCuts) }

var storageTrial = disktest.Trial{Write: writeStorage, Lost: lostStorage, Busy: 80 * time.Millisecond}

// lostStorage returns which of the acknowledged writes are not there.
func lostStorage(t *testing.T, folder string, acknowledged []string) (lost []string) {
	t.Helper()
	files := &certmagic.FileStorage{Path: filepath.Join(folder, "storage")}
	newest := map[string]string{}
	app := newWriterApp(files)
	ring, ringErr := app.keys()
	for _, line := range acknowledged {
		kind, rest, _ := strings.Cut(line, " ")
		name, value, _ := strings.Cut(rest, " ")
		switch kind {
		case "key":
			if ringErr != nil || ring.IDs()[0].String() != name {
				lost = append(lost, line)
			}
		case "mark":
			if data, err := files.Load(t.Context(), name); err != nil || string(data) != value {
				lost = append(lost, line)
			}
		case "token":
			newest[name] = value
		default:
			t.Fatalf("the writer said %q", line)
		}
	}
	for user, generation := range newest {
		want, _ := strconv.ParseUint(generation, 10, 64)
		token, err := app.store.Load(t.Context(), tokens.Account{Provider: "p", User: user})
		if err != nil || token.Generation < want {
			lost = append(lost, fmt.Sprintf("%s, generation %s: %v", user, generation, err))
		}
	}
	return lost
}

// newWriterApp is as much of an app as keeps keys and tokens.
func newWriterApp(files *certmagic.FileStorage) *App {
	a := &App{storage: files, logger: slog.New(slog.DiscardHandler)}
	a.keys = sync.OnceValues(func() (*tokens.KeyRing, error) { return a.keyFromFile(keyFile(files.Path)) })
	a.store = tokens.NewStore(durable(files), a.keys)
	return a
}

// writeStorage writes a key, then tokens as refreshes and sign-ins do, and the marks of
// sign-ins. Loosely it does not flush folders.
func writeStorage(t *testing.T, folder string, loose bool, acknowledge func(...any)) {
	files := &certmagic.FileStorage{Path: filepath.Join(folder, "storage")}
	app := newWriterApp(files)
	storage := durable(files)
	if loose {
		storage = files
		app.store = tokens.NewStore(files, app.keys)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ring, err := app.keys()
	must(err)
	acknowledge("key", ring.IDs()[0])
	generations := map[string]uint64{}
	for n := 0; ; n++ {
		if n%4 == 3 {
			key := fmt.Sprintf("oauth_mail/states/%064x", n)
			must(storage.Store(t.Context(), key, []byte(strconv.Itoa(n))))
			acknowledge("mark", key, n)
			continue
		}
		user := fmt.Sprintf("user-%d@example.com", rand.IntN(8))
		token, err := app.store.Load(t.Context(), tokens.Account{Provider: "p", User: user})
		if err != nil {
			token = &tokens.Token{Account: tokens.Account{Provider: "p", User: user}}
		}
		generations[user]++
		token.Generation = generations[user]
		token.AccessToken = tokens.NewSecret(strings.Repeat("a", 1500))
		token.PreviousRefreshToken, token.RefreshToken = token.RefreshToken, tokens.NewSecret(strings.Repeat("r", 1000))
		must(app.store.Save(t.Context(), token))
		acknowledge("token", user, token.Generation)
	}
}

// TestDiskTrouble: a token that was refreshed while the disk was full, or could
// not be written to, is in use meanwhile and stored as soon as it can be.
func TestDiskTrouble(t *testing.T) {
	for name, trouble := range map[string]struct {
		begin, end func(d *disktest.Disk)
		want       error
	}{
		"full":      {(*disktest.Disk).Fill, (*disktest.Disk).Empty, syscall.ENOSPC},
		"read-only": {func(d *disktest.Disk) { d.Remount("ro") }, func(d *disktest.Disk) { d.Remount("rw") }, syscall.EROFS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := disktest.New(t, filepath.Join(t.TempDir(), "mounted"))
			files := &certmagic.FileStorage{Path: filepath.Join(d.Dir, "storage")}
			app := newWriterApp(files)
			server := tokenstest.NewServer()
			account := tokens.Account{Provider: "lab", User: "noreply@example.com"}
			client := tokens.NewClient(tokens.Provider{
				Name: account.Provider, TokenEndpoint: server.Issuer + tokenstest.PathToken,
				AuthorizationEndpoint: server.Issuer + tokenstest.PathAuthorize, ClientID: server.ClientID,
				Credentials: tokens.NewClientSecret(server.ClientSecret), AuthStyle: tokens.AuthPost,
			}, server)
			access, refresh := server.Issue(account.User, "smtp.send")
			now := time.Now().UTC()
			old := &tokens.Token{
				Account: account, Generation: 1, AccessToken: tokens.NewSecret(access), RefreshToken: tokens.NewSecret(refresh),
				AuthorizedAt: now.Add(-time.Hour), IssuedAt: now.Add(-time.Hour), Expiry: now.Add(-time.Minute),
			}
			if err := app.store.Save(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			trouble.begin(d)
			if err := app.store.Save(t.Context(), old); !errors.Is(err, trouble.want) {
				t.Fatalf("the disk takes it: %v", err)
			}
			// The lock is a file on that disk, too: it takes ten minutes until it is
			// done without. The clock goes faster than the world.
			var ahead atomic.Int64
			clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			source := tokens.NewSource(account, client, app.store, &tokens.Cell{}, &tokens.SourceOptions{Now: clock})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				(&tokens.Refresher{Sources: []*tokens.Source{source}, Store: app.store, Now: clock}).Run(ctx)
			}()
			t.Cleanup(func() { stop(); <-ended })
			until := func(what string, done func() bool) {
				t.Helper()
				for deadline := time.Now().Add(time.Minute); !done(); ahead.Add(int64(time.Minute)) {
					if time.Now().After(deadline) {
						t.Fatalf("%s does not come about", what)
					}
					time.Sleep(time.Second)
				}
			}
			until("a token in memory", func() bool {
				got, err := source.AccessToken(ctx)
				return err == nil && got != access && server.Valid(got)
			})
			if stored, err := app.store.Load(ctx, account); err != nil || stored.Generation != 1 {
				t.Fatalf("stored meanwhile: %v, %v", stored, err)
			}
			trouble.end(d)
			until("a stored token", func() bool {
				stored, err := app.store.Load(ctx, account)
				return err == nil && stored.Generation >= 2
			})
			if n := server.Reused(); n != 0 {
				t.Errorf("%d refresh tokens were presented twice", n)
			}
		})
	}
}
