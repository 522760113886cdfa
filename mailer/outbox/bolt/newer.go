package bolt

import (
	"bytes"
	"context"
	"slices"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// listNewer lists the messages next to one that are newer than it. It goes through all
// messages: the indexes are for those who look from the newest on.
func (e *Engine) listNewer(ctx context.Context, f outbox.Filter, limit int) (outbox.Page, error) {
	type found struct {
		id     string
		record []byte
	}
	var hits []found
	var page outbox.Page
	err := e.view(func(tx *bbolt.Tx) error {
		wanted := e.callerFilter(f)
		c := tx.Bucket(bucketMessages).Cursor()
		k, v := c.Seek([]byte(f.After))
		if bytes.Equal(k, []byte(f.After)) {
			k, v = c.Next()
		}
		last := ""
		for scanned := 0; k != nil; k, v = c.Next() {
			if len(hits) == limit || scanned == maxScan {
				page.Next = last
				return nil
			}
			last = string(k)
			scanned++
			if wanted(last, v) {
				hits = append(hits, found{last, bytes.Clone(v)})
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return outbox.Page{}, err
	}
	for _, h := range slices.Backward(hits) {
		m, _, err := e.open(h.id, h.record)
		if err != nil {
			e.log().Error("a message of the outbox cannot be read", "id", h.id, "error", err)
			continue
		}
		if ofCaller(m, f) && (f.Tenant == "" || f.Tenant == m.Tenant) && (f.State == "" || f.State == m.State) {
			page.Messages = append(page.Messages, m)
		}
	}
	return page, nil
}
