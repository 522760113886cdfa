package caddymodule

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App sends mail through servers that demand OAuth 2.0, and keeps the tokens
// for that: it refreshes them in the background, without traffic. Handlers
// (`http.handlers.oauth_mail`) are its entrances.
type App struct {
	// The URL under which the redirect URIs lie: a provider's is this, a slash,
	// and the provider's name. A handler with the endpoint `callback` must serve
	// it. It must begin with https, except on loopback.
	RedirectBase string `json:"redirect_base,omitempty"`

	// The keys that seal tokens in the storage, 32 octets in base64 each. The
	// first one seals, all of them open. Default, with file storage only: a key
	// in a file of its own beside the storage's folder, made at the first start.
	EncryptionKeys []string `json:"encryption_keys,omitempty"`

	// Which tokens are kept fresh while nobody sends: `always` all of them,
	// `on_use` those used in the last 24 hours; others are renewed at their next
	// use and once a week. Default: `auto`, which is `always` for up to 1,000
	// accounts and else `on_use`.
	Refresh string `json:"refresh,omitempty"`

	// What keeps messages until they are sent: `bbolt`, in a folder of this machine;
	// another engine that is built in; or `off`. Default: `bbolt`.
	OutboxRaw json.RawMessage `json:"outbox,omitempty" caddy:"namespace=oauth_mail.outbox inline_key=engine"`

	// How long the outbox remembers messages that were sent, with the
	// Idempotency-Keys of all, and canceled ones. Default: 24 hours.
	KeepSent caddy.Duration `json:"keep_sent,omitempty"`

	// How long the outbox keeps messages that could not be sent. Default: 7 days.
	KeepFailed caddy.Duration `json:"keep_failed,omitempty"`

	// What the audit log (`oauth_mail.audit`) says of recipients besides their number:
	// `full` their addresses, `domain` their domains, `hash` a keyed hash of each
	// address, `drop` nothing. Default: `domain`.
	AuditRecipients string `json:"audit_recipients,omitempty"`

	// The most octets that the body of a request to the send route may have, unpacked.
	// At least 64 KiB. Default: 36 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// The most octets that all such requests together may have whose messages are not in
	// the outbox yet, or not sent, where there is none; further ones are told to come
	// again. At least `max_body`. Default: 256 MiB, or `max_body` if that is more.
	MaxInFlight int64 `json:"max_in_flight,omitempty"`

	// Who is told when something is not as it should be, and when it is well again.
	Alerts *Alerts `json:"alerts,omitempty"`

	// The authorization servers, by name.
	Providers map[string]*Provider `json:"providers,omitempty"`

	// The ways to send, by name.
	Tenants map[string]*Tenant `json:"tenants,omitempty"`

	// The API keys of the send route, by name.
	Keys map[string]*Key `json:"keys,omitempty"`

	// The entrances for devices and programs that send by SMTP.
	SMTP []*SMTP `json:"smtp,omitempty"`

	logger *slog.Logger
	// lines takes the lines that there are of each message; nil drops them.
	lines   *zap.Logger
	storage certmagic.Storage
	store   *tokens.Store
	// sourceOptions are what all sources share.
	sourceOptions *tokens.SourceOptions
	keys          func() (*tokens.KeyRing, error)
	flow          *tokens.Flow
	registry      registry
	// file is the snapshot of the configuration file, which the registry's builds upon.
	file *snapshot
	// saved is what the storage holds of settings that were made at run time.
	saved *savedSettings
	// changing is held while the snapshot in force is being replaced.
	changing sync.Mutex
	// ended: nothing is put in force any more. Guarded by changing.
	ended bool
	// sources takes the accounts to keep fresh.
	sources chan []*tokens.Source
	// settled is closed when the storage's settings were looked at for the first time.
	settled chan struct{}
	mailer  *mailer.Mailer
	// engine is the module of the outbox; nil without one.
	engine     outboxEngine
	engineName string
	box        *outboxState
	// before is the configuration whose settings the outbox had before it had those of
	// this one; nil for none. It belongs to watchLanes from when the loading has ended.
	before   *App
	loading  *loading
	events   *eventQueue
	guard    *guard
	memory   *budget
	holdings holdings
	// condition is what is known of the storage.
	condition condition
	recent    recentHealth
	auditLog  auditLog
	watch     *watch
	// tls has the certificates of the SMTP entrances; nil where they need none.
	tls *caddytls.TLS
	// internalNames are those that got a policy for Caddy's own authority.
	internalNames []string
	// entries are the SMTP entrances' addresses.
	entries []smtpEntry

	// stop ends the goroutines; nil while none runs.
	stop context.CancelFunc
	// refreshed is closed when the refresher has ended.
	refreshed chan struct{}
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "oauth_mail",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision builds everything from the configuration. It touches no network, no
// lock and no file but those that the configuration names, so that `caddy
// validate` disturbs no running server.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger, a.lines = ctx.Slogger(), ctx.Logger()
	a.storage = ctx.Storage()
	if err := a.registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	memory, err := a.budget()
	if err != nil {
		return err
	}
	a.guard, a.memory = newGuard(), memory
	if err := a.loadOutbox(ctx); err != nil {
		return err
	}
	keys, err := a.keyRing()
	if err != nil {
		return err
	}
	a.keys = keys
	a.store = tokens.NewStore(durable(a.storage), keys)
	expanded, err := a.expand()
	if err != nil {
		return err
	}
	s, err := build(expanded)
	if err != nil {
		return err
	}
	if err := a.attach(s); err != nil {
		return err
	}
	a.file = s
	if s, err = a.provisionSettings(); err != nil {
		return err
	}
	if err := a.provisionSMTP(ctx, s); err != nil {
		return err
	}
	// The snapshot has it all, and there may be very much of it.
	a.Providers, a.Tenants, a.SMTP = nil, nil, nil
	a.flow = &tokens.Flow{Store: a.store, Keys: keys, Verify: a.verify}
	a.mailer = &mailer.Mailer{Lookup: a.registry.lookup, Hooks: a.hooks()}
	if a.engine != nil {
		a.mailer.Outbox = outboxDoor{a}
	}
	if a.events, err = newEventQueue(ctx, a.logger); err != nil {
		return err
	}
	if err := a.provisionAudit(ctx.Logger().Named("audit")); err != nil {
		return err
	}
	if err := a.provisionAlerts(s); err != nil {
		return err
	}
	if err := a.followCore(ctx); err != nil {
		return err
	}
	a.registry.current.Store(s)
	return nil
}

// parseClient returns an address for a Caller; the zero one where it is none.
func parseClient(ip string) netip.Addr {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)

	_ caddyfile.Unmarshaler = (*App)(nil)
)
