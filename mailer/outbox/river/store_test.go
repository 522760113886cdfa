package river

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func config(t testing.TB, schema string) Config {
	return Config{DSN: dsn, Schema: schema, MaxConnections: 4, Sealer: newSealer(), Logger: logger(t)}
}

// Instances that start at once on an empty database make the tables once.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			e, err := Open(t.Context(), config(t, schema))
			if err != nil {
				t.Error(err)
				return
			}
			accept(t, e, newMessage("lab"))
			e.Close()
		})
	}
	group.Wait()
	var n int
	err := admin(t).QueryRow(t.Context(), `SELECT count(*) FROM `+schema+`.messages`).Scan(&n)
	if n != 3 || err != nil {
		t.Errorf("%d messages, %v", n, err)
	}
}

func TestNewerTables(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{
		"our own": `INSERT INTO %.outbox_version (version) VALUES (999)`,
		"River's": `INSERT INTO %.river_migration (line, version) VALUES ('main', 999)`,
	} {
		schema := newSchema()
		e, err := Open(t.Context(), config(t, schema))
		if err != nil {
			t.Fatal(err)
		}
		e.Close()
		if _, err := admin(t).Exec(t.Context(), strings.ReplaceAll(table, "%", schema)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), config(t, schema)); err == nil || !strings.Contains(err.Error(), "999") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A user without the right to make a schema is told what to do, and can use one that
// is his.
func TestRights(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	db := admin(t)
	if _, err := db.Exec(t.Context(), `CREATE ROLE `+schema+`_user LOGIN`); err != nil {
		t.Fatal(err)
	}
	c := config(t, schema)
	c.DSN = strings.Replace(dsn, "user=outbox", "user="+schema+"_user", 1)
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "CREATE SCHEMA "+schema+" AUTHORIZATION") {
		t.Errorf("without a right: %v", err)
	}
	if _, err := db.Exec(t.Context(), `CREATE SCHEMA `+schema+` AUTHORIZATION `+schema+`_user`); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	accept(t, e, newMessage("lab"))
	e.Close()
}

// What a session promises is not left to the server's settings.
func TestSynchronousCommit(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{"off": "on", "local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
		c := config(t, newSchema())
		c.DSN += " options='-c synchronous_commit=" + set + "'"
		pool, err := c.pool(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got string
		err = pool.QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&got)
		pool.Close()
		if got != want || err != nil {
			t.Errorf("where the server says %s: %s, %v; want %s", set, got, err, want)
		}
	}
}

// Nothing in the tables, River's neither, tells an address or a word of a message.
func TestNothingInClear(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	e, _ := running(t, schema, quick(), &clerk{})
	const mark = "zebra"
	m := newMessage("lab")
	m.MessageID = "<" + mark + "@example.com>"
	m.Caller = mailer.Caller{Kind: "user", Name: mark + "@example.com"}
	m.From = mailer.Address{Name: mark, Local: mark, Domain: mark + ".example"}
	m.Sender, m.Recipients[0].Address = m.From, m.From
	m.Failure = &outbox.Failure{Cause: mark}
	content := mailer.Bytes(strings.Repeat(mark+"\r\n", 1000))
	m.Size = content.Size()
	if err := e.Accept(t.Context(), m, m.Content(content)); err != nil {
		t.Fatal(err)
	}
	if err := e.SetLane(t.Context(), "lab", outbox.Lane{State: outbox.LaneParked, Failure: m.Failure, By: mark}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Acquire(t.Context(), mark+"@example.com", outbox.MailboxLimits{Rate: 1, RecipientsPerDay: 10, Connections: 1}, 1); err != nil {
		t.Fatal(err)
	}
	db := admin(t)
	rows, err := db.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = $1`, schema)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 10 {
		t.Fatal(tables, err)
	}
	total := 0
	for _, table := range tables {
		rows, err := db.Query(t.Context(), `SELECT * FROM `+schema+`.`+table)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			total++
			for i, v := range rows.RawValues() {
				if bytes.Contains(v, []byte(mark)) {
					t.Errorf("%s.%s: %q", table, rows.FieldDescriptions()[i].Name, v)
				}
			}
		}
	}
	if total < 10 {
		t.Errorf("only %d rows", total)
	}
}

// A record or a content that was put in another's place does not open.
func TestSwapped(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	e, _ := openTest(t, schema, quick())
	t.Cleanup(func() { e.Close() })
	a, b := accept(t, e, newMessage("lab")), accept(t, e, newMessage("lab"))
	_, err := admin(t).Exec(t.Context(), `UPDATE `+schema+`.messages SET record = (SELECT record FROM `+schema+`.messages WHERE id = $1) WHERE id = $2;`, a.ID, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get(t.Context(), b.ID); err == nil {
		t.Error("the record of another message was taken")
	}
	if _, err := admin(t).Exec(t.Context(), `UPDATE `+schema+`.contents SET id = 'x' || id WHERE id = $1`, b.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := admin(t).Exec(t.Context(), `UPDATE `+schema+`.contents SET id = $1 WHERE id = $2`, b.ID, a.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := admin(t).Exec(t.Context(), `UPDATE `+schema+`.messages SET id = $1 || 'x' WHERE id = $1`, b.ID); err != nil {
		t.Fatal(err)
	}
	r, _ := stored{e, b.ID, int64(len(letter))}.Open()
	if got, err := io.ReadAll(r); err == nil {
		t.Errorf("the content of another message was taken: %q", got)
	}
}

// A large content is in memory a chunk at a time.
func TestChunks(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	e, _ := openTest(t, schema, quick())
	t.Cleanup(func() { e.Close() })
	m := newMessage("lab")
	octets := bytes.Repeat([]byte("0123456789abcde\n"), 3<<20/16+1)
	m.Size = int64(len(octets))
	if err := e.Accept(t.Context(), m, m.Content(mailer.Bytes(octets))); err != nil {
		t.Fatal(err)
	}
	var n, most int
	err := admin(t).QueryRow(t.Context(), `SELECT count(*), max(length(data)) FROM `+schema+`.contents`).Scan(&n, &most)
	if err != nil || n != 13 || most > chunk+64 {
		t.Errorf("%d chunks of up to %d octets, %v", n, most, err)
	}
	c, err := e.Content(t.Context(), m.ID)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := c.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), octets) {
		t.Errorf("%d octets came back, %v", got.Len(), err)
	}
	if _, err := admin(t).Exec(t.Context(), `DELETE FROM `+schema+`.contents WHERE n = 12`); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(io.Discard); err == nil {
		t.Error("a content without its end was taken")
	}
}

// A content that cannot be read, or is not as long as it says, is not accepted.
func TestBrokenContent(t *testing.T) {
	t.Parallel()
	e, _ := running(t, newSchema(), quick(), &clerk{})
	for _, c := range []mailer.Content{newMessage("lab").Content(broken{}), newMessage("lab").Content(short{mailer.Bytes(letter)})} {
		m := newMessage("lab")
		if err := e.Accept(t.Context(), m, c); err == nil {
			t.Error("accepted")
		}
		if _, err := e.Get(t.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
			t.Error(err)
		}
	}
	m := accept(t, e, newMessage("lab")) // the lane has all its room
	untilState(t, e, m.ID, outbox.StateSent, 5*time.Second)
	e.mu.Lock()
	defer e.mu.Unlock()
	eventually(t, 0, "the lane is empty", func() bool { return e.lanes["lab"].running <= 1 })
}

type broken struct{}

func (broken) Open() (io.ReadCloser, error) { return nil, errors.New("gone") }
func (broken) Size() int64                  { return 10 }

type short struct{ mailer.Source }

func (s short) Size() int64 { return s.Source.Size() + 1 }

// What is accepted where there is no room, and what is opened elsewhere, moves within
// a second, without polling.
func TestOthersAreCalled(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	tm := usualTiming()
	tm.poll = time.Hour
	c := &clerk{}
	_, _ = running(t, schema, tm, c)
	e, _ := openTest(t, schema, tm) // which does not run
	t.Cleanup(func() { e.Close() })
	untilListening(t, schema)
	for range 3 {
		m := accept(t, e, newMessage("lab"))
		untilState(t, e, m.ID, outbox.StateSent, 5*time.Second)
	}
	if err := e.SetLane(t.Context(), "lab", outbox.Lane{State: outbox.LanePaused}); err != nil {
		t.Fatal(err)
	}
	m := accept(t, e, newMessage("lab"))
	after := accept(t, e, newMessage("another"))
	untilState(t, e, after.ID, outbox.StateSent, 5*time.Second)
	if c.tries(m.ID) > 0 {
		t.Error("tried in a paused lane")
	}
	if err := e.SetLane(t.Context(), "lab", outbox.Lane{}); err != nil {
		t.Fatal(err)
	}
	untilState(t, e, m.ID, outbox.StateSent, 5*time.Second)
}

// untilListening waits until an instance hears what others tell.
func untilListening(t *testing.T, schema string) {
	t.Helper()
	db := admin(t)
	eventually(t, 10*time.Second, "an instance listens", func() (yes bool) {
		err := db.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE query = $1)`, `LISTEN "oauth_mail:`+schema+`"`).Scan(&yes)
		return err == nil && yes
	})
}

// River alone wakes a message, where timers, calls and polling do not: that of a
// retry whose instance has ended since.
func TestRiverWakes(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	tm := usualTiming()
	e, _ := openTest(t, schema, tm)
	m := newMessage("lab")
	m.State, m.Due = outbox.StateScheduled, time.Now().Add(4*time.Second)
	c := &clerk{}
	tm.poll = time.Hour
	_, _ = running(t, schema, tm, c)
	untilListening(t, schema)
	untilState(t, e, accept(t, e, newMessage("other")).ID, outbox.StateSent, 10*time.Second) // its first looks are over
	e.shouts.stop()                                                                          // it calls nobody
	accept(t, e, m)
	e.Close()
	eventually(t, 15*time.Second, "the message is tried", func() bool { return c.tries(m.ID) == 1 })
	if early := time.Until(m.Due); early > 0 {
		t.Errorf("tried %v early", early)
	}
	var jobs int
	eventually(t, 10*time.Second, "its job has ended", func() bool {
		err := admin(t).QueryRow(t.Context(), `SELECT count(*) FROM `+schema+`.river_job WHERE state <> 'completed'`).Scan(&jobs)
		return err == nil && jobs == 0
	})
}

// A job tells an id, a lane and a generation; that of a message that is sent is gone.
func TestJob(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	e, _ := running(t, schema, usualTiming(), &clerk{deliver: func(_ context.Context, m *outbox.Message) outbox.Outcome {
		m.Attempts++
		if m.Attempts == 1 {
			return outbox.Outcome{At: time.Now().Add(time.Hour)}
		}
		return outbox.Outcome{Verdict: outbox.Sent}
	}})
	m := accept(t, e, newMessage("lab"))
	untilState(t, e, m.ID, outbox.StateQueued, 5*time.Second)
	jobs := func() (args []map[string]any, at time.Time) {
		rows, err := admin(t).Query(t.Context(), `SELECT args, scheduled_at FROM `+schema+`.river_job`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var raw []byte
			if err := rows.Scan(&raw, &at); err != nil {
				t.Fatal(err)
			}
			var a map[string]any
			if err := json.Unmarshal(raw, &a); err != nil {
				t.Fatal(err)
			}
			args = append(args, a)
		}
		return args, at
	}
	args, at := jobs()
	if len(args) != 1 || len(args[0]) != 3 || args[0]["id"] != m.ID || args[0]["lane"] != "lab" || args[0]["generation"] != 2.0 {
		t.Errorf("jobs %v", args)
	}
	if in := time.Until(at); in < 59*time.Minute || in > time.Hour {
		t.Errorf("the job is due in %v", in)
	}
	if err := e.Change(t.Context(), m.ID, func(m *outbox.Message) error { m.Due = time.Now(); return nil }); err != nil {
		t.Fatal(err)
	}
	untilState(t, e, m.ID, outbox.StateSent, 5*time.Second)
	if args, _ := jobs(); len(args) != 0 {
		t.Errorf("jobs of a message that is sent: %v", args)
	}
}

// A parked lane with 100,000 messages costs the others nothing.
func TestParkedLaneIsCheap(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	c := &clerk{}
	e, _ := running(t, schema, usualTiming(), c)
	if err := e.SetLane(t.Context(), "parked", outbox.Lane{State: outbox.LaneParked}); err != nil {
		t.Fatal(err)
	}
	accept(t, e, newMessage("parked"))
	db := admin(t)
	for _, sql := range []string{
		`INSERT INTO %.messages (id, tenant, caller, state, due, accepted, expires, record)
			SELECT m.id || i, tenant, caller, state, due, accepted, expires, record FROM %.messages m, generate_series(1, 100000) i`,
		`ANALYZE %.messages`,
	} {
		if _, err := db.Exec(t.Context(), strings.ReplaceAll(sql, "%", schema)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec(t.Context(), `SET search_path = `+schema); err != nil {
		t.Fatal(err)
	}
	var plan []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := db.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+allLanes).Scan(&plan); err != nil {
		t.Fatal(err)
	}
	if pages := plan[0].Plan.Hit + plan[0].Plan.Read; pages > 60 {
		t.Errorf("a look at all lanes reads %d pages", pages)
	}
	began := time.Now()
	for range 20 {
		m := accept(t, e, newMessage("other"))
		untilState(t, e, m.ID, outbox.StateSent, 5*time.Second)
	}
	t.Logf("a look at all lanes reads %d pages; a message takes %v beside the parked lane", plan[0].Plan.Hit+plan[0].Plan.Read, time.Since(began)/20)
	s, err := e.Stats(t.Context())
	if err != nil || s.Tenants["parked"].Messages[outbox.StateQueued] != 100_001 || s.Tenants["other"].Messages[outbox.StateSent] != 20 || s.Bytes == 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.count() != 20 {
		t.Errorf("%d tries", c.count())
	}
}

// One instance probes a parked lane for all of them.
func TestOneProbe(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	stuck := make(chan struct{})
	c := &clerk{deliver: func(context.Context, *outbox.Message) outbox.Outcome {
		<-stuck
		return outbox.Outcome{Verdict: outbox.Sent}
	}}
	tm := quick()
	tm.probe = time.Minute
	first, _ := running(t, schema, tm, c)
	_, _ = running(t, schema, tm, c)
	if err := first.SetLane(t.Context(), "lab", outbox.Lane{State: outbox.LaneParked, Until: time.Now().Add(300 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	var all []string
	for range 6 {
		all = append(all, accept(t, first, newMessage("lab")).ID)
	}
	eventually(t, 10*time.Second, "the probe", func() bool { return c.count() == 1 })
	time.Sleep(3 * tm.poll)
	if n := c.count(); n != 1 {
		t.Errorf("%d probes", n)
	}
	close(stuck)
	for _, id := range all {
		untilState(t, first, id, outbox.StateSent, 10*time.Second)
	}
}

// A message that somebody is looking at delays no other of its lane.
func TestLockedMessage(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	e, _ := running(t, schema, quick(), &clerk{})
	if err := e.SetLane(t.Context(), "lab", outbox.Lane{State: outbox.LanePaused}); err != nil {
		t.Fatal(err)
	}
	locked, other := accept(t, e, newMessage("lab")), accept(t, e, newMessage("lab"))
	tx, err := admin(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT 1 FROM `+schema+`.messages WHERE id = $1 FOR UPDATE`, locked.ID); err != nil {
		t.Fatal(err)
	}
	if err := e.SetLane(t.Context(), "lab", outbox.Lane{}); err != nil {
		t.Fatal(err)
	}
	untilState(t, e, other.ID, outbox.StateSent, 5*time.Second)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	untilState(t, e, locked.ID, outbox.StateSent, 5*time.Second)
}
