package tokens

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"
)

// recoverHands bounds the cut refreshes that are taken up at a time.
const recoverHands = 16

// recover takes up the refreshes of instances that have died in them: at once
// and past every queue, since a provider that takes the old refresh token again
// does so for some seconds only.
func (d *duty) recover() {
	n := d.store.intents
	if !n.reading.TryLock() {
		return // another refresher does it
	}
	defer n.reading.Unlock()
	silent, err := n.abandoned(d.ctx)
	d.complain("looking for refreshes that were cut short", err)
	for _, o := range silent {
		if !o.settled {
			o.settled = d.settle(o.intents)
		}
		if err := n.forget(d.ctx, o); err != nil {
			o.since = time.Now() // it may lie for another while
			d.complain("dropping what is settled of refreshes that were cut short", err)
		}
	}
}

// complain logs what keeps cut refreshes from being found, once until something
// else does, or nothing.
func (d *duty) complain(what string, err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != d.complaint {
		d.logger().Warn(what, "error", err)
	}
	d.complaint = said
}

// settle takes up refreshes, and reports whether none is open any more.
func (d *duty) settle(cut []intent) bool {
	ours := map[Account]*Source{}
	for _, i := range cut {
		ours[i.Account] = nil
	}
	for _, s := range *d.sources.Load() {
		if _, wanted := ours[s.account]; wanted {
			ours[s.account] = s
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, recoverHands)
	open := make([]bool, len(cut))
	for n, i := range cut {
		select {
		case <-d.ctx.Done():
			wg.Wait()
			return false
		case slots <- struct{}{}:
		}
		wg.Go(func() {
			defer survive(d.logger(), "taking up a refresh that was cut short")
			defer func() { <-slots }()
			open[n] = true
			open[n] = d.takeUp(i, ours[i.Account])
		})
	}
	wg.Wait()
	for _, o := range open {
		if o {
			return false
		}
	}
	return true
}

// takeUp takes up a refresh that was cut short, and reports whether it is still
// open. Without a source the account is not configured here.
func (d *duty) takeUp(i intent, s *Source) (open bool) {
	if d.now().Sub(i.At).Abs() > intentLife {
		return false
	}
	t, err := d.store.Load(d.ctx, i.Account)
	switch {
	case errors.Is(err, fs.ErrNotExist) || unreadable(err):
		return false
	case err != nil:
		return true
	case t.Generation != i.Generation || t.Revoked:
		return false
	case s == nil:
		return true
	case !t.belongsTo(s.client.registration):
		return false
	}
	s.cell.mu.Lock()
	paused := s.pausedLocked(s.now())
	s.cell.mu.Unlock()
	if paused {
		return true
	}
	s.log().Warn("taking up a refresh that was cut short when another process ended")
	defer s.store.intents.takeUp(s.account)()
	began := time.Now()
	err = s.renew(context.WithoutCancel(d.ctx), renewal{force: true, cut: &i})
	e, _ := errors.AsType[*Error](err)
	s.log().Info("took up a refresh that was cut short", "done", err == nil, "took", time.Since(began))
	return e != nil && e.Temporary()
}
