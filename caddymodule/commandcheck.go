package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"
)

func checkCommand() *cobra.Command {
	cmd := verb("check [<file>]", "Checks a configuration without a network, and tells what it lacks for mail", cobra.MaximumNArgs(1), (*commandLine).check)
	cmd.Flags().StringArray("envfile", nil, "File with variables of the environment, a NAME=value on each line; may be repeated")
	return cmd
}

// checkReport is what a configuration has and lacks.
type checkReport struct {
	File      string          `json:"file"`
	OK        bool            `json:"ok"`
	Error     string          `json:"error,omitempty"`
	Findings  []string        `json:"findings"`
	Providers []checkProvider `json:"providers"`
	Tenants   []string        `json:"tenants"`
	Keys      int             `json:"keys"`
	Endpoints []string        `json:"endpoints"`
}

type checkProvider struct {
	Name        string   `json:"name"`
	RedirectURI string   `json:"redirect_uri,omitempty"`
	Scopes      []string `json:"scopes"`
}

// check loads a configuration as `caddy validate` does, and looks at what it says of
// mail. Nothing is asked over a network, and no running server is disturbed.
func (c *commandLine) check(args []string) error {
	file := c.text("config")
	if len(args) > 0 {
		file = args[0]
	}
	for _, name := range c.texts("envfile") {
		if err := loadEnvFile(name); err != nil {
			return &exit{exitUsage, "--envfile: " + err.Error()}
		}
	}
	config, name, _, err := caddycmd.LoadConfig(file, c.text("adapter"))
	if err != nil {
		return err
	}
	if len(config) == 0 {
		return &exit{exitUsage, "there is no configuration; name a file"}
	}
	report := checkConfig(name, config)
	answer, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if err := c.show(answer, &report, func() { c.printReport(report) }); err != nil || report.OK {
		return err
	}
	return &exit{exitFailed, ""}
}

// checkConfig examines a configuration.
func checkConfig(name string, config []byte) checkReport {
	r := checkReport{File: name, Findings: []string{}, Providers: []checkProvider{}, Tenants: []string{}, Endpoints: []string{}}
	var parsed struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	cfg := new(caddy.Config)
	err := json.Unmarshal(config, &parsed)
	if err == nil {
		err = caddy.StrictUnmarshalJSON(config, cfg)
	}
	if err == nil {
		err = caddy.Validate(cfg)
	}
	if err != nil {
		r.Error = err.Error()
		// Through which of its modules Caddy came here helps nobody.
		if _, own, found := strings.Cut(r.Error, "provision oauth_mail: "); found {
			r.Error = own
		}
		return r
	}
	r.OK = true
	var app App
	if err := json.Unmarshal(parsed.Apps["oauth_mail"], &app); err != nil {
		r.Findings = append(r.Findings, "there is no oauth_mail in it")
		return r
	}
	var all any
	_ = json.Unmarshal(config, &all) // it was read above
	handlers := findHandlers(all)
	for _, h := range handlers {
		r.Endpoints = append(r.Endpoints, h.Endpoint)
	}
	slices.Sort(r.Endpoints)
	r.Endpoints = slices.Compact(r.Endpoints)
	r.Tenants, r.Keys = slices.Sorted(maps.Keys(app.Tenants)), len(app.Keys)
	people := false
	for _, name := range slices.Sorted(maps.Keys(app.Providers)) {
		p := app.Providers[name]
		v := checkProvider{Name: name, Scopes: p.Scopes, RedirectURI: p.RedirectURI}
		if p.Grant == "" || p.Grant == "authorization_code" {
			people = true
			if v.RedirectURI == "" && app.RedirectBase != "" {
				v.RedirectURI = strings.TrimSuffix(app.RedirectBase, "/") + "/" + name
			}
		}
		r.Providers = append(r.Providers, v)
	}
	r.Findings = append(r.Findings, lacks(&app, handlers, people)...)
	return r
}

// lacks tells what a configuration that can be loaded may have been meant to have.
func lacks(app *App, handlers []*Handler, people bool) []string {
	has := func(endpoint string) bool {
		return slices.ContainsFunc(handlers, func(h *Handler) bool { return h.Endpoint == endpoint })
	}
	var findings []string
	note := func(bad bool, format string, args ...any) {
		if bad {
			findings = append(findings, fmt.Sprintf(format, args...))
		}
	}
	note(len(app.Tenants) == 0, "there is no tenant: nothing can be sent until one is made at run time")
	note(people && app.RedirectBase == "", "people sign in, but there is no redirect_base: only sign-in by device code or by pasting works")
	note(people && app.RedirectBase != "" && !has(endpointCallback), "redirect_base is set, but no route has `oauth_mail callback`: sign-ins in a browser cannot end")
	note(len(app.Keys) > 0 && !has(endpointSend), "there are keys, but no route has `oauth_mail send`")
	note(len(app.SMTP) == 0 && !has(endpointSend), "there is neither `oauth_mail send` nor `smtp`: no program can send")
	for _, h := range handlers {
		note(h.AllowUnauthenticated, "`oauth_mail %s` is open to everybody who reaches it (allow_unauthenticated)", h.Endpoint)
	}
	for _, name := range slices.Sorted(maps.Keys(app.Providers)) {
		p := app.Providers[name]
		for i, credential := range p.Credentials {
			note(credential.Secret != "" && !strings.Contains(credential.Secret, "{"), "provider %s: client_secret %d stands in the configuration; put it into a file or the environment: {file.…}, {env.…}", name, i+1)
			note(credential.Secret != "" && credential.Expires == "" && !slices.Contains(lastingSecrets, p.Preset), "provider %s: say when client_secret %d ends (client_secret_expires), and you are told before", name, i+1)
		}
	}
	return findings
}

// lastingSecrets are the presets of vendors whose client secrets do not end by
// themselves.
var lastingSecrets = []string{"google", "yahoo", "aol", "fastmail"}

// loadEnvFile sets variables of the environment by a file as `caddy run --envfile` takes
// it; what is set already stays. A value is on one line.
func loadEnvFile(name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	values := make(map[string]string)
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		variable, value, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !found || variable == "" || strings.Contains(variable, " ") {
			return fmt.Errorf("%s, line %d: must be NAME=value", name, n) // the line may hold a secret
		}
		value, _, _ = strings.Cut(value, "#")
		value = strings.TrimRight(value, " \t")
		if quote := value[:min(1, len(value))]; quote == `"` || quote == "'" {
			if len(value) < 2 || !strings.HasSuffix(value, quote) {
				return fmt.Errorf("%s, line %d: the value has no end on this line", name, n)
			}
			value = value[1 : len(value)-1]
		}
		values[variable] = value
	}
	for variable, value := range values {
		if _, set := os.LookupEnv(variable); set {
			continue
		}
		if err := os.Setenv(variable, value); err != nil {
			return fmt.Errorf("%s, %s: %w", name, variable, err)
		}
	}
	return nil
}

// findHandlers finds the handlers oauth_mail anywhere in a configuration.
func findHandlers(v any) []*Handler {
	var found []*Handler
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			found = append(found, findHandlers(x)...)
		}
	case map[string]any:
		if v["handler"] == "oauth_mail" {
			text, _ := json.Marshal(v) // it came from JSON
			h := new(Handler)
			if json.Unmarshal(text, h) == nil {
				found = append(found, h)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			found = append(found, findHandlers(v[name])...)
		}
	}
	return found
}

func (c *commandLine) printReport(r checkReport) {
	if r.Error != "" {
		c.printf("%s cannot be used: %s\n", r.File, r.Error)
		return
	}
	c.printf("%s can be loaded.\n\n", r.File)
	for _, p := range r.Providers {
		c.printf("provider %s\n", p.Name)
		if p.RedirectURI != "" {
			c.printf("  redirect URI to register: %s\n", p.RedirectURI)
		}
		if len(p.Scopes) > 0 {
			c.printf("  scopes: %s\n", strings.Join(p.Scopes, " "))
		}
	}
	c.printf("tenants: %s\nkeys: %d\nmounted: %s\n", strings.Join(r.Tenants, ", "), r.Keys, strings.Join(r.Endpoints, ", "))
	for _, f := range r.Findings {
		c.printf("\n! %s\n", capitalized(f))
	}
	if len(r.Findings) == 0 {
		c.printf("\nNothing is missing.\n")
	}
}
