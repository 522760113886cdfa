//go:build fleet

package fleet

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// asCaddy makes the test program act as Caddy.
const asCaddy = "OAUTH_MAIL_FLEET_CADDY"

func runCaddy() int {
	caddy.RegisterModule(unread{})
	caddy.RegisterModule(accountsApp{})
	caddycmd.Main()
	return 0
}

// unread is an app that does not look at its configuration.
type unread struct{}

func (unread) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "unread", New: func() caddy.Module { return new(unread) }}
}

func (*unread) UnmarshalJSON([]byte) error { return nil }
func (*unread) Start() error               { return nil }
func (*unread) Stop() error                { return nil }

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// 100,000 expired tokens at start, in a Caddy: who needs one at once gets it at
// once, the provider sees no more than the rate that is set, and the memory holds
// what it must, not the records.
func TestManyAccounts(t *testing.T) {
	const accounts, rate, watch = 100_000, 50, 60 * time.Second
	m := startMany(t, accounts)
	bare := startCaddy(t, m.dir, nil)
	bareHeap := bare.heap(t)
	bare.stop()
	c := startCaddy(t, m.dir, map[string]any{"accounts": map[string]any{
		"root": filepath.Join(m.dir, "storage"), "issuer": m.idp.URL, "client_id": m.provider.server.ClientID,
		"client_secret": m.provider.server.ClientSecret, "accounts": accounts, "rate": rate,
	}})
	began := time.Now()
	time.Sleep(watch)
	heap := c.heap(t)
	mean, peak := m.provider.rates(began)
	c.stop()
	text, err := os.ReadFile(filepath.Join(m.dir, "caddy.log"))
	if err != nil {
		t.Fatal(err)
	}
	said := firstToken.FindSubmatch(text)
	if said == nil {
		t.Fatalf("no word of the first token: %.2000s", text)
	}
	first, _ := time.ParseDuration(string(said[1]))
	t.Logf("%d expired tokens: the first on demand %v after the start; %.1f refreshes a second in the mean of %v, %d in the busiest second (set: %d); live heap %.1f MB above bare Caddy",
		accounts, first.Round(time.Millisecond), mean, watch, peak, rate, mb(heap-bareHeap))
	if first > 100*time.Millisecond {
		t.Errorf("the first token took %v", first)
	}
	checkRates(t, mean, peak, rate)
	if ours := mb(heap - bareHeap); ours > 100 {
		t.Errorf("%.1f MB of live heap", ours)
	}
}

// The same with a tenant for each account in the configuration. Its memory is
// the configuration's for the most part: Caddy keeps each twice, as text and
// decoded, which is told apart by an app that does not look at it.
func TestManyTenants(t *testing.T) {
	const accounts, rate, watch = 100_000, 50, 60 * time.Second
	m := startMany(t, accounts)
	mail := mailertest.NewServer(t)
	mail.AcceptTokens(func(user, token string) bool {
		owner, ok := m.provider.server.Owner(token)
		return ok && owner == user
	})
	ca := filepath.Join(m.dir, "ca.pem")
	if err := os.WriteFile(ca, mail.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	app := map[string]any{
		"encryption_keys": []string{base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, tokens.KeySize))},
		"redirect_base":   "http://localhost:1/oauth/callback",
		"refresh":         "always",
		"providers": map[string]any{"lab": map[string]any{
			"issuer": m.idp.URL, "authorization_endpoint": m.idp.URL + tokenstest.PathAuthorize, "token_endpoint": m.idp.URL + tokenstest.PathToken,
			"client_id": m.provider.server.ClientID, "credentials": []any{map[string]any{"secret": m.provider.server.ClientSecret}},
			"client_auth": "post", "scopes": []string{"smtp.send"}, "servers": []string{mail.Host}, "rotation": "strict", "refresh_rate": rate,
		}},
	}
	tenants := map[string]any{}
	for i := range accounts {
		tenants[fmt.Sprintf("t%d", i)] = map[string]any{
			"server": mail.Addr, "user": fmt.Sprintf("user%d@example.com", i), "auth": map[string]any{"method": "oauth", "provider": "lab"}, "ca_file": ca,
		}
	}
	const key = "key-of-the-test-0123456789"
	app["tenants"], app["keys"] = tenants, map[string]any{"k": map[string]any{"key": key, "tenant": "t77777"}}

	bare := startCaddy(t, m.dir, nil)
	bareHeap := bare.heap(t)
	bare.stop()
	idle := startCaddy(t, m.dir, map[string]any{"unread": app})
	idleHeap := idle.heap(t)
	idle.stop()
	c := startCaddy(t, m.dir, map[string]any{"oauth_mail": app})
	began := time.Now()
	r, err := http.NewRequest(http.MethodPost, c.url+"/emails", strings.NewReader(`{"to":"someone@example.net","subject":"at once","text":"now"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	first := time.Since(began)
	if resp.StatusCode != http.StatusOK || len(mail.Messages()) != 1 {
		t.Fatalf("the first mail: status %d: %s", resp.StatusCode, body)
	}
	time.Sleep(watch)
	heap := c.heap(t)
	mean, peak := m.provider.rates(began)
	c.stop()
	t.Logf("%d tenants: the first mail was sent %v after readiness; %.1f refreshes a second in the mean of %v, %d in the busiest second (set: %d); live heap %.1f MB above bare Caddy, %.1f MB of it Caddy's own for a configuration of that size",
		accounts, first.Round(time.Millisecond), mean, watch, peak, rate, mb(heap-bareHeap), mb(idleHeap-bareHeap))
	checkRates(t, mean, peak, rate)
}

func checkRates(t *testing.T, mean float64, peak, rate int) {
	t.Helper()
	if set := float64(rate); mean > set*1.05 || mean < set*0.5 {
		t.Errorf("%.1f refreshes a second, set are %d", mean, rate)
	}
	if peak > 2*rate { // the rate, and the reserve for those who wait
		t.Errorf("%d refreshes in one second, set are %d", peak, rate)
	}
}

// many is a storage with expired tokens and the provider that they are from.
type many struct {
	dir      string
	provider *counted
	idp      *httptest.Server
}

func startMany(t *testing.T, accounts int) *many {
	t.Helper()
	m := &many{dir: t.TempDir(), provider: &counted{server: tokenstest.NewServer()}}
	m.idp = httptest.NewServer(m.provider)
	t.Cleanup(m.idp.Close)
	m.provider.server.Issuer = m.idp.URL
	seal(t, filepath.Join(m.dir, "storage"), m.provider.server, accounts)
	return m
}

var firstToken = regexp.MustCompile(`first token after (\S+)`)

// accountsApp is an app that keeps tokens fresh and does nothing else.
type accountsApp struct {
	Root         string `json:"root"`
	Issuer       string `json:"issuer"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Accounts     int    `json:"accounts"`
	Rate         int    `json:"rate"`
}

func (accountsApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "accounts", New: func() caddy.Module { return new(accountsApp) }}
}

func (a *accountsApp) Start() error {
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{7}, tokens.KeySize))
	if err != nil {
		return err
	}
	storage := caddymodule.Durable(&certmagic.FileStorage{Path: a.Root})
	store := tokens.NewStore(storage, func() (*tokens.KeyRing, error) { return ring, nil })
	client := tokens.NewClient(tokens.Provider{
		Name: "lab", Issuer: a.Issuer, AuthorizationEndpoint: a.Issuer + tokenstest.PathAuthorize, TokenEndpoint: a.Issuer + tokenstest.PathToken,
		ClientID: a.ClientID, Credentials: tokens.NewClientSecret(a.ClientSecret), AuthStyle: tokens.AuthPost,
		Rotation: tokens.RotationStrict, RefreshRate: float64(a.Rate),
	}, nil)
	options := new(tokens.SourceOptions)
	sources := make([]*tokens.Source, a.Accounts)
	for i := range sources {
		sources[i] = tokens.NewSource(tokens.Account{Provider: "lab", User: fmt.Sprintf("user%d@example.com", i)}, client, store, new(tokens.Cell), options)
	}
	go (&tokens.Refresher{Sources: sources, Store: store, Policy: tokens.PolicyAlways}).Run(context.Background())
	go func() {
		began := time.Now()
		_, err := sources[a.Accounts*7/9].AccessToken(context.Background())
		fmt.Fprintf(os.Stderr, "first token after %v (error: %v)\n", time.Since(began), err)
	}()
	return nil
}

func (*accountsApp) Stop() error { return nil }

func mb(n int) float64 { return float64(n) / 1e6 }

// seal writes expired records of as many accounts, past the slow durable way.
func seal(t *testing.T, root string, server *tokenstest.Server, accounts int) {
	t.Helper()
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{7}, tokens.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	store := tokens.NewStore(fastFiles{&certmagic.FileStorage{Path: root}}, func() (*tokens.KeyRing, error) { return ring, nil })
	now := time.Now().UTC()
	for i := range accounts {
		a := tokens.Account{Provider: "lab", User: fmt.Sprintf("user%d@example.com", i)}
		access, refresh := server.Issue(a.User, "smtp.send")
		err := store.Save(t.Context(), &tokens.Token{
			Account: a, Generation: 1, AccessToken: tokens.NewSecret(access), RefreshToken: tokens.NewSecret(refresh),
			Scopes: []string{"smtp.send"}, AuthorizedAt: now, IssuedAt: now.Add(-2 * time.Hour), Expiry: now.Add(-time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fastFiles stores without flushing.
type fastFiles struct{ *certmagic.FileStorage }

func (f fastFiles) Store(_ context.Context, key string, value []byte) error {
	name := f.Filename(key)
	return errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, value, 0o600))
}

// counted notes when requests came.
type counted struct {
	server *tokenstest.Server
	mu     sync.Mutex
	at     []time.Time
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.at = append(c.at, time.Now())
	c.mu.Unlock()
	c.server.ServeHTTP(w, r)
}

// rates are the requests a second since a time: in the mean, and in the busiest
// second.
func (c *counted) rates(since time.Time) (mean float64, peak int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.at, time.Time.Compare)
	from := 0
	for i, at := range c.at {
		for at.Sub(c.at[from]) >= time.Second {
			from++
		}
		peak = max(peak, i-from+1)
	}
	return float64(len(c.at)) / time.Since(since).Seconds(), peak
}

// process is a Caddy.
type process struct {
	url, admin string
	cmd        *exec.Cmd
}

// startCaddy starts a Caddy with the given apps and one site, and returns when
// its site answers.
func startCaddy(t *testing.T, dir string, apps map[string]any) *process {
	t.Helper()
	p := &process{url: "http://" + freeAddress(t), admin: freeAddress(t)}
	site := map[string]any{"listen": []string{strings.TrimPrefix(p.url, "http://")}, "routes": []any{}}
	config := map[string]any{
		"admin":   map[string]any{"listen": p.admin, "config": map[string]any{"persist": false}},
		"storage": map[string]any{"module": "file_system", "root": filepath.Join(dir, "storage")},
		"apps":    map[string]any{"http": map[string]any{"servers": map[string]any{"site": site}}},
	}
	for name, app := range apps {
		config["apps"].(map[string]any)[name] = app
	}
	if apps["oauth_mail"] != nil {
		site["routes"] = []any{map[string]any{"handle": []any{map[string]any{"handler": "oauth_mail", "endpoint": "send"}}}}
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0], "run", "--config", file)
	p.cmd.Env = append(os.Environ(), asCaddy+"=1", "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	log, err := os.Create(filepath.Join(dir, "caddy.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	for deadline := time.Now().Add(time.Minute); ; {
		if resp, err := http.Get(p.url + "/"); err == nil {
			resp.Body.Close()
			return p
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("Caddy does not answer: %.3000s", said)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (p *process) stop() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

var heapAlloc = regexp.MustCompile(`# HeapAlloc = (\d+)`)

// heap is the live heap after a garbage collection, in octets.
func (p *process) heap(t *testing.T) int {
	t.Helper()
	least := 0
	for range 3 { // finalizers want more than one
		resp, err := http.Get("http://" + p.admin + "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		m := heapAlloc.FindSubmatch(text)
		if err != nil || m == nil {
			t.Fatalf("no heap profile: %v", err)
		}
		n, _ := strconv.Atoi(string(m[1]))
		if least == 0 || n < least {
			least = n
		}
	}
	return least
}
