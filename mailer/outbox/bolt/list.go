package bolt

import (
	"bytes"
	"container/heap"
	"context"
	"iter"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	defaultPage = 100
	maxPage     = 1000
	// maxScan is how many messages of other callers a page passes over.
	maxScan = 5000
)

// List implements [outbox.Engine]. A page may have fewer messages than Limit, even
// none, and still a Next, where it selects a caller. More than 1000 are never on it.
func (e *Engine) List(ctx context.Context, f outbox.Filter) (outbox.Page, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, maxPage)
	if f.After != "" {
		return e.listNewer(ctx, f, limit)
	}
	type found struct {
		id     string
		record []byte
	}
	var page outbox.Page
	var hits []found
	err := e.view(func(tx *bbolt.Tx) error {
		records, scanned, last := tx.Bucket(bucketMessages), 0, ""
		byCaller := f.CallerKind != "" || f.CallerName != ""
		wanted := e.callerFilter(f)
		for id := range newest(tx, f) {
			if len(hits) == limit || scanned == maxScan {
				page.Next = last
				return nil
			}
			last = id
			v := records.Get([]byte(id))
			if byCaller {
				scanned++
				if !wanted(id, v) {
					continue
				}
			}
			hits = append(hits, found{id, append([]byte(nil), v...)})
		}
		return ctx.Err()
	})
	if err != nil {
		return outbox.Page{}, err
	}
	for _, h := range hits {
		m, _, err := e.open(h.id, h.record)
		if err != nil {
			e.log().Error("a message of the outbox cannot be read", "id", h.id, "error", err)
			continue
		}
		if !ofCaller(m, f) {
			continue
		}
		page.Messages = append(page.Messages, m)
	}
	return page, nil
}

// callerFilter reports of a record whether it may be of the caller.
func (e *Engine) callerFilter(f outbox.Filter) func(id string, record []byte) bool {
	if f.CallerKind != "" && f.CallerName != "" {
		digest := callerDigest(f.CallerKind, f.CallerName)
		return func(_ string, record []byte) bool {
			h, _, err := parse(record)
			return err != nil || h.caller == digest
		}
	}
	return func(id string, record []byte) bool {
		m, _, err := e.open(id, record)
		return err != nil || ofCaller(m, f)
	}
}

func ofCaller(m *outbox.Message, f outbox.Filter) bool {
	return (f.CallerKind == "" || m.Caller.Kind == f.CallerKind) && (f.CallerName == "" || m.Caller.Name == f.CallerName)
}

// newest yields the ids of a tenant or a state, or all, from the newest on.
func newest(tx *bbolt.Tx, f outbox.Filter) iter.Seq[string] {
	var d descent
	index := tx.Bucket(bucketIndex)
	switch {
	case f.Tenant == "" && f.State == "":
		d.add(tx.Bucket(bucketMessages).Cursor(), nil, f.Before)
	case f.Tenant == "":
		for tenant := range countedTenants(index.Cursor(), f.State) {
			d.add(index.Cursor(), statePrefix(indexState, f.State, tenant), f.Before)
		}
	case f.State == "":
		for _, s := range states {
			d.add(index.Cursor(), statePrefix(indexState, s, f.Tenant), f.Before)
		}
	default:
		d.add(index.Cursor(), statePrefix(indexState, f.State, f.Tenant), f.Before)
	}
	return func(yield func(string) bool) {
		heap.Init(&d)
		for len(d) > 0 && yield(d[0].id()) {
			if d[0].back() {
				heap.Fix(&d, 0)
			} else {
				heap.Pop(&d)
			}
		}
	}
}

// descent merges parts of indexes, from the greatest id down.
type descent []*part

// part is the keys with a prefix.
type part struct {
	cursor *bbolt.Cursor
	prefix []byte
	key    []byte
}

func (p *part) id() string { return string(p.key[len(p.prefix):]) }

// back goes to the id before, if there is one.
func (p *part) back() bool {
	p.key, _ = p.cursor.Prev()
	return p.good()
}

func (p *part) good() bool { return p.key != nil && bytes.HasPrefix(p.key, p.prefix) }

// add takes part of an index, from the id before another on; all of it where that is
// empty.
func (d *descent) add(c *bbolt.Cursor, prefix []byte, before string) {
	p := &part{cursor: c, prefix: prefix}
	end := append(bytes.Clone(prefix), before...)
	if before == "" {
		end = append(end, 0xff) // above all ids
	}
	if p.key, _ = c.Seek(end); p.key == nil {
		p.key, _ = c.Last()
	}
	for p.key != nil && bytes.Compare(p.key, end) >= 0 {
		p.key, _ = c.Prev()
	}
	if p.good() {
		*d = append(*d, p)
	}
}

// Len implements [heap.Interface], as do the others.
func (d descent) Len() int { return len(d) }

func (d descent) Less(i, j int) bool {
	return bytes.Compare(d[i].key[len(d[i].prefix):], d[j].key[len(d[j].prefix):]) > 0
}

func (d descent) Swap(i, j int) { d[i], d[j] = d[j], d[i] }

// Push implements [heap.Interface].
func (d *descent) Push(x any) { *d = append(*d, x.(*part)) }

// Pop implements [heap.Interface].
func (d *descent) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

// countedTenants yields the tenants that have messages in a state, and how many.
func countedTenants(c ascent, s outbox.State) iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		prefix := []byte{indexCount, stateOctet(s)}
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			tenant, _, ok := counted(k[2:], 2)
			if ok && !yield(string(tenant), number(v)) {
				return
			}
		}
	}
}

// Stats implements [outbox.Engine].
func (e *Engine) Stats(ctx context.Context) (outbox.Stats, error) {
	s := outbox.Stats{Tenants: map[string]outbox.TenantStats{}, MaxBytes: e.options.MaxBytes, Flushes: e.flushes.Load()}
	err := e.view(func(tx *bbolt.Tx) error {
		index := tx.Bucket(bucketIndex)
		s.Bytes = inUse(tx) + number(index.Get(keyFiles))
		for _, state := range states {
			for tenant, n := range countedTenants(index.Cursor(), state) {
				t := s.Tenants[tenant]
				if t.Messages == nil {
					t.Messages = map[outbox.State]int{}
				}
				t.Messages[state] = int(n)
				if t.Oldest.IsZero() && !state.Final() {
					prefix := lanePrefix(indexOpen, tenant)
					k, _ := index.Cursor().Seek(prefix)
					t.Oldest, _, _ = timedBehind(prefix, k)
				}
				s.Tenants[tenant] = t
			}
		}
		return ctx.Err()
	})
	return s, err
}
