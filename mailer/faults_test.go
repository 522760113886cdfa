package mailer

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// oneFlight names the shape in which the content travels with its envelope. There
// a lost connection leaves open what has become of the message.
const oneFlight = "at once"

// end is how a submission is to end: at a stage, or well.
type end struct {
	stage Stage
	kind  Kind
}

var sent = end{}

// faultyStep is a step of a session, and what is to become of a message where
// something goes wrong there.
type faultyStep struct {
	name   string
	shape  string // the one it is about; none: it is the same in all
	offer  []string
	step   string   // of the script
	before []string // the answers to it before the one that is wrong
	good   string   // the right answer
	wrong  string   // an answer of another class
	within time.Duration

	fourth, fifth, lost end
	other               map[string]end // where it ends otherwise

	big   bool // the content does not travel with its envelope
	idle  bool // the fault meets a connection that was idle for long
	quits bool // the connection is closed after the message
}

const (
	minutes   = time.Minute
	offersTLS = "250-mail\n250-PIPELINING\n250 STARTTLS"
	offersIn  = "250-mail\n250 AUTH LOGIN"
)

func faultySteps() []faultyStep {
	at := func(s Stage, fourth, fifth, lost Kind) (end, end, end) {
		return end{s, fourth}, end{s, fifth}, end{s, lost}
	}
	var steps []faultyStep
	add := func(st faultyStep, s Stage, fourth, fifth, lost Kind) {
		st.fourth, st.fifth, st.lost = at(s, fourth, fifth, lost)
		steps = append(steps, st)
	}
	spoke := func(s Stage) map[string]end { return map[string]end{"second reply": {s, KindTemporary}} }

	add(faultyStep{name: "greeting", step: mailertest.Greeting, good: "220 hi", wrong: "250 hi", within: minutes, other: spoke(StageEHLO)},
		StageGreeting, KindTemporary, KindConfig, KindTemporary)
	add(faultyStep{name: "EHLO", step: "EHLO", good: offersTLS, wrong: "354 hi", within: 5 * minutes, other: spoke(StageSTARTTLS)},
		StageEHLO, KindTemporary, KindConfig, KindTemporary)
	add(faultyStep{
		name: "STARTTLS", step: "STARTTLS", good: "220 go", wrong: "354 go", within: 5 * minutes,
		other: map[string]end{"second reply": {StageSTARTTLS, KindConfig}},
	}, StageSTARTTLS, KindTemporary, KindConfig, KindTemporary)
	add(faultyStep{name: "second EHLO", step: "EHLO", before: []string{""}, good: offersIn, wrong: "354 hi", within: 5 * minutes, other: spoke(StageAuth)},
		StageEHLO, KindTemporary, KindConfig, KindTemporary)
	for _, st := range []faultyStep{
		{name: "AUTH", step: "AUTH"},
		{name: "challenge", step: mailertest.Challenge, before: []string{"334 UGFzc3dvcmQ6"}},
	} {
		st.good, st.wrong, st.within = "235 in", "350 hm", 5*minutes
		st.other = spoke(StageMail)
		st.other["good-bye"] = end{StageAuth, KindThrottled}
		add(st, StageAuth, KindTemporary, KindUnauthorized, KindTemporary)
	}
	for _, shape := range append(shapes[:len(shapes):len(shapes)], struct {
		name  string
		offer []string
	}{"two flights", []string{"PIPELINING", "CHUNKING"}}) {
		grouped, chunked := slices.Contains(shape.offer, "PIPELINING"), slices.Contains(shape.offer, "CHUNKING")
		one := shape.name == oneFlight
		base := faultyStep{shape: shape.name, offer: shape.offer, good: "250 ok", wrong: "350 hm", within: 5 * minutes, big: shape.name == "two flights"}
		unknown := end{StageFinal, KindUnknown}
		later := func(s Stage) end { return end{s, KindTemporary} }

		mail := base
		mail.name, mail.step = "MAIL", "MAIL"
		mail.other = map[string]end{"second reply": later(StageRcpt)} // it came before RCPT was said
		rcpt := base
		rcpt.name, rcpt.step = "RCPT", "RCPT"
		rcpt.other = spoke(StageData)
		if grouped {
			// Where a reply is left out or comes twice, each is taken for that to
			// another command, until one does not fit. What is left out was not done.
			mail.other = map[string]end{"second reply": later(StageData), "silent": {StageMail, KindConfig}, "half": later(StageRcpt)}
			if !chunked || one {
				rcpt.other["silent"] = end{StageRcpt, KindRejected}
			}
		}
		for _, st := range []faultyStep{mail, rcpt} {
			stage := map[string]Stage{"MAIL": StageMail, "RCPT": StageRcpt}[st.name]
			add(st, stage, KindTemporary, KindRejected, KindTemporary)
			if one {
				last := &steps[len(steps)-1]
				last.lost, last.within = unknown, 10*minutes
				last.other["second reply"] = unknown
				delete(last.other, "half")
			}
		}
		if !chunked {
			data := base
			data.name, data.step, data.good, data.wrong = "DATA", "DATA", "354 go", "250 hm"
			data.other = spoke(StageData)
			add(data, StageData, KindTemporary, KindRejected, KindTemporary)
		}
		content := base
		content.name, content.step, content.wrong, content.within = "content", contentStep(shape.offer), "354 hm", 10*minutes
		content.other = map[string]end{"second reply": sent}
		if one { // there is one reply more than there were commands
			content.other["second reply"] = unknown
		}
		add(content, StageFinal, KindTemporary, KindRejected, KindUnknown)

		// Nothing that is said to RSET is about the message, which goes out over a
		// new connection.
		reset := base
		reset.name, reset.step, reset.idle = "RSET", "RSET", true
		if grouped && !chunked {
			reset.other = map[string]end{"second reply": later(StageData), "half": later(StageRcpt), "silent": later(StageRcpt)}
		}
		steps = append(steps, reset)
	}
	return append(steps, faultyStep{name: "QUIT", step: "QUIT", good: "221 bye", wrong: "350 hm", within: 2 * time.Second, quits: true})
}

// faults are the ways in which a step goes wrong.
func (st faultyStep) faults() []struct {
	name, answer string
	slow         bool
	want         end
} {
	code := st.good[:3]
	second := st.good + "\n" + code + " and another"
	if st.step == "DATA" { // that may be taken for the verdict
		second = st.good + "\n250 taken"
	}
	list := []struct {
		name, answer string
		slow         bool
		want         end
	}{
		{"4yz", "451 4.3.0 later", false, st.fourth},
		{"good-bye", "421 4.3.0 closing", false, st.fourth},
		{"5yz", "554 5.7.1 no", false, st.fifth},
		{"5yz of two lines", "554-5.7.1 no\n554 5.7.1 never", false, st.fifth},
		{"closed", mailertest.Close, false, st.lost},
		{"HTTP", "HTTP/1.1 400 Bad Request", false, st.lost},
		{"binary", "\x16\x03\x01\x02\x00\x01\xff\x00", false, st.lost},
		{"empty line", "", false, st.lost},
		{"wrong class", st.wrong, false, st.lost},
		{"torn", code + "-a\n555 b", false, st.lost},
		{"over-long", code + " " + strings.Repeat("x", maxReplyOctets+1), false, st.lost},
		{"endless", strings.Repeat(code+"-a\n", maxReplyLines) + code + " a", false, st.lost},
		{"half", code + "-a", true, st.lost},
		{"second reply", second, false, st.lost},
		{"silent", mailertest.Silent, true, st.lost},
		{"stalled", mailertest.Stall, true, st.lost},
	}
	for i := range list {
		if list[i].name == "empty line" {
			list[i].answer = " " // an empty answer is the usual one
		}
		if want, ok := st.other[list[i].name]; ok {
			list[i].want = want
		}
	}
	return list
}

// lined is a content that tells by which message it is.
func lined(name string, big bool) wireContent {
	text := "Subject: " + name + "\r\n\r\n.dot\r\n"
	if big {
		text += bigger.text
	}
	return wireContent{text: text}
}

// came counts the contents with a name that came to the server in whole.
func came(s *mailertest.Script, name string) int {
	n := 0
	for _, c := range s.Contents() {
		if strings.HasPrefix(c, "Subject: "+name+"\r\n") {
			n++
		}
	}
	return n
}

// tallied counts the connections that are open.
func tallied(tenant *Tenant) *atomic.Int32 {
	open, dial := new(atomic.Int32), tenant.Server.Dial
	tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err == nil {
			open.Add(1)
			nc = &countedConn{Conn: nc, open: open}
		}
		return nc, err
	}
	return open
}

// TestFaults makes each step fail in each way, in each shape. The message ends
// as it should, at the right stage and in time; the server has it as often as
// the end says; no connection and no goroutine is left; and the pool goes on.
func TestFaults(t *testing.T) {
	t.Parallel()
	config, roots := mailertest.NewCertificate(t)
	for _, st := range faultySteps() {
		for _, fault := range st.faults() {
			t.Run(fmt.Sprintf("%s/%s/%s", st.name, st.shape, fault.name), func(t *testing.T) {
				t.Parallel()
				s := &mailertest.Script{TLS: config, Offer: st.offer, Auth: "LOGIN", Answers: map[string][]string{
					"AUTH":               {"334 VXNlcm5hbWU6"},
					mailertest.Challenge: {"334 UGFzc3dvcmQ6", "", "334 UGFzc3dvcmQ6", ""},
				}}
				s.Answers[st.step] = append(slices.Clone(st.before), fault.answer, "")
				tenant := &Tenant{
					Name: "lab", Auth: Password{User: "u", Password: "secret-password"}, Pool: new(Pool),
					Server: Server{Host: "mail.example.com", Port: 587, RootCAs: roots, Dial: s.Dial},
				}
				if st.quits {
					tenant.Pool.MaxMessages = 1
				}
				open := tallied(tenant)
				synctest.Test(t, func(t *testing.T) {
					if st.idle {
						submit(t, tenant)
						time.Sleep(doubtAfter + time.Second)
					}
					begin := time.Now()
					_, err := tenant.Submit(t.Context(), letter, lined("one", st.big), Options{})
					took, most := time.Since(begin), 5*time.Second // for a good-bye, or last words
					if fault.slow {
						most += st.within
					}
					if took > most {
						t.Errorf("it took %v, more than %v", took, most)
					}
					got := sent
					if err != nil {
						e := asError(err)
						if got = (end{e.Stage, e.Kind}); e.Server != "mail.example.com:587" {
							t.Errorf("server %q", e.Server)
						}
					}
					if got != fault.want {
						t.Errorf("ended %v, want %v: %v", got, fault.want, err)
					}
					n, refused := came(s, "one"), got.stage == StageFinal && got.kind.Outcome() != Doubt
					switch got.kind.Outcome() {
					case Done:
						if n != 1 {
							t.Errorf("sent, and the server has it %d times", n)
						}
					case Doubt:
						if n > 1 {
							t.Errorf("the server has it %d times", n)
						}
					default:
						if n > 0 && !refused {
							t.Errorf("not sent, and the server has it %d times", n)
						}
					}
					if _, err := tenant.Submit(t.Context(), letter, lined("two", st.big), Options{}); err != nil || came(s, "two") != 1 {
						t.Errorf("the next one: %v, came %d times", err, came(s, "two"))
					}
					if came(s, "one") != n {
						t.Error("the first one came again")
					}
					tenant.Pool.Close()
					if open.Load() != 0 {
						t.Errorf("%d connections are left open", open.Load())
					}
				})
			})
		}
	}
}

// TestFaultyHandshake has TLS fail in each way.
func TestFaultyHandshake(t *testing.T) {
	t.Parallel()
	config, roots := mailertest.NewCertificate(t)
	const helloIn = 5 // octets of the client's hello that are read at least
	tests := []struct {
		name   string
		say    string
		then   func(net.Conn)
		kind   Kind
		within time.Duration
	}{
		{name: "4yz", say: "454 4.7.0 not now\r\n", kind: KindConfig},
		{name: "5yz", say: "554 5.7.0 no\r\n", kind: KindConfig},
		{name: "HTTP", say: "HTTP/1.1 400 Bad Request\r\n\r\n", kind: KindConfig},
		{name: "binary", say: "\x00\xff\x00\xff\x00\xff\x00\xff", kind: KindConfig},
		{name: "alert: handshake failure", say: "\x15\x03\x03\x00\x02\x02\x28", kind: KindConfig},
		{name: "alert: internal error", say: "\x15\x03\x03\x00\x02\x02\x50", kind: KindTemporary},
		{name: "half a record", say: "\x16\x03\x03\x00\x40abc", kind: KindTemporary},
		{name: "closed", kind: KindTemporary},
		{name: "silent", then: swallow, kind: KindTemporary, within: time.Minute},
		{name: "half a record, then silent", say: "\x16\x03\x03\x00\x40abc", then: swallow, kind: KindTemporary, within: time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{TLS: config}
			tenant := &Tenant{Name: "lab", Pool: new(Pool), Server: Server{Host: "mail.example.com", Port: 587, RootCAs: roots}}
			var dials atomic.Int32
			tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials.Add(1) > 1 {
					return s.Dial(ctx, network, addr)
				}
				client, server := net.Pipe()
				go func() {
					defer server.Close()
					play(server, "220 hi", "250-hi\r\n250 STARTTLS", "220 go")
					if _, err := server.Read(make([]byte, helloIn)); err != nil {
						return
					}
					go swallow(server) // lest the client wait for the rest of its hello to be read
					if _, err := server.Write([]byte(tt.say)); err == nil && tt.then != nil {
						tt.then(server)
					}
				}()
				return client, nil
			}
			open := tallied(tenant)
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				_, err := tenant.Submit(t.Context(), letter, hello, Options{})
				wantError(t, err, StageTLS, tt.kind)
				if took := time.Since(begin); took < tt.within || took > tt.within+5*time.Second {
					t.Errorf("it took %v, want %v", took, tt.within)
				}
				submit(t, tenant)
				tenant.Pool.Close()
				if len(s.Contents()) != 1 || open.Load() != 0 {
					t.Errorf("%d contents, %d connections left open", len(s.Contents()), open.Load())
				}
			})
		})
	}
	t.Run("stalled", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			tenant := &Tenant{Server: Server{Host: "mail.example.com", Port: 587, RootCAs: roots}}
			tenant.Server.Dial = dialTo(func(nc net.Conn) { play(nc, "220 hi", "250-hi\r\n250 STARTTLS", "220 go") })
			begin := time.Now()
			_, err := tenant.Submit(t.Context(), letter, hello, Options{})
			wantError(t, err, StageTLS, KindTemporary)
			if took := time.Since(begin); took > time.Minute+5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// swallow reads until the other side hangs up.
func swallow(nc net.Conn) {
	b := make([]byte, 1024)
	for {
		if _, err := nc.Read(b); err != nil {
			return
		}
	}
}

// TestReplyLost loses the reply to the content a thousand times in each shape,
// on new connections and on used ones: nobody knows what has become of the
// message then, it came once, and it is not sent again.
func TestReplyLost(t *testing.T) {
	t.Parallel()
	const times = 1000
	deeds := []string{mailertest.Close, mailertest.Silent, mailertest.Stall, "what?"}
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			var answers []string
			lost := make(map[int]bool)
			for n := 0; len(lost) < times; n++ {
				answer := ""
				if n%3 != 0 { // after a message that was sent, and after one that was lost
					answer, lost[n] = deeds[n%len(deeds)], true
				}
				answers = append(answers, answer)
			}
			s := &mailertest.Script{Offer: shape.offer, Answers: map[string][]string{contentStep(shape.offer): answers}}
			tenant := plainTenant(s)
			tenant.Pool = new(Pool)
			open := tallied(tenant)
			synctest.Test(t, func(t *testing.T) {
				for n := range answers {
					_, err := tenant.Submit(t.Context(), letter, wireContent{text: fmt.Sprintf("Subject: m%d\r\n\r\n", n)}, Options{})
					if lost[n] {
						wantError(t, err, StageFinal, KindUnknown)
					} else if err != nil {
						t.Fatal(n, err)
					}
				}
				tenant.Pool.Close()
			})
			seen := make(map[string]int)
			for _, c := range s.Contents() {
				subject, _, _ := strings.Cut(c, "\r\n")
				seen[subject]++
			}
			for n := range answers {
				if k := seen[fmt.Sprintf("Subject: m%d", n)]; k != 1 {
					t.Errorf("message %d came %d times", n, k)
				}
			}
			if len(seen) != len(answers) || open.Load() != 0 {
				t.Errorf("%d messages, %d connections left open", len(seen), open.Load())
			}
		})
	}
}

// TestRefusedReset: what a server says to RSET is about no message.
func TestRefusedReset(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"500 5.5.1 what?", "550 5.7.1 no", "350 hm", "451 4.3.0 later"} {
		s := &mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no", ""}, "RSET": {answer}}}
		tenant, _ := pooled(s, new(Pool))
		_, err := tenant.Submit(t.Context(), letter, hello, Options{})
		wantError(t, err, StageRcpt, KindRejected)
		submit(t, tenant)
		if s.Sessions() != 2 || len(s.Contents()) != 1 {
			t.Errorf("%s: %d sessions, %d contents", answer, s.Sessions(), len(s.Contents()))
		}
	}
	// Where the mailbox is to go slower it does.
	s := &mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no", ""}, "RSET": {"421 4.7.28 rate limit, slow down"}}}
	tenant, _ := pooled(s, new(Pool))
	_, _ = tenant.Submit(t.Context(), letter, hello, Options{})
	_, err := tenant.Submit(t.Context(), letter, hello, Options{})
	wantError(t, err, StageMail, KindThrottled)
}
