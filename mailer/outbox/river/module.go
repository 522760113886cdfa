package river

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func init() {
	caddy.RegisterModule(Module{})
}

// Module is the outbox on a PostgreSQL database that several instances share.
//
//	outbox river {
//		dsn             <dsn>
//		schema          <name>
//		max_connections <number>
//	}
type Module struct {
	// DSN says where the database is: a URL, or key=value. Placeholders such as
	// {env.OUTBOX_DSN} and {file./run/secrets/outbox-dsn} are replaced when the
	// configuration is loaded.
	DSN string `json:"dsn,omitempty"`
	// Schema has the tables: oauth_mail. Instances with the same one are one fleet.
	Schema string `json:"schema,omitempty"`
	// MaxConnections is the most connections to the database: 16, and one that listens.
	MaxConnections int `json:"max_connections,omitempty"`

	// dsn has its placeholders replaced. It is never part of the configuration.
	dsn    string
	schema string
}

var (
	_ caddy.Provisioner     = (*Module)(nil)
	_ caddy.Validator       = (*Module)(nil)
	_ caddyfile.Unmarshaler = (*Module)(nil)
)

// CaddyModule returns the module's name and how to make it.
func (Module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "oauth_mail.outbox.river",
		New: func() caddy.Module { return new(Module) },
	}
}

// Provision replaces the placeholders. It does not connect.
func (m *Module) Provision(ctx caddy.Context) error {
	r := caddy.NewReplacer()
	var err error
	if m.dsn, err = expand(r, m.DSN); err != nil {
		return fmt.Errorf("outbox river, dsn: %w", err)
	}
	if m.schema, err = expand(r, m.Schema); err != nil {
		return fmt.Errorf("outbox river, schema: %w", err)
	}
	if m.DSN != "" && !strings.Contains(m.DSN, "{") && hasPassword(m.DSN) {
		ctx.Slogger().Warn("a secret stands in the configuration in clear; better use {file.*} or {env.*}", "place", "outbox river", "setting", "dsn")
	}
	return nil
}

// expand replaces placeholders, once: nothing in a value is taken for another one. An
// error names the placeholder and shows no value.
func expand(r *caddy.Replacer, s string) (string, error) {
	if !strings.Contains(s, "{") {
		return s, nil
	}
	return r.ReplaceFunc(s, func(name string, value any) (any, error) {
		v := strings.TrimRight(caddy.ToString(value), "\r\n") // as files end
		if v == "" {
			return nil, fmt.Errorf("{%s} has no value", name)
		}
		return v, nil
	})
}

// hasPassword reports whether a DSN seems to hold one.
func hasPassword(dsn string) bool {
	if strings.Contains(dsn, "password=") {
		return true
	}
	_, rest, isURL := strings.Cut(dsn, "://")
	user, _, hasUser := strings.Cut(rest, "@")
	return isURL && hasUser && strings.Contains(user, ":")
}

// Validate checks what can be checked without the database.
func (m *Module) Validate() error {
	if m.DSN == "" {
		return errors.New("outbox river: dsn is missing; it says where the database is, such as {env.OUTBOX_DSN}")
	}
	c := m.config(nil, nil)
	c.Sealer = noSealer{}
	c, err := c.withDefaults()
	if err != nil {
		return fmt.Errorf("outbox river: %w", err)
	}
	pool, err := c.pool(context.Background()) // which connects when it is used
	if err != nil {
		return fmt.Errorf("outbox river: %w", err)
	}
	pool.Close()
	return nil
}

// noSealer stands for the one that is not there yet.
type noSealer struct{ outbox.Sealer }

func (m *Module) config(sealer outbox.Sealer, logger *slog.Logger) Config {
	return Config{DSN: m.dsn, Schema: m.schema, MaxConnections: m.MaxConnections, Sealer: sealer, Logger: logger}
}

// OutboxKey tells engines apart. It shows nothing of the DSN.
func (m *Module) OutboxKey() string {
	schema := m.schema
	if schema == "" {
		schema = defaultSchema
	}
	sum := sha256.Sum256([]byte(m.dsn + "\x00" + schema))
	return "river:" + hex.EncodeToString(sum[:16])
}

// OpenOutbox connects to the database and brings its tables to this version.
func (m *Module) OpenOutbox(ctx context.Context, sealer outbox.Sealer, logger *slog.Logger) (outbox.Engine, error) {
	e, err := Open(ctx, m.config(sealer, logger))
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Shared reports that several instances may use the outbox.
func (*Module) Shared() bool { return true }

// UnmarshalCaddyfile reads the block that is shown at [Module].
func (m *Module) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		word := d.Val()
		var value string
		if !d.AllArgs(&value) {
			return d.ArgErr()
		}
		switch word {
		case "dsn":
			m.DSN = value
		case "schema":
			m.Schema = value
		case "max_connections":
			n, err := strconv.Atoi(value)
			if err != nil || n < minConnections {
				return d.Errf("max_connections: want a number from %d on", minConnections)
			}
			m.MaxConnections = n
		default:
			return d.Errf("unknown word %q; there are dsn, schema and max_connections", word)
		}
	}
	return nil
}
