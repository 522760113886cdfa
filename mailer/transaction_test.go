package mailer

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

func TestMailParameters(t *testing.T) {
	t.Parallel()
	umlaut := Address{Local: "jörg", Domain: "example.net"}
	eight := wireContent{text: "Subject: x\r\n\r\n\xe9\r\n", eightBit: true}
	tests := []struct {
		name    string
		offer   []string
		env     Envelope
		content Content
		want    string
		kind    Kind
		code    string
		field   string
	}{
		{name: "nothing offered", env: letter, content: hello, want: "MAIL FROM:<a@example.com>"},
		{name: "only what is needed", offer: []string{"8BITMIME", "SMTPUTF8"}, env: letter, content: hello, want: "MAIL FROM:<a@example.com>"},
		{name: "size", offer: []string{"SIZE"}, env: letter, content: hello, want: "MAIL FROM:<a@example.com> SIZE=24"},
		{name: "size without limit", offer: []string{"SIZE 0"}, env: letter, content: hello, want: "MAIL FROM:<a@example.com> SIZE=24"},
		{name: "size just right", offer: []string{"size 24"}, env: letter, content: hello, want: "MAIL FROM:<a@example.com> SIZE=24"},
		{name: "too big", offer: []string{"SIZE 23"}, env: letter, content: hello, kind: KindRejected, code: "over_upstream_size"},
		{name: "eight bits", offer: []string{"8BITMIME"}, env: letter, content: eight, want: "MAIL FROM:<a@example.com> BODY=8BITMIME"},
		{name: "eight bits unwanted", env: letter, content: eight, kind: KindInvalid, code: "8bitmime_required"},
		{name: "UTF-8 recipient", offer: []string{"SMTPUTF8"}, env: Envelope{From: sender, To: []Address{someone, umlaut}}, content: hello, want: "MAIL FROM:<a@example.com> SMTPUTF8"},
		{name: "UTF-8 recipient unwanted", env: Envelope{From: sender, To: []Address{someone, umlaut}}, content: hello, kind: KindInvalid, code: "smtputf8_required", field: "to"},
		{name: "UTF-8 in the header unwanted", env: letter, content: wireContent{text: "Reply-To: <ü@example.net>\r\n\r\n", eightBit: true, utf8Header: true}, kind: KindInvalid, code: "smtputf8_required", field: "headers"},
		{name: "UTF-8 sender unwanted", env: Envelope{From: umlaut, To: []Address{someone}}, content: hello, kind: KindInvalid, code: "smtputf8_required", field: "from"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Offer: tt.offer}
			_, err := plainTenant(s).Submit(t.Context(), tt.env, tt.content, Options{})
			if tt.kind != KindNone {
				e := wantError(t, err, StageMail, tt.kind)
				if e.Code != tt.code || e.Field != tt.field || s.Said("MAIL") > 0 {
					t.Errorf("code %q, field %q, said %q", e.Code, e.Field, s.Lines())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(s.Lines(), tt.want) {
				t.Errorf("said %q, not %q", s.Lines(), tt.want)
			}
		})
	}
}

// TestAddressesCannotEndTheirCommand gives addresses that no parser made.
func TestAddressesCannotEndTheirCommand(t *testing.T) {
	t.Parallel()
	for _, a := range []Address{
		{},
		{Local: "a>\r\nRCPT TO:<x", Domain: "example.com"},
		{Local: "a", Domain: "example.com>\r\nDATA"},
		{Local: "a b", Domain: "example.com"},
		{Local: "a", Domain: "example.com> SIZE=1"},
		{Local: "a\x00", Domain: "example.com"},
		{Local: strings.Repeat("a", 600), Domain: "example.com"},
	} {
		s := new(mailertest.Script)
		_, err := plainTenant(s).Submit(t.Context(), Envelope{From: sender, To: []Address{someone, a}}, hello, Options{})
		if e := wantError(t, err, StageAccept, KindInvalid); e.Code != "bad_address" || e.Field != "to" {
			t.Errorf("%q: code %q, field %q", a.Local, e.Code, e.Field)
		}
		if s.Sessions() > 0 {
			t.Errorf("%q: dialed", a.Local)
		}
		if !a.IsZero() {
			_, err = plainTenant(s).Submit(t.Context(), Envelope{From: a, To: []Address{someone}}, hello, Options{})
			wantError(t, err, StageAccept, KindInvalid)
		}
	}
}

func TestRecipients(t *testing.T) {
	t.Parallel()
	const (
		no    = "550 5.1.1 no such user"
		later = "450 4.2.2 mailbox full"
		slow  = "451 4.7.500 Server busy"
	)
	tests := []struct {
		name    string
		answers []string // to RCPT
		all     bool
		kinds   []Kind
		kind    Kind // of the error
		reply   string
	}{
		{name: "all taken", answers: []string{"", "", ""}, kinds: []Kind{KindNone, KindNone, KindNone}},
		{name: "forwarded", answers: []string{"251 will forward"}, kinds: []Kind{KindNone, KindNone, KindNone}},
		{name: "one refused", answers: []string{"", no, ""}, kinds: []Kind{KindNone, KindRejected, KindNone}},
		{name: "two refused", answers: []string{later, no, ""}, kinds: []Kind{KindTemporary, KindRejected, KindNone}},
		{name: "all refused", answers: []string{no}, kinds: []Kind{KindRejected, KindRejected, KindRejected}, kind: KindRejected, reply: no},
		{name: "one may do later", answers: []string{no, later, no}, kinds: []Kind{KindRejected, KindTemporary, KindRejected}, kind: KindTemporary, reply: no},
		{name: "too fast", answers: []string{later, slow, no}, kinds: []Kind{KindTemporary, KindThrottled, KindRejected}, kind: KindThrottled, reply: later},
		{name: "all wanted and taken", answers: []string{"", "", ""}, all: true, kinds: []Kind{KindNone, KindNone, KindNone}},
		{name: "all wanted, one refused", answers: []string{"", no, ""}, all: true, kinds: []Kind{KindNone, KindRejected, KindNone}, kind: KindRejected, reply: no},
		{name: "all wanted, one later", answers: []string{"", later, ""}, all: true, kinds: []Kind{KindNone, KindTemporary, KindNone}, kind: KindTemporary, reply: later},
		{name: "all wanted, one never", answers: []string{later, no, ""}, all: true, kinds: []Kind{KindTemporary, KindRejected, KindNone}, kind: KindRejected, reply: later},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &mailertest.Script{Answers: map[string][]string{"RCPT": append(tt.answers, "")[:len(tt.answers)]}}
			tenant := plainTenant(s)
			tenant.Pool = new(Pool)
			env := Envelope{From: sender, To: []Address{someone, other, sender}}
			r, err := tenant.Submit(t.Context(), env, hello, Options{AllRecipients: tt.all})
			out := r.Recipients
			if tt.kind == KindNone {
				if err != nil {
					t.Fatal(err)
				}
				if len(s.Contents()) != 1 || s.Said("RSET") > 0 {
					t.Errorf("said %q", s.Lines())
				}
			} else {
				e := wantError(t, err, StageRcpt, tt.kind)
				out = e.Recipients
				if e.Reply.String() != tt.reply {
					t.Errorf("reply %q, want %q", e.Reply, tt.reply)
				}
				if s.Said("DATA") > 0 || s.Said("RSET") != 0 {
					t.Errorf("said %q", s.Lines())
				}
			}
			var kinds []Kind
			for i, o := range out {
				if o.Address != env.To[i] || o.Reply.Code == 0 {
					t.Errorf("recipient %d: %+v", i, o)
				}
				kinds = append(kinds, o.Kind)
			}
			if diff := cmp.Diff(tt.kinds, kinds); diff != "" {
				t.Error(diff)
			}
			// After RSET, which goes along with the next message, the connection is as
			// good as before.
			s.Answers["RCPT"] = nil
			submit(t, tenant)
			resets := 0
			if tt.kind != KindNone {
				resets = 1
			}
			if s.Sessions() != 1 || s.Said("RSET") != resets {
				t.Errorf("%d sessions, %d resets", s.Sessions(), s.Said("RSET"))
			}
		})
	}
}

// brokenContent goes wrong while it is written.
type brokenContent struct {
	wireContent
	size int64
	err  error
}

func (b brokenContent) Size() int64 { return b.size }
func (b brokenContent) WriteTo(w io.Writer) (int64, error) {
	n, err := b.wireContent.WriteTo(w)
	if err == nil {
		err = b.err
	}
	return n, err
}

// swallowing does not tell that writing failed.
type swallowing struct{ wireContent }

func (s swallowing) WriteTo(w io.Writer) (int64, error) {
	_, _ = s.wireContent.WriteTo(w)
	return s.Size(), nil
}

func TestBadContentIsNeverEnded(t *testing.T) {
	t.Parallel()
	errSpool := errors.New("spool is gone")
	long := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 1000)
	text := func(s string) wireContent { return wireContent{text: s} }
	tests := []struct {
		name    string
		content Content
		kind    Kind
	}{
		{"bare LF", text("a\n.\nQUIT\r\n"), KindInvalid},
		{"bare CR", text("a\r.\rQUIT\r\n"), KindInvalid},
		{"late bare LF", text(long + "a\n.\r\nMAIL FROM:<evil@example.com>\r\n"), KindInvalid},
		{"NUL", text("\x00\r\n"), KindInvalid},
		{"long line", text(strings.Repeat("x", 999) + "\r\n"), KindInvalid},
		{"eight bits", text("\xe9\r\n"), KindInvalid},
		{"open end", text("a"), KindInvalid},
		{"swallowed", swallowing{text("a\nb\r\n")}, KindInvalid},
		{"too short", brokenContent{wireContent: text("a\r\n"), size: 4}, KindInvalid},
		{"too long", brokenContent{wireContent: text("a\r\n"), size: 2}, KindInvalid},
		{"unreadable", brokenContent{wireContent: text(long), size: int64(len(long)), err: errSpool}, KindTemporary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := new(mailertest.Script)
			tenant := plainTenant(s)
			tenant.Pool = new(Pool)
			synctest.Test(t, func(t *testing.T) {
				_, err := tenant.Submit(t.Context(), letter, tt.content, Options{})
				e := wantError(t, err, StageData, tt.kind)
				if tt.kind == KindInvalid && e.Code != "not_canonical" {
					t.Errorf("code %q", e.Code)
				}
				if tt.kind == KindTemporary && !errors.Is(err, errSpool) {
					t.Errorf("cause %v", err)
				}
				synctest.Wait()
			})
			if len(s.Contents()) > 0 || s.Said("QUIT") > 0 || s.Said("MAIL") != 1 {
				t.Errorf("contents %q, said %q", s.Contents(), s.Lines())
			}
		})
	}
}

// TestContentKnowsBetter: what a content says of itself is what the message
// fails of.
func TestContentKnowsBetter(t *testing.T) {
	t.Parallel()
	m := &Message{From: sender, To: []Address{someone}, Subject: "s", Attachments: []Attachment{{Filename: "a.txt", Source: shrinking{}}}}
	content, err := m.Compose()
	if err != nil {
		t.Fatal(err)
	}
	_, err = plainTenant(&mailertest.Script{}).Submit(t.Context(), letter, content, Options{})
	if e := asError(err); err == nil || e.Kind != KindInvalid || e.Code != "attachment_changed" || e.Field != "attachments[0]" {
		t.Errorf("got %+v", e)
	}
}

// shrinking is a file that lost its end since it was measured.
type shrinking struct{}

func (shrinking) Open() (io.ReadCloser, error) { return Bytes("x").Open() }
func (shrinking) Size() int64                  { return 100 }

// TestGoesAtOnce: only what the system takes without a wait travels with nobody watching
// whether its sender leaves.
func TestGoesAtOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	pipe, far := net.Pipe()
	defer pipe.Close()
	defer far.Close()
	for _, tt := range []struct {
		name       string
		nc         net.Conn
		octets     int
		recipients int
		want       bool
	}{
		{"small", socket, 6 << 10, 1, true},
		{"large", socket, 6<<10 + 1, 1, false},
		{"many recipients", socket, 1 << 10, 7, false},
		{"not of the system", pipe, 1, 1, false},
	} {
		transaction := transaction{c: &Conn{raw: tt.nc}, outgoing: &outgoing{
			env: Envelope{To: make([]Address, tt.recipients)}, content: wireContent{text: strings.Repeat("x", tt.octets)},
		}}
		if got := transaction.goesAtOnce(); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
