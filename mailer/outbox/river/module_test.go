package river

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func provision(t *testing.T, m *Module) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := m.Provision(ctx); err != nil {
		return err
	}
	return m.Validate()
}

func TestCaddyfile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		want Module
		err  string
	}{
		{"river {\n dsn {env.X}\n schema mail\n max_connections 8\n}", Module{DSN: "{env.X}", Schema: "mail", MaxConnections: 8}, ""},
		{"river", Module{}, ""},
		{"river here", Module{}, "argument"},
		{"river {\n dsn\n}", Module{}, "argument"},
		{"river {\n max_connections 1\n}", Module{}, "from 4 on"},
		{"river {\n colour red\n}", Module{}, "unknown word"},
	} {
		var m Module
		err := m.UnmarshalCaddyfile(caddyfile.NewTestDispenser(tt.text))
		if tt.err == "" && (err != nil || m != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: %+v, %v", tt.text, m, err)
		}
	}
}

func TestModule(t *testing.T) {
	t.Parallel()
	info, err := caddy.GetModule("oauth_mail.outbox.river")
	if err != nil {
		t.Fatal(err)
	}
	m := info.New().(interface {
		OutboxKey() string
		OpenOutbox(ctx context.Context, sealer outbox.Sealer, logger *slog.Logger) (outbox.Engine, error)
		Shared() bool
	})
	if !m.Shared() {
		t.Error("not shared")
	}
	river := m.(*Module)
	schema := newSchema()
	file := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(file, []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	river.DSN, river.Schema = "{file."+file+"}", schema
	if err := provision(t, river); err != nil {
		t.Fatal(err)
	}
	e, err := m.OpenOutbox(t.Context(), newSealer(), logger(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	other := &Module{DSN: river.DSN, Schema: schema, MaxConnections: 5}
	if err := provision(t, other); err != nil {
		t.Fatal(err)
	}
	if other.OutboxKey() != river.OutboxKey() {
		t.Error("another number of connections makes another engine")
	}
	other.Schema = "other"
	if err := provision(t, other); err != nil {
		t.Fatal(err)
	}
	if other.OutboxKey() == river.OutboxKey() {
		t.Error("another schema makes no other engine")
	}
}

// A password is in no error, no key and no dump.
func TestPasswordIsSecret(t *testing.T) {
	t.Parallel()
	const password = "hunter2hunter2"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dsn := range []string{
		"postgres://u:{file." + file + "}@127.0.0.1:1/db?connect_timeout=1",
		"postgres://u:{file." + file + "}@127.0.0.1:port/db", // no port
		"host=127.0.0.1 port=1 user=u password={file." + file + "} connect_timeout=1",
		"host=127.0.0.1 password={file." + file + "} sslmode=nonsense",
		"password {file." + file + "}",
		"postgres://u:{file." + file + "}#@127.0.0.1/db",
	} {
		m := &Module{DSN: dsn}
		err := provision(t, m)
		if err == nil {
			_, err = m.OpenOutbox(t.Context(), newSealer(), logger(t))
		}
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", dsn, err)
		}
		dump, err := json.Marshal(m)
		if err != nil || strings.Contains(string(dump)+m.OutboxKey(), "hunter2") {
			t.Errorf("%s: %s, %s, %v", dsn, dump, m.OutboxKey(), err)
		}
	}
	for _, dsn := range []string{"", "{env.OUTBOX_RIVER_NO_SUCH_VARIABLE}", "{file./no/such/file}"} {
		if err := provision(t, &Module{DSN: dsn}); err == nil {
			t.Errorf("dsn %q is taken", dsn)
		}
	}
	if err := provision(t, &Module{DSN: "host=x", Schema: "Not A Name"}); err == nil {
		t.Error("a schema with spaces is taken")
	}
}
