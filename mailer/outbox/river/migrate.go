package river

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockKey names an advisory lock of a schema.
func (e *Engine) lockKey(what string) int64 {
	h := fnv.New64a()
	h.Write([]byte("oauth_mail\x00" + e.Schema + "\x00" + what))
	return int64(h.Sum64())
}

// migrate brings the tables, our own and River's, to this version. Instances that
// start at once do it one after the other. Tables of a newer version are refused, as
// nobody knows what it changed.
func (e *Engine) migrate(ctx context.Context) error {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	// The lock is the session's: River migrates over other connections.
	key := e.lockKey("migrate")
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		return err
	}
	defer func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, key); err != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx)) // which gives it up, too
		}
	}()
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return e.migrateOwn(ctx, tx) }); err != nil {
		return missingRight(err, e.Schema)
	}
	return missingRight(e.migrateRiver(ctx), e.Schema)
}

func (e *Engine) migrateOwn(ctx context.Context, tx pgx.Tx) error {
	var there bool
	// IF NOT EXISTS would ask for the right to make a schema even where there is one.
	if err := tx.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, e.Schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := tx.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{e.Schema}.Sanitize()); err != nil {
			return err
		}
	}
	if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, e.Schema+".outbox_version").Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := tx.Exec(ctx, `CREATE TABLE outbox_version (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())`); err != nil {
			return err
		}
	}
	var version int
	if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM outbox_version`).Scan(&version); err != nil {
		return err
	}
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(files)
	if version > len(files) {
		return fmt.Errorf("the tables in schema %s are of version %d, and this program knows %d: use the newer program on all instances", e.Schema, version, len(files))
	}
	for i, file := range files[version:] {
		sql, err := migrations.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, string(sql)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO outbox_version (version) VALUES ($1)`, version+i+1); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) migrateRiver(ctx context.Context) error {
	m, err := rivermigrate.New(riverpgxv5.New(e.pool), &rivermigrate.Config{Logger: e.riverLogger(), Schema: e.Schema})
	if err != nil {
		return err
	}
	known := 0
	for _, v := range m.AllVersions() {
		known = max(known, v.Version)
	}
	existing, err := m.ExistingVersions(ctx)
	if err != nil {
		return err
	}
	for _, v := range existing {
		if v.Version > known {
			return fmt.Errorf("river's tables in schema %s are of version %d, and this program knows %d: use the newer program on all instances", e.Schema, v.Version, known)
		}
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// missingRight says what to do where the user may not.
func missingRight(err error, schema string) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" {
		return fmt.Errorf("%w: let the database's owner run CREATE SCHEMA %s AUTHORIZATION <user>", err, schema)
	}
	return err
}
