package mailer

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

func TestDeliverNone(t *testing.T) {
	t.Parallel()
	s := new(mailertest.Script)
	tenant := plainTenant(s)
	tenant.Deliver.Nowhere = true
	r, err := tenant.Submit(t.Context(), Envelope{From: sender, To: []Address{someone, other}}, hello, Options{})
	if err != nil {
		t.Fatal(err)
	}
	not := Reply{Text: "not delivered: this tenant delivers nothing"}
	want := Receipt{Tenant: "lab", Status: StatusSent, Reply: not, Recipients: []RecipientOutcome{{Address: someone, Reply: not}, {Address: other, Reply: not}}, Deliver: tenant.Deliver}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	// It is checked all the same.
	_, err = tenant.Submit(t.Context(), Envelope{From: sender}, hello, Options{})
	wantError(t, err, StageAccept, KindInvalid)
	_, err = tenant.Submit(t.Context(), letter, cutContent{hello}, Options{})
	wantError(t, err, StageData, KindTemporary)
	if s.Sessions() > 0 {
		t.Error("dialed")
	}
}

// cutContent ends early.
type cutContent struct{ Content }

func (b cutContent) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, "Subject")
	return int64(n), err
}

func TestDeliverTo(t *testing.T) {
	t.Parallel()
	s := new(mailertest.Script)
	tenant := plainTenant(s)
	tenant.Deliver.To = Address{Local: "staging", Domain: "example.com"}
	tenant.Limits = &Limiter{RecipientsPerDay: 1}
	env := Envelope{From: sender, To: []Address{someone, other}}
	r, err := tenant.Submit(t.Context(), env, hello, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Said("RCPT") != 1 || s.Said("RCPT TO:<staging@example.com>") != 1 || s.Said("MAIL FROM:<a@example.com>") != 1 {
		t.Errorf("said %q", s.Lines())
	}
	want := "X-Original-To: " + someone.Mailbox() + ",\r\n " + other.Mailbox() + "\r\nSubject: hello\r\n\r\n..dot\r\n"
	if diff := cmp.Diff([]string{want}, s.Contents()); diff != "" {
		t.Error(diff)
	}
	if len(r.Recipients) != 2 || r.Recipients[0].Address != someone || r.Recipients[1].Address != other ||
		r.Recipients[0].Reply.Code != 250 || !strings.Contains(r.Recipients[1].Reply.Text, "to staging@example.com instead: ") {
		t.Errorf("%+v", r.Recipients)
	}
	if r.Deliver != tenant.Deliver || r.Deliver.String() != "staging@example.com" {
		t.Errorf("delivered to %v", r.Deliver)
	}

	s = &mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no"}}}
	tenant.Server.Dial, tenant.Limits = s.Dial, nil
	_, err = tenant.Submit(t.Context(), env, hello, Options{})
	e := wantError(t, err, StageRcpt, KindRejected)
	if len(e.Recipients) != 2 || e.Recipients[1].Address != other || e.Recipients[1].Kind != KindRejected {
		t.Errorf("%+v", e.Recipients)
	}
}

// TestPrefixed: a content with a field on top is as good as any.
func TestPrefixed(t *testing.T) {
	t.Parallel()
	umlaut := Address{Local: "ü", Domain: "example.com"}
	many := make([]Address, 500)
	for i := range many {
		many[i] = Address{Local: strings.Repeat("x", 60), Domain: "example.com"}
	}
	for _, tt := range []struct {
		name    string
		to      []Address
		content Content
		utf8    bool
		eight   bool
	}{
		{"plain", []Address{someone}, hello, false, false},
		{"UTF-8 address", []Address{someone, umlaut}, hello, true, true},
		{"UTF-8 body", []Address{someone}, wireContent{text: "Subject: x\r\n\r\nü\r\n", eightBit: true}, false, true},
		{"many", many, hello, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, p := Delivery{To: other}.redirect(Envelope{To: tt.to}, tt.content)
			var first, second bytes.Buffer
			for _, b := range []*bytes.Buffer{&first, &second} {
				if n, err := p.WriteTo(b); err != nil || n != p.Size() || int64(b.Len()) != n {
					t.Errorf("%d octets of %d, %v", n, p.Size(), err)
				}
			}
			if !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Error("differs the second time")
			}
			for line := range strings.SplitSeq(first.String(), "\r\n") {
				if len(line) > 330 {
					t.Errorf("a line of %d octets", len(line))
				}
			}
			if p.UTF8Header() != tt.utf8 || p.EightBit() != tt.eight {
				t.Errorf("UTF-8 header %v, 8 bit %v", p.UTF8Header(), p.EightBit())
			}
		})
	}
}
