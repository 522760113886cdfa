//go:build endurance

package endurance

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/internal/disktest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// D1: the outbox's disk is full. What is accepted goes out all the same, what is not
// accepted is told so, and nothing is lost when there is space again. It needs root.
func TestDiskFull(t *testing.T) {
	s := newDiskSite(t)
	s.post(200, http.StatusAccepted)
	s.disk.Fill()
	for tries, full := 0, 0; full < 400; tries++ {
		switch status := s.post(1, 0); status {
		case http.StatusAccepted: // there was room left in the journals or the database
			if tries > 20_000 {
				t.Fatal("20,000 messages were taken though the disk is full")
			}
		case http.StatusInsufficientStorage:
			full++
		default:
			t.Fatalf("status %d when the disk is full", status)
		}
	}
	close(s.gate)
	Within(30*time.Second, func() bool { return s.ledger.Figures().Lost == 0 })
	meanwhile := s.ledger.Figures()
	if meanwhile.Lost != 0 {
		t.Errorf("while the disk was full, not all was delivered: %v", meanwhile)
	}
	s.disk.Empty()
	Eventually(t, time.Minute, "messages are accepted again", func() bool { return s.post(1, 0) == http.StatusAccepted })
	s.post(200, http.StatusAccepted)
	s.finish("full", 2*s.tenant.Connections)
}

// D2: the disk can be read only, which is what Linux makes of one with errors. It
// needs root.
func TestDiskReadOnly(t *testing.T) {
	s := newDiskSite(t)
	s.post(200, http.StatusAccepted)
	s.disk.Fail()
	for range 50 {
		if status := s.post(1, 0); status != http.StatusInsufficientStorage && status != http.StatusServiceUnavailable {
			t.Fatalf("status %d when nothing can be written", status)
		}
	}
	close(s.gate)
	// Whatever goes out now cannot be noted.
	<-time.After(3 * time.Second)
	meanwhile := s.ledger.Figures()
	s.caddy.Kill()
	s.disk.Mend()
	s.caddy.Start()
	s.post(200, http.StatusAccepted)
	t.Logf("while it could not be written to: %v", meanwhile)
	if meanwhile.Again != 0 {
		t.Errorf("%d copies went out in one process, which knows what it has sent", meanwhile.Again)
	}
	s.finish("read-only", meanwhile.Arrived)
}

// diskSite is a Caddy whose outbox is on a disk of its own. Its mail server takes
// nothing until the gate is closed.
type diskSite struct {
	t      *testing.T
	caddy  *Caddy
	disk   *disktest.Disk
	tenant Tenant
	ledger *Ledger
	gate   chan struct{}
	client *http.Client
}

func newDiskSite(t *testing.T) *diskSite {
	t.Helper()
	s := &diskSite{t: t, ledger: new(Ledger), gate: make(chan struct{}), client: &http.Client{Timeout: 30 * time.Second}}
	sink := &mailertest.Sink{Pipelining: true, Chunking: true, Take: func(m mailertest.Message) {
		<-s.gate
		s.ledger.Arrived(m)
	}}
	_, port := sink.Listen(t)
	s.tenant = Tenant{Name: "a", Port: port, Connections: 4}
	s.caddy = New(t, Site("outbox bbolt DIR/disk/outbox", s.tenant))
	// The disk goes when the process that uses it has gone.
	s.disk = disktest.New(t, filepath.Join(s.caddy.Dir, "disk"))
	t.Cleanup(s.caddy.Kill)
	s.caddy.Start()
	return s
}

// post posts messages, every tenth of them large, and returns the last answer. A want
// of 0 takes any.
func (s *diskSite) post(n, want int) (status int) {
	s.t.Helper()
	l := Load{Ledger: s.ledger}
	for i := range n {
		size := 1 << 10
		if i%10 == 9 {
			size = large
		}
		number, text := s.ledger.open(size)
		status, _ = l.try(s.client, s.caddy.URL+"/emails", map[string]string{
			"Authorization": "Bearer " + s.tenant.Key(), "Content-Type": "application/json", "Prefer": "respond-async",
		}, email(Sender, number, text))
		s.ledger.answered(number, status, false)
		if want != 0 && status != want {
			s.t.Fatalf("status %d, want %d", status, want)
		}
	}
	return status
}

// finish waits until all has arrived, also after a kill.
func (s *diskSite) finish(trouble string, copies int) {
	s.t.Helper()
	// What has arrived and is not noted yet would come again.
	Within(time.Minute, func() bool { return s.ledger.Figures().Lost == 0 && waiting(s.t, s.caddy) == 0 })
	s.caddy.Kill()
	s.caddy.Start()
	<-time.After(2 * time.Second) // for what arrives too often
	f := s.ledger.Figures()
	s.t.Logf("%s: %v", trouble, f)
	if f.Lost != 0 || f.Unwanted != 0 || f.Damaged != 0 || f.Again > copies {
		s.t.Errorf("%s: %v; at most %d copies are allowed", trouble, f, copies)
	}
}
