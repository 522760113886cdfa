//go:build endurance

package endurance

import (
	"encoding/binary"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

// BenchmarkAccept posts messages of 1 KiB that are answered once they are durable,
// next to Caddy's respond handler in the same process:
//
//	go test -tags endurance ./caddymodule/endurance -run '^$' -bench Accept -benchtime 1x
//
// With parked, nothing is delivered meanwhile; delivering does both. Least is what the
// least handler makes that stores.
func BenchmarkAccept(b *testing.B) {
	const clients, mails, turns = 16, 4000, 9
	for _, name := range []string{"parked", "delivering"} {
		b.Run(name, func(b *testing.B) {
			s := newAcceptSite(b)
			respond := contest.Row{Name: "respond", Mails: 2 * mails, Workers: clients, Send: s.respond(b, clients)}
			accept := contest.Row{Name: name, Mails: mails, Workers: clients, Send: s.accept(b, name, clients)}
			pid := s.caddy.Pid()
			accept.Spent = func() time.Duration { return processorTime(b, pid) }
			respond.Spent = accept.Spent
			accepted := 0
			accept.Settle = func() {
				accepted += accept.Mails
				if name == "delivering" {
					Eventually(b, time.Minute, "all is delivered", s.rest())
				}
			}
			if name == "parked" { // flushes of deliveries would count, too
				least := contest.Row{Name: "least", Mails: mails, Workers: clients, Send: s.least(b, clients), Spent: accept.Spent}
				before, gone := s.flushes(), watch(b, s.dir)
				contest.Compare(b, turns, respond, accept, least)
				b.ReportMetric(float64(accepted)/float64(s.flushes()-before), "messages/flush")
				b.ReportMetric(float64(gone())/float64(accepted), "files/message")
			} else {
				contest.Compare(b, turns, respond, accept)
			}
			s.caddy.profile(b, "accept-"+name, func() { accept.Once(b) })
		})
	}
}

// BenchmarkAlone is how long a client waits who is alone: for respond, for a message
// to be durable, and for a commit of bbolt beside them.
func BenchmarkAlone(b *testing.B) {
	const rounds, each = 200, 5
	s := newAcceptSite(b)
	respond, accept := s.respond(b, 1), s.accept(b, "parked", 1)
	db, err := bbolt.Open(filepath.Join(s.caddy.Dir, "beside.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	number := uint64(0)
	commit := func(int) error {
		return db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("messages"))
			if err != nil {
				return err
			}
			number++
			return bucket.Put(binary.BigEndian.AppendUint64(nil, number), make([]byte, 1<<10))
		})
	}
	names := []string{"respond", "accept", "commit"}
	took := make([][]float64, len(names))
	for b.Loop() {
		for range rounds {
			for i, do := range []func(int) error{respond, accept, commit} {
				for range each {
					begin := time.Now()
					if err := do(0); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], float64(time.Since(begin).Nanoseconds())/1e3)
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, name := range names {
		b.ReportMetric(contest.Median(took[i]), name+"_µs")
	}
	b.ReportMetric((contest.Median(took[1])-contest.Median(took[0]))/contest.Median(took[2]), "commits_over_respond")
}

// acceptSite is a Caddy with two tenants: delivering and parked, which is paused.
type acceptSite struct {
	caddy *Caddy
	dir   string // of the outbox
	sink  *mailertest.Sink
}

func newAcceptSite(b *testing.B) *acceptSite {
	b.Helper()
	s := &acceptSite{sink: &mailertest.Sink{Pipelining: true, Chunking: true}}
	_, port := s.sink.Listen(b)
	s.caddy = New(b, leastSite(Site(onBolt, Tenant{Name: "delivering", Port: port, Connections: 16}, Tenant{Name: "parked", Port: nowhere(b), Connections: 16}), "/least", &leastHandler{Journal: "DIR/least"}))
	s.dir = filepath.Join(s.caddy.Dir, "outbox")
	s.caddy.Start()
	resp, err := http.Post(s.caddy.URL+"/admin/outbox/tenants/parked/pause", "application/json", strings.NewReader("{}"))
	if err != nil {
		b.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		b.Fatalf("pausing: %s", resp.Status)
	}
	return s
}

// nowhere is a port of loopback at which nobody listens.
func nowhere(b testing.TB) int {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *acceptSite) respond(b *testing.B, clients int) func(int) error {
	return s.clients(b, clients, "/respond", nil, 200)
}

func (s *acceptSite) accept(b *testing.B, tenant string, clients int) func(int) error {
	return s.clients(b, clients, "/emails", map[string]string{"Authorization": "Bearer " + Tenant{Name: tenant}.Key(), "Prefer": "respond-async"}, 202)
}

func (s *acceptSite) least(b *testing.B, clients int) func(int) error {
	return s.clients(b, clients, "/least", nil, 202)
}

func (s *acceptSite) clients(b *testing.B, n int, path string, header map[string]string, want int) func(int) error {
	b.Helper()
	list := make([]*wire, n)
	for i := range list {
		list[i] = dialWire(b, s.caddy.URL+path, header, []byte(email(Sender, 0, content(0, 1<<10))), want)
	}
	return func(client int) error { return list[client].do() }
}

// rest tells whether the sink has taken nothing for a while.
func (s *acceptSite) rest() func() bool {
	taken, since := -1, time.Now()
	return func() bool {
		if now := s.sink.Taken(); now != taken {
			taken, since = now, time.Now()
		}
		return time.Since(since) > 100*time.Millisecond
	}
}

var flushesTotal = regexp.MustCompile(`(?m)^caddy_oauth_mail_outbox_flushes_total (\d+)$`)

// flushes is how often the outbox has waited for the disk.
func (s *acceptSite) flushes() int { return s.caddy.figure(flushesTotal, s.caddy.Get("/metrics")) }

// watch counts the files that go from a folder and those below it.
func watch(b *testing.B, dir string) (gone func() int) {
	b.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { syscall.Close(fd) })
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		_, err = syscall.InotifyAddWatch(fd, path, syscall.IN_DELETE|syscall.IN_MOVED_FROM|syscall.IN_CREATE)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return func() int {
		events, buf := 0, make([]byte, 64<<10)
		for {
			n, err := syscall.Read(fd, buf)
			if err != nil || n <= 0 {
				return events
			}
			for at := 0; at+syscall.SizeofInotifyEvent <= n; events++ {
				at += syscall.SizeofInotifyEvent + int((*syscall.InotifyEvent)(unsafe.Pointer(&buf[at])).Len)
			}
		}
	}
}
