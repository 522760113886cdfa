//go:build endurance

package endurance

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestStop: a stop of Caddy waits for devices whose messages are on their way, but not
// for ever.
func TestStop(t *testing.T) {
	sink := &mailertest.Sink{Pipelining: true}
	_, port := sink.Listen(t)
	tenant := Tenant{Name: "a", Port: port, Connections: 1}
	caddy := New(t, Site(onBolt, tenant))
	caddy.Start()
	d := &Devices{Address: caddy.SMTP, Tenants: []Tenant{tenant}, Ledger: new(Ledger)}
	slow, err := d.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.Mail(Sender, nil); err != nil {
		t.Fatal(err)
	}
	if err := slow.Rcpt("someone@example.net", nil); err != nil {
		t.Fatal(err)
	}
	content, err := slow.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(content, "From: "+Sender+"\r\n\r\nnothing more comes\r\n"); err != nil {
		t.Fatal(err)
	}
	took := caddy.Stop()
	t.Logf("it took %v", took.Round(time.Millisecond))
	if took < 25*time.Second || took > 45*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if err := content.Close(); err == nil {
		t.Error("a message was taken by nobody")
	}
	if said := caddy.Said("SMTP sessions were cut"); !strings.Contains(said, `"level":"warn"`) {
		t.Errorf("the log does not tell: %q", caddy.Said("SMTP"))
	}
	caddy.Start()
	nc, err := net.Dial("tcp", caddy.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if line, err := bufio.NewReader(nc).ReadString('\n'); !strings.HasPrefix(line, "220 ") {
		t.Errorf("after the stop: %q, %v", line, err)
	}
	if n := sink.Taken(); n != 0 {
		t.Errorf("%d messages were sent", n)
	}
}
