package caddymodule

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseOutbox takes the name of an engine, or off, and hands the rest to the
// engine's module.
func (a *App) parseOutbox(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Errf("wrong arguments: want outbox off, or outbox <engine> with what the engine takes, such as outbox %s", defaultEngine)
	}
	engine := d.Val()
	if _, err := caddy.GetModule(outboxNamespace + "." + engine); err != nil {
		return d.Errf("there is no outbox %s in this program, which has %s; others, such as river, are modules that Caddy is built with", engine, strings.Join(outboxEngines(), ", "))
	}
	module, err := caddyfile.UnmarshalModule(d, outboxNamespace+"."+engine)
	if err != nil {
		return err
	}
	a.OutboxRaw = caddyconfig.JSONModuleObject(module, "engine", engine, nil)
	return nil
}

// outboxEngines are the engines that this program has.
func outboxEngines() []string {
	modules := caddy.GetModules(outboxNamespace)
	names := make([]string, len(modules))
	for i, m := range modules {
		names[i] = m.ID.Name()
	}
	return names
}

// parseBrake takes a number above zero, or off.
func (t *Tenant) parseBrake(d *caddyfile.Dispenser) error {
	var s string
	if err := text(&s)(d); err != nil {
		return err
	}
	n, err := strconv.Atoi(s)
	switch {
	case s == "off":
		n = noBrake
	case err != nil || n < 1:
		return d.Errf("bad brake value '%s': must be a whole number above zero, or off", s)
	}
	t.Brake = n
	return nil
}
