package tokens

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps this package, its test doubles included, free of what it
// must not know.
func TestImports(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	const module = "github.com/caddy-oauth-mail/caddy-oauth-mail"
	for path := range strings.FieldsSeq(string(out)) {
		for _, forbidden := range []string{
			module + "/mailer",
			module + "/caddymodule",
			"github.com/caddyserver",
			"go.uber.org/zap",
			"github.com/prometheus",
		} {
			if path == forbidden || strings.HasPrefix(path, forbidden+"/") {
				t.Errorf("imports %s", path)
			}
		}
	}
}
