package mailer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// testClock stands still until it is told otherwise.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func pooled(s *mailertest.Script, p *Pool) (*Tenant, *testClock) {
	clock := &testClock{at: time.Unix(1e9, 0)}
	p.now = clock.now
	tenant := plainTenant(s)
	tenant.Pool = p
	return tenant, clock
}

func submit(t *testing.T, tenant *Tenant) {
	t.Helper()
	if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil {
		t.Fatal(err)
	}
}

func TestPoolReuse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		pool     *Pool
		messages int
		pause    time.Duration
		sessions int
		probes   int
		quits    int
	}{
		{"warm", &Pool{}, 3, 5 * time.Second, 1, 0, 0},
		{"probed", &Pool{}, 3, 6 * time.Second, 1, 2, 0},
		{"idle too long", &Pool{}, 3, 60 * time.Second, 3, 0, 2},
		{"own idle limit", &Pool{MaxIdle: 2 * time.Second}, 3, 2 * time.Second, 3, 0, 2},
		{"too old", &Pool{MaxAge: 10 * time.Second}, 7, 4 * time.Second, 3, 0, 2},
		{"used up", &Pool{MaxMessages: 2}, 5, 0, 3, 0, 2},
		{"hundred", &Pool{}, 101, 0, 2, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := new(mailertest.Script)
			tenant, clock := pooled(s, tt.pool)
			for range tt.messages {
				submit(t, tenant)
				clock.add(tt.pause)
			}
			if s.Sessions() != tt.sessions || s.Said("RSET") != tt.probes || s.Said("QUIT") != tt.quits {
				t.Errorf("%d sessions, %d probes, %d quits; want %d, %d, %d",
					s.Sessions(), s.Said("RSET"), s.Said("QUIT"), tt.sessions, tt.probes, tt.quits)
			}
			if len(s.Contents()) != tt.messages {
				t.Errorf("%d messages", len(s.Contents()))
			}
		})
	}
}

// TestDeadConnection has the server hang up, or say good-bye, on the second
// transaction of a connection.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		pause    time.Duration
		answers  map[string][]string
		sessions int
		sent     int // 2: the second message got through
		stage    Stage
		kind     Kind
	}{
		{name: "found by the probe", pause: 10 * time.Second, answers: map[string][]string{"RSET": {mailertest.Close}}, sessions: 2, sent: 2},
		{name: "probe refused", pause: 10 * time.Second, answers: map[string][]string{"RSET": {"421 4.4.2 idle"}}, sessions: 2, sent: 2},
		{name: "hung up at MAIL", answers: map[string][]string{"MAIL": {"", mailertest.Close, ""}}, sessions: 2, sent: 2},
		{name: "good-bye at MAIL", answers: map[string][]string{"MAIL": {"", "421 4.4.2 idle", ""}}, sessions: 2, sent: 2},
		{name: "Gmail's good-bye", answers: map[string][]string{"MAIL": {"", "451 4.4.2 Timeout - closing connection", ""}}, sessions: 2, sent: 2},
		{name: "session over", answers: map[string][]string{"MAIL": {"", "530 5.7.0 Authentication required", ""}}, sessions: 2, sent: 2},
		{name: "hung up at RCPT", answers: map[string][]string{"RCPT": {"", mailertest.Close, ""}}, sessions: 2, sent: 2},
		{name: "hung up at DATA", answers: map[string][]string{"DATA": {"", mailertest.Close, ""}}, sessions: 2, sent: 2},
		{
			name: "hung up twice", answers: map[string][]string{"MAIL": {"", mailertest.Close, mailertest.Close, ""}},
			sessions: 2, sent: 1, stage: StageMail, kind: KindTemporary,
		},
		{
			name: "refused", answers: map[string][]string{"MAIL": {"", "550 5.7.1 no", ""}},
			sessions: 1, sent: 1, stage: StageMail, kind: KindRejected,
		},
		{
			name: "hung up on the content", answers: map[string][]string{mailertest.Content: {"", mailertest.Close, ""}},
			sessions: 1, sent: 2, stage: StageFinal, kind: KindUnknown,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Answers: tt.answers}
			tenant, clock := pooled(s, new(Pool))
			submit(t, tenant)
			clock.add(tt.pause)
			_, err := tenant.Submit(t.Context(), letter, hello, Options{})
			if tt.kind == KindNone && err != nil {
				t.Error(err)
			}
			if tt.kind != KindNone {
				wantError(t, err, tt.stage, tt.kind)
			}
			if s.Sessions() != tt.sessions || len(s.Contents()) != tt.sent {
				t.Errorf("%d sessions, %d messages", s.Sessions(), len(s.Contents()))
			}
			submit(t, tenant) // whatever happened, the pool is in order
		})
	}
}

// TestRetryTakesNewConnection has two idle connections, both dead.
func TestRetryTakesNewConnection(t *testing.T) {
	t.Parallel()
	s := new(mailertest.Script)
	tenant, _ := pooled(s, new(Pool))
	var lent []*Conn
	for range 2 {
		c, err := tenant.Pool.get(t.Context(), &outgoing{}, tenant.dial, false)
		if err != nil {
			t.Fatal(err)
		}
		lent = append(lent, c)
	}
	for _, c := range lent {
		tenant.Pool.put(c)
		c.raw.Close()
	}
	submit(t, tenant)
	if s.Sessions() != 3 {
		t.Errorf("%d sessions", s.Sessions())
	}
}

// TestNewConnectionIsNotRetried hangs up on a connection that was not pooled.
func TestNewConnectionIsNotRetried(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Answers: map[string][]string{"MAIL": {mailertest.Close}}}
	tenant, _ := pooled(s, new(Pool))
	_, err := tenant.Submit(t.Context(), letter, hello, Options{})
	wantError(t, err, StageMail, KindTemporary)
	if s.Sessions() != 1 {
		t.Errorf("%d sessions", s.Sessions())
	}
}

func TestRefusedContentClosesConnection(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Answers: map[string][]string{mailertest.Content: {"554 5.7.1 no", ""}}}
	tenant, _ := pooled(s, new(Pool))
	_, err := tenant.Submit(t.Context(), letter, hello, Options{})
	wantError(t, err, StageFinal, KindRejected)
	submit(t, tenant)
	if s.Sessions() != 2 {
		t.Errorf("%d sessions", s.Sessions())
	}
}

// TestPoolMax sends many messages at once, counting the connections.
func TestPoolMax(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 1, 3} {
		want := limit
		if want == 0 {
			want = 2
		}
		s := new(mailertest.Script)
		tenant, _ := pooled(s, &Pool{Max: limit})
		var open, most atomic.Int32
		tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := s.Dial(ctx, network, addr)
			n := open.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			return &countedConn{Conn: nc, open: &open}, err
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		tenant.Pool.Close()
		if len(s.Contents()) != 50 || int(most.Load()) > want || open.Load() != 0 {
			t.Errorf("%d messages over %d connections at once, %d left open", len(s.Contents()), most.Load(), open.Load())
		}
	}
}

type countedConn struct {
	net.Conn
	open *atomic.Int32
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func TestPoolWaitEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &mailertest.Script{Answers: map[string][]string{"MAIL": {mailertest.Silent, ""}}}
		tenant := plainTenant(s)
		tenant.Pool = &Pool{Max: 1}
		first := make(chan error)
		go func() {
			_, err := tenant.Submit(t.Context(), letter, hello, Options{})
			first <- err
		}()
		synctest.Wait()
		gone := errors.New("gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, gone)
		defer cancel()
		begin := time.Now()
		_, err := tenant.Submit(ctx, letter, hello, Options{})
		e := wantError(t, err, StageLimit, KindThrottled)
		if !errors.Is(err, gone) || e.Code != codeBusy || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		wantError(t, <-first, StageMail, KindTemporary)
		submit(t, tenant) // the slot came back
		tenant.Pool.Close()
	})
}

func TestPoolSlotComesBackWhenDialFails(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Answers: map[string][]string{mailertest.Greeting: {mailertest.Close, mailertest.Close, mailertest.Close, ""}}}
	tenant, _ := pooled(s, &Pool{Max: 1})
	for range 3 {
		_, err := tenant.Submit(t.Context(), letter, hello, Options{})
		wantError(t, err, StageGreeting, KindTemporary)
	}
	submit(t, tenant)
}

func TestClosedPoolServes(t *testing.T) {
	t.Parallel()
	s := new(mailertest.Script)
	tenant, _ := pooled(s, new(Pool))
	submit(t, tenant)
	tenant.Pool.Close()
	if s.Said("QUIT") != 1 {
		t.Error("the idle connection was kept")
	}
	submit(t, tenant)
	submit(t, tenant)
	if s.Sessions() != 3 || s.Said("QUIT") != 3 {
		t.Errorf("%d sessions, %d quits", s.Sessions(), s.Said("QUIT"))
	}
}

// TestPoolDrain: neither an idle connection nor one that was lent serves again.
func TestPoolDrain(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{}
	tenant, _ := pooled(s, &Pool{})
	submit(t, tenant)
	tenant.Pool.Drain()
	submit(t, tenant)
	if n := s.Sessions(); n != 2 {
		t.Errorf("%d sessions, want 2: the idle one was kept", n)
	}
	c, err := tenant.Pool.get(t.Context(), &outgoing{}, tenant.dial, false)
	if err != nil {
		t.Fatal(err)
	}
	tenant.Pool.Drain()
	tenant.Pool.put(c)
	submit(t, tenant)
	if n := s.Sessions(); n != 3 {
		t.Errorf("%d sessions, want 3: the lent one was kept", n)
	}
	submit(t, tenant)
	if n := s.Sessions(); n != 3 {
		t.Errorf("%d sessions, want 3: a new one was not kept", n)
	}
}

func TestPoolSweep(t *testing.T) {
	t.Parallel()
	s := new(mailertest.Script)
	tenant, clock := pooled(s, new(Pool))
	submit(t, tenant)
	tenant.Pool.Sweep(clock.now().Add(59 * time.Second))
	if s.Said("QUIT") != 0 {
		t.Error("swept too early")
	}
	tenant.Pool.Sweep(clock.now().Add(60 * time.Second))
	if s.Said("QUIT") != 1 {
		t.Error("not swept")
	}
	submit(t, tenant)
}

// TestOutOfTurn: a reply that nobody asked for is not the next message's.
func TestOutOfTurn(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Answers: map[string][]string{mailertest.Content: {"250 2.0.0 taken\n550 5.7.1 and another thing", "250 2.0.0 taken"}}}
	tenant, _ := pooled(s, &Pool{})
	submit(t, tenant)
	submit(t, tenant)
	if n := len(s.Contents()); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

// TestPanicGivesBack: whoever panics does not take a slot with him.
func TestPanicGivesBack(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{}
	tenant, _ := pooled(s, &Pool{Max: 1})
	for range 3 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _ = tenant.Submit(t.Context(), letter, panickingContent{hello}, Options{})
		}()
	}
	submit(t, tenant)
	if n := len(s.Contents()); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
}

type panickingContent struct{ Content }

func (panickingContent) WriteTo(io.Writer) (int64, error) { panic("content") }

// TestVerdictIsNotAskedForAgain: on a reused connection, a refusal is one all
// the same; a session that has ended is not.
func TestVerdictIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		answers  map[string][]string
		kind     Kind
		sessions int
	}{
		{"refused, then cut", map[string][]string{"RCPT": {"250 yes", "550 5.1.1 nobody"}, "RSET": {mailertest.Close}}, KindRejected, 1},
		{"asked to go slower", map[string][]string{"MAIL": {"250 yes", "421 4.7.28 rate limit, slow down"}}, KindThrottled, 1},
		{"idle too long", map[string][]string{"MAIL": {"250 yes", "421 4.4.2 timeout", "250 yes"}}, KindNone, 2},
		{"session ended, told at MAIL", map[string][]string{"MAIL": {"250 yes", "535 5.7.8 session expired", "250 yes"}}, KindNone, 2},
		{"session ended, told at RCPT", map[string][]string{"RCPT": {"250 yes", "530 5.7.0 sign in", "250 yes"}}, KindNone, 2},
		{"never signed in", map[string][]string{"RCPT": {"250 yes", "530 5.7.0 sign in"}}, KindConfig, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Answers: tt.answers}
			tenant, _ := pooled(s, &Pool{})
			submit(t, tenant)
			_, err := tenant.Submit(t.Context(), letter, hello, Options{})
			kind := KindNone
			if err != nil {
				kind = asError(err).Kind
			}
			if kind != tt.kind || s.Sessions() != tt.sessions {
				t.Errorf("kind %s in %d sessions (%v), want %s in %d", kind, s.Sessions(), err, tt.kind, tt.sessions)
			}
		})
	}
}

// TestWarm: the first message finds a connection, and no second one is made.
func TestWarm(t *testing.T) {
	t.Parallel()
	s := new(mailertest.Script)
	tenant, _ := pooled(s, new(Pool))
	for range 2 {
		if err := tenant.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.Sessions() != 1 || s.Said("MAIL") != 0 || s.Said("QUIT") != 0 {
		t.Fatalf("%d sessions, said %q", s.Sessions(), s.Lines())
	}
	submit(t, tenant)
	if s.Sessions() != 1 {
		t.Errorf("%d sessions, want the one that was warm", s.Sessions())
	}
	tenant.Pool.Close()
	if err := tenant.Warm(t.Context()); err != nil || s.Sessions() != 1 {
		t.Errorf("a closed pool: %v, %d sessions", err, s.Sessions())
	}
}
