package river

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Config is what [Open] needs.
type Config struct {
	// DSN says where the database is, as a URL or in key=value form. It may hold a
	// password, and is never shown.
	DSN string
	// Schema has the tables: "oauth_mail". It is made where there is none. Instances
	// with the same schema are one fleet.
	Schema string
	// MaxConnections is the most connections to the database for queries: 16. One more
	// listens.
	MaxConnections int
	Sealer         outbox.Sealer
	Logger         *slog.Logger

	dial pgconn.DialFunc // nil but in tests
}

const (
	defaultSchema         = "oauth_mail"
	defaultMaxConnections = 16
	// minConnections: River's listener keeps one for itself.
	minConnections = 4
)

// schemaName is what needs no quotes. It also is a prefix of River's own channels,
// whose names may have 63 octets.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

func (c *Config) withDefaults() (Config, error) {
	out := *c
	if out.Schema == "" {
		out.Schema = defaultSchema
	}
	if !schemaName.MatchString(out.Schema) {
		return out, fmt.Errorf("schema %q: a name has up to 40 small letters, digits and underscores, and begins with no digit", out.Schema)
	}
	if out.MaxConnections == 0 {
		out.MaxConnections = defaultMaxConnections
	}
	if out.MaxConnections < minConnections {
		return out, fmt.Errorf("max_connections %d: the outbox needs %d or more", out.MaxConnections, minConnections)
	}
	if out.Sealer == nil {
		return out, errors.New("no sealer: records are never stored in clear")
	}
	if out.Logger == nil {
		out.Logger = slog.Default()
	}
	return out, nil
}

// pool makes the pool of connections, which connects when it is used.
func (c *Config) pool(ctx context.Context) (*pgxpool.Pool, error) {
	p, err := pgxpool.ParseConfig(c.DSN)
	if err != nil { // whose text may hold what was taken for something else than a password
		return nil, errors.New("the dsn is no connection string of PostgreSQL: write postgres://user:password@host:5432/database, or host=… user=… dbname=…")
	}
	p.MaxConns = int32(c.MaxConnections)
	if p.ConnConfig.ConnectTimeout == 0 {
		p.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	if p.ConnConfig.RuntimeParams["application_name"] == "" {
		p.ConnConfig.RuntimeParams["application_name"] = "oauth_mail outbox"
	}
	if c.dial != nil {
		p.ConnConfig.DialFunc = c.dial
	}
	p.AfterConnect = c.prepare
	return pgxpool.NewWithConfig(ctx, p)
}

// prepare makes a session one that keeps the outbox's promises. A setting of the
// server that promises more is left as it is.
func (c *Config) prepare(ctx context.Context, conn *pgx.Conn) error {
	var commit, encoding string
	err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('server_encoding')`).Scan(&commit, &encoding)
	if err != nil {
		return err
	}
	set := `SET search_path = ` + pgx.Identifier{c.Schema}.Sanitize() + `; SET default_transaction_isolation = 'read committed';` +
		// An instance that stands still must not keep others from its rows.
		`SET idle_in_transaction_session_timeout = '15s'`
	if commit != "on" && commit != "remote_apply" {
		set += `; SET synchronous_commit = on`
	}
	if _, err := conn.Exec(ctx, set); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit')`).Scan(&commit); err != nil {
		return err
	}
	if commit != "on" && commit != "remote_apply" {
		return fmt.Errorf("the session's synchronous_commit is %s and cannot be changed: what is accepted would not be safe", commit)
	}
	return nil
}

// timing are the engine's own intervals; tests shorten them.
type timing struct {
	beat time.Duration // of an instance
	dead time.Duration // without a beat
	poll time.Duration // of all lanes
	net  time.Duration // after which a job looks after a message that should have been tried
	// probe is how long a parked lane waits for the message that was to show whether
	// it can be opened.
	probe time.Duration
	// tenure is how long a lease is kept from others that wait, and idle how long when
	// nobody does.
	tenure, idle time.Duration
	// patience is how long Acquire waits itself.
	patience time.Duration
	// end is how long the outcomes are tried to be recorded when Run is over.
	end time.Duration
}

// fence is how long an instance that no beat was heard of begins something, and keeps
// idle connections. The rest of the time until it is taken for dead is for closing them.
func (t timing) fence() time.Duration { return t.dead * 3 / 4 }

func usualTiming() timing {
	return timing{
		beat: 3 * time.Second, dead: 12 * time.Second, poll: 2 * time.Second, net: 30 * time.Second, probe: 5 * time.Minute,
		tenure: 3 * time.Second, idle: 75 * time.Second, patience: 2 * time.Second, end: 30 * time.Second,
	}
}
