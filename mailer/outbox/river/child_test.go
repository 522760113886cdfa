package river

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// childEnv tells a process that it is an instance: the socket of its parent, the
// schema and the dsn.
const childEnv = "OUTBOX_RIVER_CHILD"

const childWindow = 4

var kills = flag.Int("kills", 12, "how often an instance is killed; the long suite has 200")

// instance is a process that accepts and delivers until it is killed. It tells its
// parent what it has accepted, and asks it to take what it delivers.
type instance struct {
	mu      sync.Mutex
	conn    net.Conn
	answers map[string]chan struct{}
	quiet   atomic.Bool
}

func (i *instance) say(what, id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	fmt.Fprintf(i.conn, "%s %s\n", what, id)
}

func (i *instance) Window(string) int { return childWindow }

func (i *instance) Interrupted(*outbox.Message) outbox.Outcome { return outbox.Outcome{} }

func (i *instance) Deliver(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
	time.Sleep(rand.N(10 * time.Millisecond))
	answer := make(chan struct{})
	i.mu.Lock()
	i.answers[m.ID] = answer
	i.mu.Unlock()
	i.say("d", m.ID)
	<-answer
	time.Sleep(rand.N(10 * time.Millisecond))
	m.Forget = time.Now().Add(time.Hour)
	return outbox.Outcome{Verdict: outbox.Sent}
}

func child() int {
	args := strings.SplitN(os.Getenv(childEnv), "|", 3)
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return 2
	}
	i := &instance{conn: conn, answers: make(map[string]chan struct{})}
	e, err := open(context.Background(), Config{DSN: args[2], Schema: args[1], Sealer: newSealer(), Logger: slog.New(slog.DiscardHandler)}, quick())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	go func() {
		for s := bufio.NewScanner(conn); s.Scan(); {
			what, id, _ := strings.Cut(s.Text(), " ")
			if what == "quiet" {
				i.quiet.Store(true)
				continue
			}
			i.mu.Lock()
			close(i.answers[id])
			delete(i.answers, id)
			i.mu.Unlock()
		}
		os.Exit(4) // the parent has ended
	}()
	for n := range 4 {
		go func() {
			for !i.quiet.Load() {
				m := newMessage(fmt.Sprintf("t%d", n%2))
				if err := e.Accept(context.Background(), m, m.Content(mailer.Bytes(letter))); err == nil {
					i.say("a", m.ID)
				}
			}
		}()
	}
	_ = e.Run(context.Background(), i)
	return 0
}

// parent is the mail server of the instances, and knows what they have accepted.
type parent struct {
	mu       sync.Mutex
	accepted map[string]bool
	got      map[string]int
}

func (p *parent) serve(conn net.Conn) {
	defer conn.Close()
	for s := bufio.NewScanner(conn); s.Scan(); {
		what, id, _ := strings.Cut(s.Text(), " ")
		p.mu.Lock()
		if what == "a" {
			p.accepted[id] = true
		} else {
			p.got[id]++
		}
		p.mu.Unlock()
		if what == "d" {
			fmt.Fprintf(conn, "ok %s\n", id)
		}
	}
}

// Three processes on one database, of which one is killed now and then. Nothing that
// was accepted is lost, and only what was being sent at a kill can be sent twice.
func TestKilledInstances(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	t.Cleanup(func() { dropSchema(t, schema) })
	dir, err := os.MkdirTemp("/tmp", "outbox-kill-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &parent{accepted: make(map[string]bool), got: make(map[string]int)}
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			go p.serve(c)
		}
	}()
	start := func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+socket+"|"+schema+"|"+dsn)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	kill := func(c *exec.Cmd) {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.accepted)
	}
	var children []*exec.Cmd
	for range 3 {
		children = append(children, start())
	}
	defer func() {
		for _, c := range children {
			kill(c)
		}
	}()
	for n := range *kills {
		before := count()
		eventually(t, time.Minute, "messages are accepted", func() bool { return count() >= before+20 })
		time.Sleep(rand.N(300 * time.Millisecond))
		kill(children[n%3])
		children[n%3] = start()
	}
	mu.Lock()
	for _, c := range conns {
		fmt.Fprintln(c, "quiet")
	}
	mu.Unlock()
	db := admin(t)
	eventually(t, time.Minute, "all are sent", func() bool {
		mu.Lock()
		fmt.Fprintln(conns[len(conns)-1], "quiet") // which may have come late
		mu.Unlock()
		var left int
		err := db.QueryRow(context.Background(), `SELECT count(*) FROM `+schema+`.messages WHERE state <> 'sent'`).Scan(&left)
		return err == nil && left == 0
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	twice := 0
	for id := range p.accepted {
		if p.got[id] == 0 {
			t.Errorf("%s was accepted, and never sent", id)
		}
	}
	for _, n := range p.got {
		twice += n - 1
	}
	if most := *kills * childWindow * 2; twice > most {
		t.Errorf("%d sent twice; at %d kills at most %d were being sent", twice, *kills, most)
	}
	t.Logf("%d accepted, %d kills, 0 lost, %d sent twice", len(p.accepted), *kills, twice)
}

const letter = "Subject: hello\r\n\r\nhello\r\n"

func newMessage(tenant string) *outbox.Message {
	now := time.Now().UTC()
	id := mailer.NewID()
	return &outbox.Message{
		ID: id, MessageID: "<" + id + "@example.com>", Tenant: tenant, Caller: mailer.Caller{Kind: "key", Name: "shop"},
		Sender:     mailer.Address{Local: "bounce", Domain: "example.com"},
		Recipients: []outbox.Recipient{{Address: mailer.Address{Local: "a", Domain: "example.net"}}},
		Size:       int64(len(letter)), Accepted: now, Expires: now.Add(48 * time.Hour), State: outbox.StateQueued, Due: now,
	}
}

// admin is a connection that no engine knows of.
func admin(t testing.TB) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// eventually waits until f returns true: a database and other processes have clocks
// of their own.
func eventually(t testing.TB, patience time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}
