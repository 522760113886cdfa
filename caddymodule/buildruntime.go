package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// layer lays what was made at run time over the snapshot of the configuration file, and
// takes over from before, the snapshot in force, what has not changed: its connections,
// tokens and limits stay. What does not fit is left out, and the problems of the
// snapshot say why. The file's settings win.
func layer(file, before *snapshot, entries map[entryRef]*entry) *snapshot {
	s := *file
	s.providers, s.tenants = maps.Clone(file.providers), maps.Clone(file.tenants)
	s.keys, s.logins, s.domains = maps.Clone(file.keys), maps.Clone(file.logins), maps.Clone(file.domains)
	s.callbacks = maps.Clone(file.callbacks)
	s.users, s.entries, s.problems = nil, entries, make(map[entryRef]string)
	b := &builder{snapshot: &s, mailboxes: make(map[mailboxKey]*tenant, len(file.tenants)), fileKeys: make(map[string]bool)}
	for _, t := range file.tenants {
		b.mailboxes[t.mailbox()] = t
	}
	for _, k := range file.allKeys() {
		b.fileKeys[k.name] = true
	}
	refs := slices.SortedFunc(maps.Keys(entries), entryRef.compare)
	for _, ref := range refs {
		b.lay(ref, entries[ref], before)
	}
	for _, ref := range refs {
		b.layFailover(ref)
	}
	for _, ref := range refs {
		if t := s.tenants[ref.name]; ref.kind == kindTenant && t != nil && t.entry != nil {
			b.tenantDomains(t)
			b.addProblem(ref)
		}
	}
	return &s
}

// lay builds one entry.
func (b *builder) lay(ref entryRef, e *entry, before *snapshot) {
	s := b.snapshot
	if b.declared(ref) {
		s.problems[ref] = "the configuration file declares a " + string(ref.kind) + " of this name, which is in force; remove the one or the other"
		return
	}
	switch ref.kind {
	case kindProvider:
		if old := before.providers[ref.name]; old != nil && old.entry == e && s.callbacks[old.callbackPath()] == nil {
			s.providers[ref.name] = old
			if path := old.callbackPath(); path != "" {
				s.callbacks[path] = old
			}
			return
		}
		settings, err := e.provider()
		if err == nil {
			b.provider(ref.name, settings)
		} else {
			b.errs = append(b.errs, err)
		}
	case kindTenant:
		if b.takeOver(ref, e, before) {
			break
		}
		settings, err := e.tenant()
		if err == nil {
			b.tenant(ref.name, settings)
		} else {
			b.errs = append(b.errs, err)
		}
	case kindKey:
		settings, err := e.key()
		if err == nil {
			b.key(ref.name, settings)
		} else {
			b.errs = append(b.errs, err)
		}
	}
	if problem := b.takeProblem(); problem != "" {
		s.problems[ref] = problem
		switch ref.kind {
		case kindProvider:
			if p := s.providers[ref.name]; p != nil && s.callbacks[p.callbackPath()] == p {
				delete(s.callbacks, p.callbackPath())
			}
			delete(s.providers, ref.name)
		case kindTenant:
			if t := s.tenants[ref.name]; t != nil && b.mailboxes[t.mailbox()] == t {
				delete(b.mailboxes, t.mailbox())
			}
			delete(s.tenants, ref.name)
		case kindKey: // it was not entered
		}
	}
}

// declared reports whether the configuration file has it. All that was laid before has
// other names or is of another kind.
func (b *builder) declared(ref entryRef) bool {
	switch ref.kind {
	case kindProvider:
		return b.snapshot.providers[ref.name] != nil
	case kindTenant:
		return b.snapshot.tenants[ref.name] != nil
	case kindKey:
	}
	return b.fileKeys[ref.name]
}

// takeOver takes a tenant from the snapshot before, if it would be built just the same.
func (b *builder) takeOver(ref entryRef, e *entry, before *snapshot) bool {
	old := before.tenants[ref.name]
	if old == nil || old.entry != e || before.problems[ref] != "" ||
		old.account.Provider != "" && before.providers[old.account.Provider] != b.snapshot.providers[old.account.Provider] {
		return false
	}
	b.sharedMailbox("tenant "+ref.name, old)
	b.snapshot.tenants[ref.name] = old
	return true
}

// layFailover checks a tenant's failover. A tenant whose failover does not fit sends
// all the same.
func (b *builder) layFailover(ref entryRef) {
	t := b.snapshot.tenants[ref.name]
	if ref.kind != kindTenant || t == nil || t.entry == nil || t.mail.Failover == "" {
		return
	}
	b.failover(t)
	problem := b.takeProblem()
	if problem == "" {
		return
	}
	b.snapshot.problems[ref] = problem
	settings, err := t.entry.tenant()
	if err != nil {
		return
	}
	settings.Failover = ""
	delete(b.mailboxes, t.mailbox())
	b.tenant(ref.name, settings)
	b.errs = nil // it was built before
}

// addProblem notes what was found wrong with a part of an entry since the last call.
func (b *builder) addProblem(ref entryRef) {
	problem := b.takeProblem()
	if old := b.snapshot.problems[ref]; problem != "" && old != "" {
		problem = old + "; " + problem
	}
	if problem != "" {
		b.snapshot.problems[ref] = problem
	}
}

// takeProblem returns what was found wrong since the last call.
func (b *builder) takeProblem() string {
	words := make([]string, 0, len(b.errs))
	for _, err := range b.errs {
		words = append(words, err.Error())
	}
	b.errs = nil
	return strings.Join(words, "; ")
}

// runtimeProvider checks what holds for providers that are made at run time only.
func (b *builder) runtimeProvider(at string, s providerSettings, p *tokens.Provider) bool {
	before := len(b.errs)
	allow := func(word, url string) {
		if err := allowURL(url); err != nil {
			b.errorf("%s, %s: %w", at, word, err)
		}
	}
	for word, url := range p.Endpoints() {
		allow(word, url)
	}
	allow("proxy", s.Proxy)
	for _, host := range p.Servers {
		if err := allowHost(host); err != nil {
			b.errorf("%s, servers: %w", at, err)
		}
	}
	return len(b.errs) == before
}

// boundTo is what the grants of a provider that is made at run time belong to: all that
// decides who sees its tokens. Whoever changes it has people sign in again.
func boundTo(p tokens.Provider, t transportSettings) string {
	proxy := ""
	if t.proxy != nil {
		proxy = t.proxy.Redacted()
	}
	d := digest("bound", slices.Sorted(slices.Values(p.Servers)), p.RevocationEndpoint, p.AuthorizationEndpoint,
		p.DeviceAuthorizationEndpoint, proxy, t.authorities)
	return hex.EncodeToString(d[:])
}

// runtimeServer checks what holds for the servers of tenants that are made at run time
// only.
func (b *builder) runtimeServer(at string, s tenantSettings, t *tenant, server mailer.Server, p *provider) bool {
	before := len(b.errs)
	if err := allowHost(server.Host); err != nil {
		b.errorf("%s, server: %w", at, err)
	}
	if err := allowURL(s.Proxy); err != nil {
		b.errorf("%s, proxy: %w", at, err)
	}
	// Whoever may say which certificates are believed gets the tokens.
	if p != nil && t.authorities != [sha256.Size]byte{} && !b.trusted(p, t.authorities) {
		b.errorf("%s, ca: provider %s does not trust these authorities, and they would let others have its tokens; name the same ones there", at, p.name)
	}
	return len(b.errs) == before
}

// trusted reports whether a provider's owner has named authorities: for its endpoints,
// or in the configuration file for a mail server.
func (b *builder) trusted(p *provider, authorities [sha256.Size]byte) bool {
	if p.transport.authorities == authorities {
		return true
	}
	for _, t := range b.snapshot.tenants {
		if t.origin == originFile && t.account.Provider == p.name && t.authorities == authorities {
			return true
		}
	}
	return false
}
