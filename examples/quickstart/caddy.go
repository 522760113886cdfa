package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule"
)

// isolateCaddy points everything that Caddy keeps on disk into dir, so that a Caddy which lives on this machine, its
// certificates and its tokens are neither read nor touched. It must come before startCaddy.
func isolateCaddy(dir string) error {
	// Caddy's own id, among others, is kept there and not in the storage.
	for name, sub := range map[string]string{"XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config"} {
		err := os.Setenv(name, filepath.Join(dir, sub))
		if err != nil {
			return err
		}
	}
	caddy.ConfigAutosavePath = filepath.Join(dir, "config", "autosave.json")
	caddy.DefaultStorage = &certmagic.FileStorage{Path: filepath.Join(dir, "storage")}
	return nil
}

// startCaddy runs a Caddyfile inside this process. name stands in error messages. Warnings and worse go to standard
// error, or everything when verbose.
func startCaddy(caddyfile []byte, name string, verbose bool) error {
	config, err := adaptCaddyfile(caddyfile, name, verbose)
	if err != nil {
		return err
	}
	err = caddy.Load(config, true)
	if err != nil {
		return fmt.Errorf("starting Caddy with %s: %w", name, err)
	}
	return nil
}

func adaptCaddyfile(caddyfile []byte, name string, verbose bool) ([]byte, error) {
	adapter := caddyconfig.GetAdapter("caddyfile")
	adapted, _, err := adapter.Adapt(caddyfile, map[string]any{"filename": name})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	var config map[string]json.RawMessage
	err = json.Unmarshal(adapted, &config)
	if err != nil {
		return nil, fmt.Errorf("reading the adapted %s: %w", name, err)
	}
	config["logging"], err = json.Marshal(map[string]any{"logs": logs(verbose)})
	if err != nil {
		return nil, err
	}
	return json.Marshal(config)
}

// logs is Caddy's logging configuration. The loggers admin and http warn at each start of what is meant here: no admin
// endpoint, no TLS. So their own words are left out, and http's descendants, which tell of failed requests, kept.
func logs(verbose bool) map[string]any {
	to := func(level string, extra map[string]any) map[string]any {
		log := map[string]any{
			"level":   level,
			"writer":  map[string]string{"output": "stderr"},
			"encoder": map[string]string{"format": "console", "level_format": "upper"},
		}
		maps.Copy(log, extra)
		return log
	}
	if verbose {
		return map[string]any{"default": to("DEBUG", nil)}
	}
	return map[string]any{
		"default": to("WARN", map[string]any{"exclude": []string{"admin", "http"}}),
		"http":    to("WARN", map[string]any{"include": []string{"http.handlers", "http.log", "http.auto_https"}}),
	}
}

// stopCaddy stops what startCaddy started.
func stopCaddy() error { return caddy.Stop() }
