//go:build endurance

package endurance

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

// BenchmarkRelay takes messages by SMTP, stores them and hands them on, next to
// Postfix, which does the same, to the same server: from the first one until the last
// one has arrived. The least relay that stores, another that stores nothing, and the
// client at the server without any between them, show what is left to gain. As root, with
// Postfix installed:
//
//	go test -tags endurance ./caddymodule/endurance -run '^$' -bench Relay -benchtime 1x
func BenchmarkRelay(b *testing.B) {
	const clients, turns = 16, 5
	for _, kind := range []struct{ kib, mails, ofPostfix int }{{1, 8000, 800}, {100, 1600, 320}} {
		b.Run(fmt.Sprintf("%dKiB", kind.kib), func(b *testing.B) {
			sink := &mailertest.Sink{Pipelining: true, Chunking: true}
			_, port := sink.Listen(b)
			tenant := Tenant{Name: "a", Port: port, Connections: clients}
			caddy := New(b, Site(onBolt, tenant))
			caddy.Start()
			postfix := startPostfix(b, port)
			server := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
			bare := startBareRelay(b, server)
			least, leastPid := startLeastRelay(b, server)
			text := letter(Sender, 0, content(0, kind.kib<<10))
			turn := func(mails int, address, auth string) float64 {
				b.Helper()
				before, begin := sink.Taken(), time.Now()
				bring(b, clients, mails, address, auth, text)
				Eventually(b, 2*time.Minute, "all have arrived", func() bool { return sink.Taken() >= before+mails })
				return float64(mails) / time.Since(begin).Seconds()
			}
			ours := func(mails int) float64 {
				return turn(mails, caddy.SMTP, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+tenant.Name+"\x00"+tenant.Key()))+"\r\n")
			}
			theirs := func(mails int) float64 { return turn(mails, postfix.address, "") }
			ours(kind.mails / 10)
			turn(kind.mails/10, bare, "")
			turn(kind.mails/10, least, "")
			theirs(kind.ofPostfix / 10)
			var rate, rateOfPostfix, ratio, ofLeast, unstored, direct, spent, spentOfLeast []float64
			// cost is the processor time of a process for each mail of a turn, in µs.
			cost := func(pid int, turn func()) float64 {
				before := processorTime(b, pid)
				turn()
				return float64((processorTime(b, pid) - before).Microseconds()) / float64(kind.mails)
			}
			var memory, memoryOfPostfix int64
			for b.Loop() {
				for range turns {
					p := theirs(kind.ofPostfix)
					memoryOfPostfix = max(memoryOfPostfix, postfix.memory(b))
					var c float64
					spent = append(spent, cost(caddy.Pid(), func() { c = ours(kind.mails) }))
					memory = max(memory, proportional(b, caddy.Pid()))
					rate, rateOfPostfix, ratio = append(rate, c), append(rateOfPostfix, p), append(ratio, c/p)
					spentOfLeast = append(spentOfLeast, cost(leastPid, func() { ofLeast = append(ofLeast, turn(kind.mails, least, "")/p) }))
					unstored = append(unstored, turn(kind.mails, bare, "")/p)
					direct = append(direct, turn(kind.mails, server, "")/p)
				}
			}
			caddy.profile(b, "relay-"+b.Name()[strings.LastIndex(b.Name(), "/")+1:], func() { ours(kind.mails) })
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(contest.Median(rate), "mails/s")
			b.ReportMetric(contest.Median(rateOfPostfix), "postfix_mails/s")
			b.ReportMetric(contest.Median(ratio), "of_postfix")
			b.ReportMetric(contest.Median(spent), "cpu_µs/mail")
			b.ReportMetric(contest.Median(ofLeast), "least_of_postfix")
			b.ReportMetric(contest.Median(spentOfLeast), "least_cpu_µs/mail")
			b.ReportMetric(contest.Median(unstored), "unstored_of_postfix")
			b.ReportMetric(contest.Median(direct), "direct_of_postfix")
			b.ReportMetric(float64(memory>>20), "MB")
			b.ReportMetric(float64(memoryOfPostfix>>20), "postfix_MB")
		})
	}
}

// bring sends a message again and again, over a connection for each client, with the
// envelope in one write.
func bring(b *testing.B, clients, mails int, address, auth, text string) {
	b.Helper()
	var begun atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			if err := bringSome(address, auth, text, func() bool { return begun.Add(1) <= int64(mails) }); err != nil {
				b.Errorf("%s: %v", address, err)
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func bringSome(address, auth, text string, more func() bool) error {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer nc.Close()
	r := bufio.NewReader(nc)
	exchange := func(said, want string) error {
		if _, err := nc.Write([]byte(said)); err != nil {
			return err
		}
		for _, code := range strings.Fields(want) {
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return err
				}
				if !strings.HasPrefix(line, code) {
					return fmt.Errorf("%.20q: %q", said, line)
				}
				if line[3] == ' ' {
					break
				}
			}
		}
		return nil
	}
	if err := exchange("EHLO client.example\r\n", "220 250"); err != nil {
		return err
	}
	if auth != "" {
		if err := exchange(auth, "235"); err != nil {
			return err
		}
	}
	for more() {
		if err := exchange("MAIL FROM:<"+Sender+">\r\nRCPT TO:<someone@example.net>\r\nDATA\r\n", "250 250 354"); err != nil {
			return err
		}
		if err := exchange(text+".\r\n", "250"); err != nil {
			return err
		}
	}
	return exchange("QUIT\r\n", "221")
}

// postfix is a Postfix that hands everything on.
type postfix struct {
	address string
	cmd     *exec.Cmd
}

// relayMain has nothing that slows it down but what keeps messages safe.
const relayMain = `
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = /dev/stdout
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.example.net
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:%[2]d
default_destination_concurrency_limit = 16
initial_destination_concurrency = 16
in_flow_delay = 0
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtp_dns_support_level = disabled
biff = no
`

const relayMaster = `
%[1]s inet n - n - - smtpd
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
`

func startPostfix(b *testing.B, port int) *postfix {
	b.Helper()
	dir := b.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // its own users pass through
		if err := os.Chmod(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	p := &postfix{address: FreeAddress(b)}
	config := filepath.Join(dir, "config")
	for _, d := range []string{"queue", "data", "config"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for name, text := range map[string]string{"main.cf": fmt.Sprintf(relayMain, dir, port), "master.cf": fmt.Sprintf(relayMaster, p.address)} {
		if err := os.WriteFile(filepath.Join(config, name), []byte(strings.TrimLeft(text, "\n")), 0o644); err != nil { //nolint:gosec // read by its own users
			b.Fatal(err)
		}
	}
	for _, command := range [][]string{{"chown", "postfix:", filepath.Join(dir, "data")}, {"/usr/sbin/postfix", "-c", config, "check"}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("Postfix is missing or broken: %v: %s", err, out)
		}
	}
	p.cmd = exec.Command("/usr/lib/postfix/sbin/master", "-c", config, "-s")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		_ = p.cmd.Wait()
	})
	Eventually(b, 10*time.Second, "Postfix serves", func() bool {
		nc, err := net.Dial("tcp", p.address)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return p
}

// memory is that of all its processes, in octets.
func (p *postfix) memory(b *testing.B) (sum int64) {
	b.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, pid := range append(strings.Fields(string(children)), strconv.Itoa(p.cmd.Process.Pid)) {
		id, _ := strconv.Atoi(pid)
		sum += proportional(b, id)
	}
	return sum
}

// proportional is the memory of a process in octets, with its share of what it shares
// with others; zero where it has just ended.
func proportional(b *testing.B, pid int) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	b.Fatalf("no memory in %s", text)
	return 0
}
