package mailer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// shapes are the ways in which a transaction travels.
var shapes = []struct {
	name  string
	offer []string
}{
	{"lockstep", nil},
	{"grouped", []string{"PIPELINING"}},
	{"chunked", []string{"CHUNKING"}},
	{"at once", []string{"PIPELINING", "CHUNKING"}},
}

// bigger does not travel along with its envelope.
var bigger = wireContent{text: strings.Repeat(strings.Repeat("x", 70)+"\r\n", singleMost/72+1)}

// contentStep is where a server says what it thinks of the content.
func contentStep(offer []string) string {
	if slices.Contains(offer, "CHUNKING") {
		return "BDAT"
	}
	return mailertest.Content
}

// TestShapes sends to some recipients or none, in all shapes, and then another
// message over what is there: strict servers must be content.
func TestShapes(t *testing.T) {
	t.Parallel()
	const (
		no    = "550 5.1.1 no such user"
		later = "450 4.2.1 later"
	)
	tests := []struct {
		name    string
		answers map[string][]string
		all     bool
		kinds   []Kind
		stage   Stage
		kind    Kind
		anew    bool // the connection is not used again
	}{
		{name: "taken", kinds: []Kind{0, 0, 0}},
		{name: "taken, all wanted", all: true, kinds: []Kind{0, 0, 0}},
		{name: "one refused", answers: map[string][]string{"RCPT": {"", no, ""}}, kinds: []Kind{0, KindRejected, 0}},
		{name: "one refused, all wanted", all: true, answers: map[string][]string{"RCPT": {"", no, ""}}, kinds: []Kind{0, KindRejected, 0}, stage: StageRcpt, kind: KindRejected},
		{name: "one later, all wanted", all: true, answers: map[string][]string{"RCPT": {"", "", later, ""}}, kinds: []Kind{0, 0, KindTemporary}, stage: StageRcpt, kind: KindTemporary},
		{name: "all refused", answers: map[string][]string{"RCPT": {no, later, no, ""}}, kinds: []Kind{KindRejected, KindTemporary, KindRejected}, stage: StageRcpt, kind: KindTemporary},
		{name: "sender refused", answers: map[string][]string{"MAIL": {"553 5.7.1 not yours", ""}}, stage: StageMail, kind: KindRejected},
		{name: "sender refused, all wanted", all: true, answers: map[string][]string{"MAIL": {"553 5.7.1 not yours", ""}}, stage: StageMail, kind: KindRejected},
		{name: "content refused", answers: map[string][]string{mailertest.Content: {"554 5.6.0 no", ""}, "BDAT": {"554 5.6.0 no", ""}}, kinds: []Kind{0, 0, 0}, stage: StageFinal, kind: KindRejected, anew: true},
	}
	for _, shape := range shapes {
		for _, content := range []wireContent{hello, bigger} {
			for _, tt := range tests {
				t.Run(fmt.Sprintf("%s/%d octets/%s", shape.name, len(content.text), tt.name), func(t *testing.T) {
					t.Parallel()
					s := &mailertest.Script{Offer: shape.offer, Answers: tt.answers, Strict: true}
					s.Answers = make(map[string][]string)
					for step, list := range tt.answers {
						s.Answers[step] = list
					}
					tenant, _ := pooled(s, new(Pool))
					env := Envelope{From: sender, To: []Address{someone, other, sender}}
					r, err := tenant.Submit(t.Context(), env, content, Options{AllRecipients: tt.all})
					out, sent := r.Recipients, 1
					if tt.kind != KindNone {
						e := wantError(t, err, tt.stage, tt.kind)
						out, sent = e.Recipients, 0
					} else if err != nil {
						t.Fatal(err)
					}
					var kinds []Kind
					for _, o := range out {
						kinds = append(kinds, o.Kind)
					}
					if !slices.Equal(kinds, tt.kinds) {
						t.Errorf("recipients %v, want %v", kinds, tt.kinds)
					}
					if tt.stage == StageFinal {
						sent = 1 // it came, and was not taken
					}
					submit(t, tenant)
					sessions := 1
					if tt.anew {
						sessions = 2
					}
					if len(s.Contents()) != sent+1 || s.Sessions() != sessions {
						t.Errorf("%d contents, want %d; %d sessions, want %d; said %q", len(s.Contents()), sent+1, s.Sessions(), sessions, s.Lines())
					}
				})
			}
		}
	}
}

// TestShapesOnTheWire: what is said, and in which order.
func TestShapesOnTheWire(t *testing.T) {
	t.Parallel()
	tests := []struct {
		shape   int
		content wireContent
		want    []string
	}{
		{1, hello, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA"}},
		{2, hello, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "BDAT 24 LAST"}},
		{3, hello, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "BDAT 24 LAST"}},
		{3, bigger, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", fmt.Sprintf("BDAT %d LAST", bigger.Size())}},
	}
	for _, tt := range tests {
		s := &mailertest.Script{Offer: shapes[tt.shape].offer, Strict: true}
		tenant, _ := pooled(s, new(Pool))
		for range 2 {
			if _, err := tenant.Submit(t.Context(), letter, tt.content, Options{}); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Lines()[1:]; !slices.Equal(got, append(tt.want, tt.want...)) {
			t.Errorf("%s: said %q, want %q twice", shapes[tt.shape].name, got, tt.want)
		}
		want := tt.content.text
		if contentStep(shapes[tt.shape].offer) == mailertest.Content {
			want = strings.ReplaceAll("\r\n"+want, "\r\n.", "\r\n..")[2:]
		}
		if got := s.Contents(); len(got) != 2 || got[0] != want || got[1] != want {
			t.Errorf("%s: %d contents, not as written", shapes[tt.shape].name, len(got))
		}
	}
}

// TestManyRecipients go in groups, so that nobody waits for the other to read.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		s := &mailertest.Script{Offer: shape.offer, Strict: true, Answers: map[string][]string{"RCPT": {"", "550 5.1.1 no", ""}}}
		tenant, _ := pooled(s, new(Pool))
		env := Envelope{From: sender}
		for i := range 3 * groupMost {
			env.To = append(env.To, Address{Local: fmt.Sprintf("u%d", i), Domain: "example.net"})
		}
		r, err := tenant.Submit(t.Context(), env, hello, Options{})
		if err != nil {
			t.Fatalf("%s: %v", shape.name, err)
		}
		for i, o := range r.Recipients {
			if o.Address != env.To[i] || (o.Kind == KindRejected) != (i == 1) {
				t.Errorf("%s: recipient %d: %+v", shape.name, i, o)
			}
		}
		if len(r.Recipients) != len(env.To) || s.Said("RCPT") != len(env.To) || len(s.Contents()) != 1 {
			t.Errorf("%s: %d recipients, %d said, %d contents", shape.name, len(r.Recipients), s.Said("RCPT"), len(s.Contents()))
		}
	}
}

// TestLostAtOnce: where content travels along with its envelope, a connection
// that is lost leaves open what has become of it, unless a reply tells.
func TestLostAtOnce(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		answers map[string][]string
		stage   Stage
		kind    Kind // of the second message; none: it was sent over a new connection
	}{
		{"hung up at MAIL", map[string][]string{"MAIL": {"", mailertest.Close, ""}}, StageFinal, KindUnknown},
		{"hung up at RCPT", map[string][]string{"RCPT": {"", mailertest.Close, ""}}, StageFinal, KindUnknown},
		{"hung up at the content", map[string][]string{"BDAT": {"", mailertest.Close, ""}}, StageFinal, KindUnknown},
		{"garbage at MAIL", map[string][]string{"MAIL": {"", "what?", ""}}, StageFinal, KindUnknown},
		{"silent at the content", map[string][]string{"BDAT": {"", mailertest.Stall, ""}}, StageFinal, KindUnknown},
		{"good-bye at MAIL", map[string][]string{"MAIL": {"", "421 4.4.2 idle", ""}}, "", KindNone},
		{"good-bye at RCPT", map[string][]string{"RCPT": {"", "421 4.4.2 idle", ""}}, "", KindNone},
		{"session over", map[string][]string{"MAIL": {"", "530 5.7.0 Authentication required", ""}}, "", KindNone},
		{"refused, then hung up", map[string][]string{"MAIL": {"", "550 5.7.1 no", ""}, "RCPT": {"", mailertest.Close, ""}}, StageMail, KindRejected},
		{"nobody there, then hung up", map[string][]string{"RCPT": {"", "550 5.1.1 no", ""}, "BDAT": {"", mailertest.Close, ""}}, StageRcpt, KindRejected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &mailertest.Script{Offer: []string{"PIPELINING", "CHUNKING"}, Answers: tt.answers}
				tenant := plainTenant(s)
				tenant.Pool = new(Pool)
				defer tenant.Pool.Close()
				submit(t, tenant)
				_, err := tenant.Submit(t.Context(), letter, hello, Options{})
				if tt.kind == KindNone {
					if err != nil || s.Sessions() != 2 {
						t.Errorf("%v, in %d sessions", err, s.Sessions())
					}
				} else {
					wantError(t, err, tt.stage, tt.kind)
				}
				submit(t, tenant)
			})
		})
	}
}

// TestDoubtfulConnection: where a connection was idle for long, no content goes
// before it is known to be there.
func TestDoubtfulConnection(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		s := &mailertest.Script{Offer: shape.offer, Answers: map[string][]string{"RSET": {mailertest.Close}}}
		tenant, clock := pooled(s, new(Pool))
		submit(t, tenant)
		clock.add(doubtAfter + time.Second)
		submit(t, tenant)
		if len(s.Contents()) != 2 || s.Sessions() != 2 || s.Said("RSET") != 1 {
			t.Errorf("%s: %d contents, %d sessions, said %q", shape.name, len(s.Contents()), s.Sessions(), s.Lines())
		}
	}
}
