//go:build endurance

package endurance

import (
	"bytes"
	"context"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/bolt"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// BenchmarkDeliver sends messages of 1 KiB through the outbox to the end, next to
// go-smtp's client and to the same without an outbox:
//
//	go test -tags endurance ./caddymodule/endurance -run '^$' -bench Deliver -benchtime 1x
func BenchmarkDeliver(b *testing.B) {
	const workers, mails, turns = 16, 3000, 9
	text := contest.NewContent(1 << 10)
	for _, kind := range []struct {
		name     string
		chunking bool
	}{{"pipelining", false}, {"chunking", true}} {
		b.Run(kind.name, func(b *testing.B) {
			sink := contest.NewSink(b, kind.chunking)
			contest.Compare(b, turns,
				sink.Library(b, text, mails, workers),
				delivering(b, sink.Server, "direct", text, mails, workers, false),
				delivering(b, sink.Server, "outbox", text, mails, workers, true),
			)
		})
	}
}

// delivering sends by Mailer.Send, which waits until the message is sent.
func delivering(b *testing.B, s contest.Server, name string, text mailer.Content, mails, workers int, through bool) contest.Row {
	b.Helper()
	senders, err := mailer.ParseSenders("*")
	if err != nil {
		b.Fatal(err)
	}
	tenant := &mailer.Tenant{
		Name:    "lab",
		Server:  mailer.Server{Host: s.Host, Port: s.Port, RootCAs: s.Roots},
		Auth:    mailer.Password{User: "u", Password: "secret-password"},
		Senders: senders,
		Pool:    &mailer.Pool{Max: workers, MaxMessages: 1 << 30},
	}
	b.Cleanup(func() { tenant.Pool.Close() })
	m := &mailer.Mailer{Lookup: func(string) (*mailer.Tenant, bool) { return tenant, true }}
	if through {
		m.Outbox = newOutbox(b, m.Deliver, workers)
	}
	from := mailer.Address{Local: "a", Domain: "example.com"}
	to := mailer.Address{Local: "b", Domain: "example.net"}
	return contest.Row{Name: name, Mails: mails, Workers: workers, Send: func(int) error {
		id := mailer.NewID()
		_, err := m.Send(context.Background(), mailer.Submission{
			ID: id, MessageID: "<" + id + "@example.com>", Tenant: "lab", Caller: mailer.Caller{Kind: "key", Name: "lab"}, From: from,
			Envelope: mailer.Envelope{From: from, To: []mailer.Address{to}}, Content: text,
		})
		return err
	}}
}

// newOutbox runs an outbox until the benchmark ends.
func newOutbox(b *testing.B, deliver func(context.Context, mailer.Submission) (mailer.Receipt, error), connections int) *outbox.Outbox {
	b.Helper()
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{7}, tokens.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	e, err := bolt.Open(b.TempDir(), bolt.Options{Sealer: ring})
	if err != nil {
		b.Fatal(err)
	}
	o := outbox.New(e, outbox.Settings{
		Deliver: deliver,
		Policy:  func(string) (outbox.Policy, bool) { return outbox.Policy{Connections: connections}, true },
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && ctx.Err() == nil {
			b.Error(err)
		}
		if err := e.Close(); err != nil {
			b.Error(err)
		}
	})
	return o
}
