//go:build endurance

// Package endurance has the proofs on a fleet of whole programs that share one
// PostgreSQL, which takes a few minutes:
//
//	go test -tags endurance -count=1 -timeout 30m ./endurance
package endurance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule/endurance"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	_ "github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/river"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/river/postgrestest"
)

var accepted = flag.Int("accepted", 10_000, "how many messages are accepted while instances are killed")

func TestMain(m *testing.M) { endurance.Main(m) }

// instances is how many there are of Caddy.
const instances = 3

// fleet is instances on one database.
type fleet struct {
	caddies []*endurance.Caddy
	// names are those by which the instances own messages.
	names, dead []string

	db *pgxpool.Pool
}

// startFleet starts a database and instances on it. They are gone when the test ends.
func startFleet(t *testing.T, tenants ...endurance.Tenant) *fleet {
	t.Helper()
	dsn, stop, err := postgrestest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	config := endurance.Site(fmt.Sprintf("encryption_key %s\noutbox river {\n\tdsn %q\n}", key, dsn), tenants...)
	db, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	f := &fleet{db: db, names: make([]string, instances)}
	for i := range instances {
		f.caddies = append(f.caddies, endurance.New(t, config))
		f.start(t, i)
	}
	return f
}

// start starts an instance, and learns its name.
func (f *fleet) start(t *testing.T, i int) {
	t.Helper()
	f.caddies[i].Start()
	f.names[i] = ""
	endurance.Eventually(t, 10*time.Second, "the instance has a name", func() bool {
		err := f.db.QueryRow(t.Context(), `SELECT id FROM oauth_mail.instances WHERE id <> ALL ($1)`, slices.Concat(f.names, f.dead)).Scan(&f.names[i])
		return err == nil
	})
}

// kill kills an instance, and returns its name and how many messages it was at.
func (f *fleet) kill(t *testing.T, i int) (name string, sending int) {
	t.Helper()
	f.caddies[i].Kill()
	<-time.After(50 * time.Millisecond) // for what the database has still heard of it
	name = f.names[i]
	f.dead = append(f.dead, name)
	return name, f.sending(t, name)
}

// sending is how many messages an instance sends.
func (f *fleet) sending(t *testing.T, name string) (n int) {
	t.Helper()
	err := f.db.QueryRow(t.Context(), `SELECT count(*) FROM oauth_mail.messages WHERE owner = $1 AND state = 'sending'`, name).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (f *fleet) urls() []string {
	var list []string
	for _, c := range f.caddies {
		list = append(list, c.URL)
	}
	return list
}

// K2: one instance of three is killed every two seconds, and in the end one for good.
func TestKill(t *testing.T) {
	const mailboxes, connections = 30, 3
	ledger := new(endurance.Ledger)
	sink := &mailertest.Sink{Pipelining: true, Chunking: true, Take: func(m mailertest.Message) {
		ledger.Arrived(m)
		// Long enough that a kill finds answers under way.
		<-time.After(2 * time.Millisecond)
	}}
	_, port := sink.Listen(t)
	var tenants []endurance.Tenant
	for i := range mailboxes {
		tenants = append(tenants, endurance.Tenant{
			Name: fmt.Sprintf("m%d", i), Port: port, Connections: connections,
			More: fmt.Sprintf("auth password user%d@example.com secret-password", i),
		})
	}
	fleet := startFleet(t, tenants...)
	load := &endurance.Load{URLs: fleet.urls(), Tenants: tenants, Producers: 64, Ledger: ledger}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { load.Run(ctx) })
	defer wg.Wait()
	defer stop()

	began, kills, most := time.Now(), 0, 0
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for ledger.Figures().Accepted < *accepted || kills < 10 {
		<-tick.C
		i := rand.IntN(instances)
		_, sending := fleet.kill(t, i)
		most += sending
		kills++
		fleet.start(t, i)
		if time.Since(began) > 6*time.Minute {
			t.Fatalf("too slow: %v", ledger.Figures())
		}
	}
	took := time.Since(began)
	// The last one stays away, with all that it was at.
	gone := time.Now()
	name, sending := fleet.kill(t, 0)
	most += sending
	kills++
	stop()
	endurance.Within(2*time.Minute, func() bool { return fleet.sending(t, name) == 0 })
	takeOver := time.Since(gone)
	wg.Wait()
	endurance.Within(2*time.Minute, func() bool { return ledger.Figures().Lost == 0 })
	over := time.Since(gone)
	<-time.After(3 * time.Second) // for what arrives too often
	f := ledger.Figures()
	t.Logf("%d kills in %v: %v; the one that stayed away was at %d messages, which were taken over %v later, and all sent after %v; at most %d copies are allowed",
		kills, took.Round(time.Second), f, sending, takeOver.Round(100*time.Millisecond), over.Round(100*time.Millisecond), most)
	f.Check(t, most)
	if takeOver > 30*time.Second {
		t.Errorf("the messages of an instance that is gone were taken over after %v", takeOver)
	}
	// Those that were interrupted before wait for their turn in the schedule, about a minute.
	if over > 30*time.Second+90*time.Second {
		t.Errorf("the messages of an instance that is gone were sent after %v", over)
	}
}

// S5: three instances send from one mailbox, whose server allows 30 messages in any
// two seconds and three connections.
func TestLimits(t *testing.T) {
	const rate, window, connections, messages = 30, 2 * time.Second, 3, 500
	config, _ := mailertest.NewCertificate(t)
	exchange := mailertest.Exchange()
	exchange.TLS, exchange.PerMinute, exchange.Minute, exchange.Connections = config, rate, window, connections
	exchange.MaySendAs = func(string, string) bool { return true }
	_, port := exchange.Listen(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[1]}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	tenant := endurance.Tenant{Name: "m", Port: port, Connections: connections, Secure: true, More: strings.Join([]string{
		"auth password user@example.com secret-password", "ca_file " + ca, fmt.Sprintf("rate %d %v", rate, window),
	}, "\n")}
	fleet := startFleet(t, tenant)

	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	ledger := new(endurance.Ledger)
	load := &endurance.Load{URLs: fleet.urls(), Tenants: []endurance.Tenant{tenant}, Producers: 6, Pause: 20 * time.Millisecond, Async: true, Ledger: ledger}
	wg.Go(func() { load.Run(ctx) })
	endurance.Eventually(t, 2*time.Minute, "the messages are accepted", func() bool { return ledger.Figures().Accepted >= messages })
	stop()
	wg.Wait()
	posted := ledger.Figures().Accepted
	endurance.Within(3*time.Minute, func() bool { return len(exchange.Messages()) >= posted })
	took := time.Since(began)
	<-time.After(2 * window) // for what arrives too often
	sent := len(exchange.Messages())
	allowed := rate * (took.Seconds()/window.Seconds() + 1) // the first window's at once
	t.Logf("%d of %d accepted messages sent in %v, %.0f %% of what is allowed; %d refused for a limit, %d connections at most",
		sent, posted, took.Round(time.Millisecond), 100*float64(sent)/allowed, exchange.Limited(), exchange.MostSignedIn())
	if sent != posted {
		t.Errorf("%d messages were accepted, %d sent", posted, sent)
	}
	if exchange.Limited() != 0 || exchange.MostSignedIn() > connections {
		t.Errorf("%d messages were refused for a limit, and there were %d connections", exchange.Limited(), exchange.MostSignedIn())
	}
	if float64(sent) < 0.9*allowed {
		t.Errorf("%d messages in %v, where %.0f were allowed", sent, took, allowed)
	}
}
