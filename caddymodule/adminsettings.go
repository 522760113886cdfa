package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// runtimeView is what administrators see of settings besides what they do. All is empty
// for those of the configuration file, which are read-only.
type runtimeView struct {
	// Revision grows with each change. A change names the one that it was made for.
	Revision  string     `json:"revision,omitempty"`
	ChangedAt *time.Time `json:"changed_at,omitempty"`
	ChangedBy string     `json:"changed_by,omitempty"`
	// Settings are as they were given, and Secrets are the places of those that are set;
	// nobody sees them. Lists leave both out.
	Settings json.RawMessage `json:"settings,omitempty"`
	Secrets  []string        `json:"secrets,omitempty"`
	// Problem is why what was made at run time is not in force, or a part of it.
	Problem string `json:"problem,omitempty"`
}

// tag is the entity tag of settings (RFC 9110, section 8.8.3), which If-Match takes; empty
// for those that cannot be changed.
func (v runtimeView) tag() string {
	if v.Revision == "" {
		return ""
	}
	return `"` + v.Revision + `"`
}

// viewEntry shows what is known of an entry; whole with its settings.
func (s *snapshot) viewEntry(ref entryRef, whole bool) runtimeView {
	v := runtimeView{Problem: s.problems[ref]}
	e := s.entries[ref]
	if e == nil || v.Problem != "" && s.fileHas(ref) {
		return v
	}
	at := e.changedAt()
	v.Revision, v.ChangedAt, v.ChangedBy = strconv.FormatUint(e.revision, 10), &at, e.by
	if whole {
		v.Settings, v.Secrets = e.settings, e.places()
	}
	return v
}

// fileHas reports whether the configuration file has it.
func (s *snapshot) fileHas(ref entryRef) bool {
	switch ref.kind {
	case kindProvider:
		p := s.providers[ref.name]
		return p != nil && p.entry == nil
	case kindTenant:
		t := s.tenants[ref.name]
		return t != nil && t.entry == nil
	case kindKey:
		k := s.keyNamed(ref.name)
		return k != nil && k.origin != originRuntime
	}
	return false
}

// settingsEdit is a change of settings that were made at run time.
type settingsEdit struct {
	// how is "create", "put", "patch" or "delete".
	how string
	ref entryRef
	// body are the settings, or those that change.
	body json.RawMessage
	// revision is the one that the change was made for; "*" for any.
	revision string
	by       string
	// force deletes a tenant though messages wait for it.
	force bool
}

// changed is what became of a change.
type changed struct {
	// created: it was not there before.
	created bool
	// key is one that was made.
	key string
	// disconnected are the accounts that nothing uses any more, and whose grants were
	// ended.
	disconnected []string
}

// errReadOnly refuses to change what the configuration file declares.
func errReadOnly(ref entryRef) error {
	return &adminError{kind: adminConflict, err: fmt.Errorf("the configuration file declares %s: it is changed there and by a reload, and read-only here", ref)}
}

// edit changes settings that were made at run time, or makes them, and puts them in
// force here; other instances follow within seconds. Nothing is stored that cannot be
// put in force.
func (a admin) edit(ctx context.Context, c settingsEdit) (changed, error) {
	var done changed
	if c.how == "delete" && c.ref.kind == kindTenant && !c.force {
		if err := a.nothingWaits(ctx, c.ref.name); err != nil {
			return done, err
		}
	}
	before := a.app.snapshot(ctx)
	_, err := a.app.saved.change(ctx, a.app.settingsStore(), c.by, func(present map[entryRef]*entry) (map[entryRef]*entry, error) {
		done = changed{}
		e, err := c.apply(a.app.file, present, &done)
		if err != nil {
			return nil, err
		}
		edits := map[entryRef]*entry{c.ref: e}
		return edits, a.app.checkEdits(present, edits, false)
	})
	if err != nil {
		return changed{}, settingsError(err)
	}
	a.app.putInForce()
	a.app.logger.Info("settings changed at run time", "change", c.how, string(c.ref.kind), c.ref.name, "by", c.by)
	done.disconnected = a.disconnectUnused(ctx, before, c.by)
	return done, nil
}

// apply returns the entry that a change makes; nil for none.
func (c settingsEdit) apply(file *snapshot, present map[entryRef]*entry, done *changed) (*entry, error) {
	old := present[c.ref]
	if file.fileHas(c.ref) && (c.how != "delete" || old == nil) {
		return nil, errReadOnly(c.ref)
	}
	switch {
	case c.how == "create" && old != nil:
		return nil, &adminError{kind: adminConflict, err: fmt.Errorf("%s is there already; change it with PATCH or PUT", c.ref)}
	case (c.how == "patch" || c.how == "delete") && old == nil:
		return nil, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no %s %q", c.ref.kind, c.ref.name)}
	}
	if old != nil {
		if err := old.matches(c.revision); err != nil {
			return nil, err
		}
	}
	if c.how == "delete" {
		return nil, nil
	}
	body := c.body
	if c.how == "patch" {
		var err error
		if err = checkMembers(body); err != nil {
			return nil, err
		}
		if body, err = mergePatch(old.settings, body); err != nil {
			return nil, err
		}
	}
	e, made, err := readEntry(c.ref, body, old, false)
	done.created, done.key = old == nil, made
	return e, err
}

// checkMembers refuses a patch that has a member twice.
func checkMembers(body json.RawMessage) error {
	if err := checkText(body); err != nil {
		return err
	}
	return decodeObject(body, "", nil, func(path, _ string, raw json.RawMessage) error {
		if raw[0] == '{' {
			return checkMembers(raw)
		}
		return nil
	})
}

// matches refuses a change that was made for another revision.
func (e *entry) matches(revision string) error {
	switch strings.Trim(revision, `"`) {
	case "*", strconv.FormatUint(e.revision, 10):
		return nil
	case "":
		return &adminError{kind: adminUnconditional, err: fmt.Errorf("say which revision of %s is changed, with the header If-Match: \"<revision>\", so that nobody's change gets lost; If-Match: * takes any", e)}
	}
	return &adminError{kind: adminOutdated, err: fmt.Errorf("%s was changed by %s meanwhile; look at it again", e, e.by)}
}

// checkEdits refuses changes after which something would not work that did, or that do
// not work themselves, unless they may be incomplete.
func (a *App) checkEdits(present, edits map[entryRef]*entry, incomplete bool) error {
	current := a.registry.load()
	old := current.problems
	if !sameEntries(present, current.entries) {
		old = layer(a.file, current, present).problems
	}
	candidate := maps.Clone(present)
	if candidate == nil {
		candidate = make(map[entryRef]*entry)
	}
	removed := false
	for ref, e := range edits {
		if e == nil {
			delete(candidate, ref)
			removed = true
			continue
		}
		candidate[ref] = e
	}
	problems := layer(a.file, current, candidate).problems
	var own, others []string
	for _, ref := range slices.SortedFunc(maps.Keys(problems), entryRef.compare) {
		_, edited := edits[ref]
		switch {
		case edited && !incomplete:
			own = append(own, problems[ref])
		case !edited && old[ref] == "":
			others = append(others, problems[ref])
		}
	}
	switch {
	case len(own) > 0:
		return &adminError{kind: adminInvalid, err: errors.New(strings.Join(own, "; "))}
	case len(others) > 0 && removed:
		return &adminError{kind: adminConflict, err: fmt.Errorf("it is still used: %s", strings.Join(others, "; "))}
	case len(others) > 0:
		return &adminError{kind: adminInvalid, err: fmt.Errorf("with this change something else would no longer work: %s", strings.Join(others, "; "))}
	}
	return nil
}

// settingsError makes an error of the administration of one of the storage.
func settingsError(err error) error {
	if _, ok := errors.AsType[*adminError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*problem](err); ok {
		return err
	}
	return &adminError{kind: adminUpstream, err: err}
}

// nothingWaits refuses to delete a tenant that messages wait for.
func (a admin) nothingWaits(ctx context.Context, tenant string) error {
	if a.app.engine == nil {
		return nil
	}
	box, release, err := a.useOutbox()
	if err != nil {
		return err
	}
	defer release()
	stats, err := box.Engine().Stats(ctx)
	if err != nil {
		return outboxError(err)
	}
	if n := waiting(stats.Tenants[tenant]); n > 0 {
		return &adminError{kind: adminConflict, err: fmt.Errorf("%d messages of tenant %s wait in the outbox; cancel them or let them be sent first, or delete it all the same with ?force=true", n, tenant)}
	}
	return nil
}

// disconnectUnused ends the grants of accounts that no tenant uses any more: nobody
// would see them, or end them.
func (a admin) disconnectUnused(ctx context.Context, before *snapshot, by string) []string {
	now := a.app.registry.load()
	var names []string
	for account, users := range before.users {
		if len(now.users[account]) > 0 || !slices.ContainsFunc(users, func(t *tenant) bool { return t.entry != nil }) {
			continue
		}
		names = append(names, account.String())
		// Whoever asked may go away; a provider that does not answer keeps nobody waiting for long.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settingsTimeout)
		var err error
		if before.providers[account.Provider].settings.Grant.Unattended() {
			err = a.app.store.Delete(ctx, account)
		} else {
			_, err = users[0].source.Disconnect(ctx)
		}
		cancel()
		if err != nil {
			a.app.logger.Warn("an account that nothing uses any more could not be disconnected", "provider", account.Provider, "user", account.User, "error", err)
			continue
		}
		a.app.logger.Info("account disconnected, since nothing uses it any more", "provider", account.Provider, "user", account.User, "by", by)
	}
	slices.Sort(names)
	return names
}
