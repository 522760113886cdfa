package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// unsavedName is what settings are called that are tried before they have a name.
const unsavedName = "unsaved"

// unsavedTest is a test of settings that are not saved: of a tenant, with a provider
// that is not saved either or one that is, or of a provider alone. All secrets are typed
// in, for none is sent anywhere by settings that nobody has approved yet.
type unsavedTest struct {
	// name is that of a tenant whose settings are about to change; empty for none.
	name             string
	tenant, provider json.RawMessage
	from             string
}

// providerProbe is the outcome of a test of a provider.
type providerProbe struct {
	OK          bool        `json:"ok"`
	Provider    string      `json:"provider"`
	FailedStage string      `json:"failed_stage,omitempty"`
	Steps       []probeStep `json:"steps"`
	// Note is what the test cannot tell.
	Note string `json:"note"`
}

type probeStep struct {
	Stage      string     `json:"stage"`
	Status     string     `json:"status"`
	DurationMS int64      `json:"duration_ms"`
	Error      *probeFail `json:"error,omitempty"`
}

type probeFail struct {
	Kind    string         `json:"kind"`
	Code    string         `json:"code,omitempty"`
	Message string         `json:"message"`
	Advice  *tokens.Advice `json:"advice,omitempty"`
}

// testUnsaved prepares a test of settings that are not saved. Nothing is stored, and no
// mail is sent.
func (a admin) testUnsaved(ctx context.Context, u unsavedTest, by string) (run func(context.Context, func(any)) any, err error) {
	current := a.app.snapshot(ctx)
	s := *current
	s.providers, s.tenants, s.callbacks = maps.Clone(s.providers), maps.Clone(s.tenants), maps.Clone(s.callbacks)
	s.problems = make(map[entryRef]string)
	b := &builder{snapshot: &s, mailboxes: make(map[mailboxKey]*tenant)}
	var in tenantInput
	if u.tenant != nil {
		if err := decodeStruct(u.tenant, "tenant", &in); err != nil {
			return nil, err
		}
	}
	providerName := cmp.Or(in.Auth.Provider, unsavedName)
	if u.provider != nil {
		if err := b.layUnsaved(entryRef{kindProvider, providerName}, u.provider); err != nil {
			return nil, err
		}
		p := s.providers[providerName]
		transport := newTransport(p.transport)
		p.client = tokens.NewClient(p.settings, transport.Transport)
		if u.tenant == nil {
			return func(ctx context.Context, _ func(any)) any {
				defer transport.CloseIdleConnections()
				v := probeProvider(ctx, p)
				a.app.logger.Info("test of a provider that is not saved", "by", by, "ok", v.OK, "failed_stage", v.FailedStage)
				return v
			}, nil
		}
	}
	if u.tenant == nil {
		return nil, refuse(http.StatusUnprocessableEntity, nameMissingField, "missing", "There is nothing to test: give `tenant`, `provider` or both.")
	}
	if in.Auth.Method == "password" && in.Auth.Password == "" {
		return nil, invalid("tenant.auth.password", "secret_needed", "type it in: a password that is stored is not sent by settings that are not saved")
	}
	name := cmp.Or(u.name, unsavedName)
	delete(s.tenants, name)
	for _, t := range s.tenants {
		b.mailboxes[t.mailbox()] = t
	}
	if err := b.layUnsaved(entryRef{kindTenant, name}, u.tenant); err != nil {
		return nil, err
	}
	t := s.tenants[name]
	sender := t.from
	if u.from != "" {
		if sender, err = mailer.ParseAddress(u.from); err != nil {
			return nil, &adminError{kind: adminInvalid, err: fmt.Errorf("from: %w", reason(err))}
		}
	}
	a.attachUnsaved(current, &s, t)
	return func(ctx context.Context, report func(any)) any {
		defer t.mail.Pool.Close() //nolint:errcheck // it never fails
		v := t.mail.Test(ctx, mailer.Probe{From: sender, Report: func(step mailer.Step) { report(step) }})
		a.app.logTest(v, by)
		return v
	}, nil
}

// layUnsaved builds settings that were typed in.
func (b *builder) layUnsaved(ref entryRef, raw json.RawMessage) error {
	e, _, err := readEntry(ref, raw, nil, false)
	if err != nil {
		return err
	}
	switch ref.kind {
	case kindProvider:
		if old := b.snapshot.providers[ref.name]; old != nil && b.snapshot.callbacks[old.callbackPath()] == old {
			delete(b.snapshot.callbacks, old.callbackPath())
		}
		delete(b.snapshot.providers, ref.name)
		settings, err := e.provider()
		if err != nil {
			return &adminError{kind: adminInvalid, err: err}
		}
		b.provider(ref.name, settings)
	case kindTenant:
		settings, err := e.tenant()
		if err != nil {
			return &adminError{kind: adminInvalid, err: err}
		}
		b.tenant(ref.name, settings)
		if t := b.snapshot.tenants[ref.name]; t != nil {
			b.failover(t)
		}
	case kindKey: // there is nothing to try
	}
	if problem := b.takeProblem(); problem != "" {
		return &adminError{kind: adminInvalid, err: errors.New(problem)}
	}
	return nil
}

// attachUnsaved gives a tenant what it needs for a test, and nothing that is anybody
// else's. The token of an account that is signed in goes to the servers that its
// provider names and that are saved, over TLS, and so it may be used; all other tokens
// are gone with the test.
func (a admin) attachUnsaved(current, s *snapshot, t *tenant) {
	if t.account != (tokens.Account{}) {
		p := s.providers[t.account.Provider]
		users := current.users[t.account]
		if p == current.providers[p.name] && len(users) > 0 && t.mail.Server.Security != mailer.Plaintext {
			t.source = users[0].source
		} else {
			store := tokens.NewStore(new(passingStorage), a.app.keys)
			t.source = tokens.NewSource(t.account, p.client, store, new(tokens.Cell), &tokens.SourceOptions{Logger: a.app.logger})
		}
	}
	t.mail = &mailer.Tenant{
		Name: t.name, Server: t.mail.Server, Senders: t.mail.Senders, Pool: new(mailer.Pool), Auth: t.authenticator(),
		Limits: new(mailer.Limiter), Breaker: new(mailer.Breaker),
	}
}

// probeProvider tries a provider.
func probeProvider(ctx context.Context, p *provider) providerProbe {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	v := providerProbe{OK: true, Provider: p.name, Steps: []probeStep{}}
	switch {
	case !p.settings.Grant.Unattended():
		v.Note = "Whether people can sign in, and what they are asked for, shows at the first sign-in."
	case p.settings.Grant == tokens.GrantServiceAccount:
		v.Note = "A service account speaks for mailboxes: test it with a tenant."
	default:
		v.Note = "Whether the mail server takes its tokens shows in the test of a tenant."
	}
	began := time.Now()
	_ = p.client.Probe(ctx, func(stage string, err error) { // it is told stage by stage
		step := probeStep{Stage: stage, Status: "ok", DurationMS: time.Since(began).Milliseconds()}
		began = time.Now()
		if err != nil {
			v.OK, v.FailedStage, step.Status = false, stage, "failed"
			step.Error = &probeFail{Kind: "temporary", Message: err.Error()}
			if e, ok := errors.AsType[*tokens.Error](err); ok {
				step.Error.Kind, step.Error.Code = e.Kind.String(), e.Code
				if advice, ok := e.Advice(); ok {
					step.Error.Advice = &advice
				}
			}
		}
		v.Steps = append(v.Steps, step)
	})
	return v
}

// serveUnsavedTest serves a test of settings that are not saved.
func serveUnsavedTest(a admin, r *adminRequest) (int, any, error) {
	var u unsavedTest
	raw := func(into *json.RawMessage) decoder {
		return func(path string, value json.RawMessage) error {
			if !strings.HasPrefix(string(value), "{") {
				return badJSON(path, "must be an object")
			}
			*into = value
			return nil
		}
	}
	if err := r.settings(fields{"name": decodeText(&u.name), "from": decodeText(&u.from), "tenant": raw(&u.tenant), "provider": raw(&u.provider)}); err != nil {
		return 0, nil, err
	}
	run, err := a.testUnsaved(r.Context(), u, r.by)
	if err != nil {
		return 0, nil, err
	}
	if !accepts(r.Request, ndjson) {
		return http.StatusOK, run(r.Context(), func(any) {}), nil
	}
	return http.StatusOK, records(func(emit func(any)) {
		verdict := run(r.Context(), emit)
		if v, ok := verdict.(mailer.Verdict); ok {
			v.Steps = nil // they were told
			verdict = v
		}
		emit(verdict)
	}), nil
}

// passingStorage is a storage that is gone with whoever uses it. Its zero value is ready.
type passingStorage struct {
	mu      sync.Mutex
	records map[string][]byte
}

func (p *passingStorage) Store(_ context.Context, key string, value []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.records == nil {
		p.records = make(map[string][]byte)
	}
	p.records[key] = value
	return nil
}

func (p *passingStorage) Load(_ context.Context, key string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if value, ok := p.records[key]; ok {
		return value, nil
	}
	return nil, fs.ErrNotExist
}

func (p *passingStorage) Delete(_ context.Context, key string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.records, key)
	return nil
}

// List lists nothing: whoever tries one account does not ask.
func (*passingStorage) List(context.Context, string, bool) ([]string, error) {
	return nil, fs.ErrNotExist
}

// Lock and Unlock do nothing: there is one user.
func (*passingStorage) Lock(context.Context, string) error { return nil }

// Unlock implements [tokens.Storage].
func (*passingStorage) Unlock(context.Context, string) error { return nil }

var _ tokens.Storage = (*passingStorage)(nil)
