package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/bolt"
)

func init() {
	caddy.RegisterModule(new(OutboxBbolt))
}

// defaultEngine is the engine where none is named.
const defaultEngine = "bbolt"

// OutboxBbolt keeps the outbox in a folder of its own, for this instance alone.
// What is in it is sealed with the keys that seal tokens.
type OutboxBbolt struct {
	// The folder, on a disk of this machine. Default: beside the storage's folder,
	// with `-oauth_mail-outbox` after its name; with other storages in Caddy's data
	// folder.
	Path string `json:"path,omitempty"`

	// The most that messages may take on the disk, in octets; further ones are
	// refused. At least 1 MiB. It counts from when the outbox is opened, which a reload
	// does not do again. Default: 2 GiB.
	MaxSize int64 `json:"max_size,omitempty"`
}

// minMaxSize is the least OutboxBbolt.MaxSize: below it, its unit was forgotten.
const minMaxSize = 1 << 20

// CaddyModule returns the Caddy module information.
func (*OutboxBbolt) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  outboxNamespace + "." + defaultEngine,
		New: func() caddy.Module { return new(OutboxBbolt) },
	}
}

// Provision finds the folder. It touches no file.
func (o *OutboxBbolt) Provision(ctx caddy.Context) error {
	if strings.Contains(o.Path, "{file.") {
		return errors.New("path: it takes the path of a folder, without {file.}")
	}
	path := liveText{text: o.Path, replacer: caddy.NewReplacer().WithoutFile()}
	var err error
	if o.Path, err = path.expand(); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	o.Path = cmp.Or(o.Path, defaultOutboxPath(ctx.Storage()))
	if o.Path, err = filepath.Abs(o.Path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if o.MaxSize != 0 && o.MaxSize < minMaxSize {
		return fmt.Errorf("max_size: %d octets are too few; it must be 1MiB or more, such as 2GiB", o.MaxSize)
	}
	return nil
}

// defaultOutboxPath lies beside the storage's folder, as the key file does: what
// takes the storage for its own must not come upon the outbox.
func defaultOutboxPath(storage certmagic.Storage) string {
	const name = "oauth_mail-outbox"
	if files, ok := storage.(*certmagic.FileStorage); ok {
		return filepath.Clean(files.Path) + "-" + name
	}
	return filepath.Join(caddy.AppDataDir(), name)
}

// OutboxKey is the folder.
func (o *OutboxBbolt) OutboxKey() string { return defaultEngine + ":" + o.Path }

// OutboxExists reports whether the folder holds an outbox.
func (o *OutboxBbolt) OutboxExists() bool { return bolt.Exists(o.Path) }

// OpenOutbox opens the folder.
func (o *OutboxBbolt) OpenOutbox(_ context.Context, sealer outbox.Sealer, logger *slog.Logger) (outbox.Engine, error) {
	engine, err := bolt.Open(o.Path, bolt.Options{Sealer: sealer, MaxBytes: o.MaxSize, Logger: logger})
	if err != nil {
		return nil, fileError(err)
	}
	return engine, nil
}

// Shared reports that one instance has the folder to itself.
func (*OutboxBbolt) Shared() bool { return false }

// UnmarshalCaddyfile sets up the engine from Caddyfile tokens. Syntax:
//
//	outbox bbolt [<folder>] {
//		max_size <size>
//	}
func (o *OutboxBbolt) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // name of the engine
	if d.NextArg() {
		o.Path = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return parseBlock(d, words{"max_size": single(size(&o.MaxSize))})
}

// size takes a number of octets above zero, such as 2GiB.
func size(n *int64) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var s string
		word := d.Val()
		if err := text(&s)(d); err != nil {
			return err
		}
		v, err := humanize.ParseBytes(s)
		if err != nil || v < 1 || v > math.MaxInt64 {
			return d.Errf("bad %s value '%s': must be a size above zero, such as 2GiB", word, s)
		}
		*n = int64(v)
		return nil
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*OutboxBbolt)(nil)
	_ caddyfile.Unmarshaler = (*OutboxBbolt)(nil)
	_ outboxEngine          = (*OutboxBbolt)(nil)
	_ outboxHolder          = (*OutboxBbolt)(nil)
)
