//go:build fleet

package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// asInstance makes the test program act as an instance: it holds the plan.
const asInstance = "OAUTH_MAIL_FLEET_INSTANCE"

// plan is what all processes of a run agree in.
type plan struct {
	Storage      string // the storage's folder
	Issuers      [providers]string
	ClientID     string
	ClientSecret string
	Accounts     int
}

// providers is over how many providers the accounts are spread, each at an
// address of its own: few refreshes are made at one at a time.
const providers = 8

func (p plan) account(i int) tokens.Account {
	return tokens.Account{Provider: fmt.Sprintf("lab%d", i%providers), User: fmt.Sprintf("user%d@example.com", i)}
}

func (p plan) provider(i int) tokens.Provider {
	issuer := p.Issuers[i%providers]
	return tokens.Provider{
		Name:                  p.account(i).Provider,
		Issuer:                issuer,
		AuthorizationEndpoint: issuer + tokenstest.PathAuthorize,
		TokenEndpoint:         issuer + tokenstest.PathToken,
		ClientID:              p.ClientID,
		Credentials:           tokens.NewClientSecret(p.ClientSecret),
		AuthStyle:             tokens.AuthPost,
		Rotation:              tokens.RotationStrict,
		RefreshRate:           -1,
	}
}

func (p plan) store() (*tokens.Store, error) {
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{7}, tokens.KeySize))
	if err != nil {
		return nil, err
	}
	storage := caddymodule.Durable(&certmagic.FileStorage{Path: p.Storage})
	return tokens.NewStore(storage, func() (*tokens.KeyRing, error) { return ring, nil }), nil
}

// sources returns a source for every account, as a process has that just
// started.
func (p plan) sources(store *tokens.Store, logger *slog.Logger) []*tokens.Source {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	var clients [providers]*tokens.Client
	for i := range clients {
		clients[i] = tokens.NewClient(p.provider(i), transport)
	}
	list := make([]*tokens.Source, p.Accounts)
	for i := range list {
		list[i] = tokens.NewSource(p.account(i), clients[i%providers], store, &tokens.Cell{}, &tokens.SourceOptions{Logger: logger})
	}
	return list
}

// runInstance refreshes until its standard input ends, and stops in order then.
func runInstance(text string) int {
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		panic(err)
	}
	store, err := p.store()
	if err != nil {
		panic(err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	sources := p.sources(store, logger)
	rand.Shuffle(len(sources), func(i, j int) { sources[i], sources[j] = sources[j], sources[i] })
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	(&tokens.Refresher{Sources: sources, Store: store, Policy: tokens.PolicyAlways, Logger: logger}).Run(ctx)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := tokens.Wait(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "refreshes are still under way:", err)
		return 1
	}
	return 0
}

// instance is a place in the fleet, where one process runs after the other.
type instance struct {
	t     *testing.T
	plan  []byte
	log   string // the file that the processes' words go to
	cmd   *exec.Cmd
	stdin io.Closer
}

// startInstances starts n processes. They are gone when the test ends.
func startInstances(t *testing.T, p plan, n int) []*instance {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var list []*instance
	for i := range n {
		in := &instance{t: t, plan: text, log: filepath.Join(t.TempDir(), fmt.Sprintf("instance%d.log", i))}
		in.start()
		t.Cleanup(in.kill)
		list = append(list, in)
	}
	return list
}

func (in *instance) start() {
	in.t.Helper()
	f, err := os.OpenFile(in.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		in.t.Fatal(err)
	}
	defer f.Close()
	in.cmd = exec.Command(os.Args[0])
	in.cmd.Env = append(os.Environ(), asInstance+"="+string(in.plan))
	in.cmd.Stdout, in.cmd.Stderr = f, f
	if in.stdin, err = in.cmd.StdinPipe(); err != nil {
		in.t.Fatal(err)
	}
	if err := in.cmd.Start(); err != nil {
		in.t.Fatal(err)
	}
}

// kill ends the process as a power cut would.
func (in *instance) kill() {
	if in.cmd != nil {
		_ = in.cmd.Process.Kill()
		_ = in.cmd.Wait()
		in.cmd = nil
	}
}

// stop ends the process in order.
func (in *instance) stop() {
	in.t.Helper()
	in.stdin.Close()
	if err := in.cmd.Wait(); err != nil {
		in.t.Errorf("an instance ended badly: %v\n%s", err, in.said(""))
	}
	in.cmd = nil
}

// said returns the first lines of the log that have a word.
func (in *instance) said(word string) string {
	text, err := os.ReadFile(in.log)
	if err != nil {
		return err.Error()
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, word) && len(found) < 20 {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
