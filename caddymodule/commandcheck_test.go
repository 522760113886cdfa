package caddymodule

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandCheck: a configuration is checked with the variables that Caddy will have,
// and what is wrong is told without the way through Caddy's modules.
func TestCommandCheck(t *testing.T) {
	t.Parallel()
	const secret = "secret-of-24-characters-or-more"
	p := configureCaddy(t, strings.Replace(tenantAt("127.0.0.1:9"), testKey, "{env.CHECK_KEY}", 1)+`
		provider google {
			preset google
			client_id x
			client_secret {env.CHECK_KEY}
		}
		provider lab {
			issuer https://idp.example.net
			client_id x
			client_secret {env.CHECK_KEY}
			scopes smtp.send
			servers smtp.example.net
		}
`, "")
	for _, tt := range []struct {
		name, env string
		code      int
		says      string
	}{
		{"no variable", "", exitFailed, "Caddyfile cannot be used: provider google, client_secret: the environment variable CHECK_KEY is not set"},
		{"a variable", "CHECK_KEY=" + secret, 0, "can be loaded"},
		{"as a shell has it", "# comment\n\nexport CHECK_KEY=\"" + secret + "\" # more\n", 0, "can be loaded"},
		{"the last one counts", "CHECK_KEY=short\nCHECK_KEY='" + secret + "'\n", 0, "can be loaded"},
		{"one that is too short", "CHECK_KEY=short", exitFailed, "at least 24 characters"},
		{"no assignment", "CHECK_KEY: " + secret, exitUsage, "line 1: must be NAME=value"},
		{"a value without an end", "CHECK_KEY='" + secret, exitUsage, "line 1: the value has no end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "caddy.env")
			writeFile(t, file, []byte(tt.env))
			r := p.run("", "check", p.config, "--envfile", file)
			if all := r.out + r.err; r.code != tt.code || !strings.Contains(all, tt.says) || strings.Contains(all, secret) {
				t.Errorf("exit code %d, want %d with %q: %s", r.code, tt.code, tt.says, all)
			}
			// Google's secrets do not end.
			if tt.code == 0 && (!strings.Contains(r.out, "Provider lab: say when") || strings.Contains(r.out, "Provider google: say when")) {
				t.Errorf("said of ends: %s", r.out)
			}
		})
	}
	if r := p.run("", "check", p.config, "--envfile", "no-such-file"); r.code != exitUsage {
		t.Errorf("no file: %+v", r)
	}
}
