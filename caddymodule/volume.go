package caddymodule

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// The volume brake stops what a stolen key or a program that runs wild would send: more
// than anybody ever should, or far more than in the week before. The tenant is paused
// then, so that its messages wait and nothing is lost, until an operator has looked.

// volumeLimits are what is abnormal for a tenant, and for each of its callers. Zero: no
// brake.
type volumeLimits struct {
	messages int
	window   time.Duration
	jump     int
}

const (
	// volumeHours is the past that an hour is compared with.
	volumeHours = 7 * 24
	// volumeFloor is what the busiest hour of the past counts as at least, and
	// volumeAge how long there must have been messages before there is a past.
	volumeFloor = 20
	volumeAge   = 24 * time.Hour
	// volumeParts is into how many parts a window is cut.
	volumeParts = 60
	// maxVolumes bounds the callers that are known; others count for their tenant alone.
	maxVolumes = 20_000
	// brakeName is who has paused a tenant.
	brakeName = "volume brake"
)

// volumeKey is a tenant, or one of its callers.
type volumeKey struct{ tenant, caller string }

// volume is what a tenant or a caller has sent of late.
type volume struct {
	first time.Time
	hours [volumeHours]int
	hour  int64 // the last one that counts, since 1970
	parts [volumeParts]int
	part  int64
	// braked is why it was stopped, since when.
	braked string
	since  time.Time
}

// volumes are those of all tenants. They outlive configurations.
type volumes struct {
	mu  sync.Mutex
	all map[volumeKey]*volume
	// stopped are the tenants that have been, whoever was the cause.
	stopped map[string]bool
}

var processVolumes volumes

// note counts a message, and returns why the tenant must be stopped; empty where it need
// not be, or has been.
func (v *volumes) note(tenant, caller string, l volumeLimits, now time.Time) (why string) {
	if l == (volumeLimits{}) {
		return ""
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.all == nil {
		v.all = make(map[volumeKey]*volume)
	}
	for _, k := range []volumeKey{{tenant, caller}, {tenant: tenant}} {
		x := v.all[k]
		if x == nil {
			if len(v.all) >= maxVolumes && k.caller != "" {
				continue
			}
			x = &volume{first: now}
			v.all[k] = x
		}
		if abnormal := x.count(l, now); abnormal != "" && !v.stopped[tenant] {
			x.braked, x.since, why = abnormal, now, abnormal
			if v.stopped == nil {
				v.stopped = make(map[string]bool)
			}
			v.stopped[tenant] = true
		}
	}
	return why
}

// count counts a message and returns what is abnormal.
func (x *volume) count(l volumeLimits, now time.Time) string {
	hour := now.Unix() / 3600
	x.hour = forward(x.hours[:], x.hour, hour)
	x.hours[hour%volumeHours]++
	if l.window > 0 {
		part := now.UnixNano() / int64(max(l.window/volumeParts, 1))
		x.part = forward(x.parts[:], x.part, part)
		x.parts[part%volumeParts]++
		sum := 0
		for _, n := range x.parts {
			sum += n
		}
		if sum > l.messages {
			return fmt.Sprintf("more than %d messages came in %s", l.messages, l.window)
		}
	}
	if l.jump == 0 || now.Sub(x.first) < volumeAge {
		return ""
	}
	busiest := volumeFloor
	for i, n := range x.hours {
		if int64(i) != hour%volumeHours {
			busiest = max(busiest, n)
		}
	}
	if n := x.hours[hour%volumeHours]; n > l.jump*busiest {
		return fmt.Sprintf("%d messages came within the hour; in the busiest of the week before it were %d at most", n, busiest)
	}
	return ""
}

// forward clears the places of a ring between the last time and now.
func forward(ring []int, last, now int64) int64 {
	if now <= last {
		return last
	}
	for i := range min(now-last, int64(len(ring))) {
		ring[(now-i)%int64(len(ring))] = 0
	}
	return now
}

// release lets a tenant and its callers begin anew: an operator has looked.
func (v *volumes) release(tenant string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.stopped[tenant] {
		return
	}
	delete(v.stopped, tenant)
	for k, x := range v.all {
		if k.tenant == tenant {
			x.braked, x.parts = "", [volumeParts]int{}
			x.hours[x.hour%volumeHours] = 0
		}
	}
}

// troubles are the tenants that are stopped.
func (v *volumes) troubles(s *snapshot) []trouble {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []trouble
	for k, x := range v.all {
		if x.braked == "" || s.tenants[k.tenant] == nil {
			continue
		}
		list = append(list, trouble{
			Kind: troubleVolume, Failure: true, Tenant: k.tenant, Caller: k.caller, Since: given(x.since.UTC()),
			What: "the tenant was paused: " + x.braked, Who: string(tokens.WhoOperator),
			Do: "see who sends what: caddy oauth-mail outbox list --tenant " + k.tenant + "; take the key away if it was stolen, cancel what nobody should get; then: caddy oauth-mail outbox resume " + k.tenant,
		})
	}
	return list
}

// tenantVolume reads what is abnormal for a tenant.
func (b *builder) tenantVolume(at string, s tenantSettings, t *tenant) {
	if l := s.VolumeLimit; l != nil {
		if l.Messages < 1 || l.Window <= 0 {
			b.errorf("%s, volume_limit: needs a number of messages and a time", at)
		}
		t.volume.messages, t.volume.window = l.Messages, time.Duration(l.Window)
	}
	if s.VolumeJump < 0 {
		b.errorf("%s, volume_jump: must be above zero", at)
	}
	t.volume.jump = s.VolumeJump
}

// noteVolume counts a message, and stops its tenant where there are too many.
func (a *App) noteVolume(tenant string, by mailer.Caller) {
	t := a.registry.load().tenants[tenant]
	if t == nil || t.volume == (volumeLimits{}) || by.Kind == "alert" {
		return
	}
	why := processVolumes.note(tenant, by.String(), t.volume, time.Now())
	if why == "" {
		return
	}
	a.logger.Error("a tenant is stopped by its volume brake", "tenant", tenant, "caller", by.String(), "why", why)
	a.audit("tenant.volume_abnormal", "tenant", tenant, "caller", by.String(), "by", "system", "reason", why)
	go a.guarded(func() {
		defer a.watch.poke()
		if a.engine == nil {
			return // nothing waits here; people are told
		}
		box, release, err := a.useOutbox()
		if err != nil {
			return // it has told
		}
		defer release()
		if err := box.Pause(context.Background(), tenant, brakeName); err != nil {
			a.logger.Error("a tenant could not be paused", "tenant", tenant, "error", err)
		}
	})
}

// parseVolumeLimit takes a number of messages and a time.
func (t *Tenant) parseVolumeLimit(d *caddyfile.Dispenser) error {
	t.VolumeLimit = new(Rate)
	return t.VolumeLimit.unmarshal(d)
}
