//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// With a part that is missing the suite fails, and says which.
func TestBrokenPartsAreNamed(t *testing.T) {
	t.Parallel()
	for part, name := range map[string]string{
		"postfix": "Postfix", "dovecot": "Dovecot", "exim": "Exim", "smtp-server": "smtp-server",
		"oidc-provider": "oidc-provider", "chromium": "Chromium", "alertmanager": "Alertmanager",
	} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			tests := "^TestOneMessageThroughEachServer$"
			switch part {
			case "chromium":
				tests = "^TestSignInWithChromium$"
			case "alertmanager":
				tests = "^TestRecipes$/^run$/^Alertmanager$"
			}
			cmd := exec.Command(os.Args[0], "-test.run", tests)
			cmd.Env = append(os.Environ(), "E2E_BREAK="+part, "E2E_CADDY="+caddyBinary)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite passes without %s", name)
			}
			if !strings.Contains(string(out), name+" is missing or broken") {
				t.Errorf("the suite fails and does not name %s:\n%s", name, out)
			}
		})
	}
}
