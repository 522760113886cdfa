//go:build e2e

// Package e2e shows the plugin against servers that nobody here wrote: npm
// oidc-provider as the authorization server; Postfix with Dovecot, Exim and npm
// smtp-server as mail servers; a real Caddy process, built from this module, in
// between; Chromium and Resend's SDKs before it; Python's email package and npm
// mailparser behind it.
//
// Every test has a [Stack] of its own: processes on loopback, with ports and
// folders that no other run of the suite can have. Where there are too many cases
// for that, package mailer meets the mail servers without a Caddy, in a [lab].
// install.sh installs what is needed. A server that is missing or does not start
// fails the test and is named.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var (
	// suiteDir is where this run keeps everything. Postfix's and Dovecot's own
	// users must be able to pass through it.
	suiteDir string
	// caddyBinary is Caddy with this module and the race detector.
	caddyBinary string
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the time the tests wait for other processes.
	_ = flag.Set("test.parallel", "4")
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "e2e-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // see suiteDir
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	suiteDir = dir
	if os.Getenv("E2E_KEEP") == "" {
		defer os.RemoveAll(dir)
	}
	defer endAll()
	caddyBinary = os.Getenv("E2E_CADDY")
	if caddyBinary == "" {
		caddyBinary = filepath.Join(dir, "caddy")
		build := exec.Command("go", "build", "-race", "-o", caddyBinary, "../cmd/caddy")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: building Caddy: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// broken reports whether the part is to be broken on purpose. The variable
// E2E_BREAK names one: what it does then is fail as a broken installation would.
func broken(part string) bool { return part != "" && os.Getenv("E2E_BREAK") == part }

// program returns the path of a part's program, or of none where that part is
// broken on purpose.
func program(part, path string) string {
	if broken(part) {
		return path + ".broken-on-purpose"
	}
	return path
}
