package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

const exampleFile = "../../Caddyfile.example"

// The constants of this program and Caddyfile.example say the same.
func TestConstantsAgreeWithExample(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nhttp://localhost:8025 {",
		"redirect_base " + strings.TrimSuffix(callbackURL, "/"+provider) + "\n",
		"provider " + provider + " {",
		fmt.Sprintf("display_name %q\n", providerTitle),
		"issuer " + issuerURL + "\n",
		"client_id " + clientID + "\n",
		"client_secret " + clientSecret + "\n",
		fmt.Sprintf("server plaintext://localhost:%d\n", inboxPort),
		"user " + mailbox + "\n",
		" " + apiKey + " default\n",
	} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s does not say %q", exampleFile, want)
		}
	}
	for url, port := range map[string]int{pluginURL: pluginPort, issuerURL: idpPort, pageURL: pagePort} {
		if url != fmt.Sprintf("http://localhost:%d", port) {
			t.Errorf("%s is not port %d", url, port)
		}
	}
	hash := regexp.MustCompile(`\n\s*` + operator + ` (\$2[aby]\$\S+)\n`).FindSubmatch(b)
	if hash == nil {
		t.Fatalf("%s has no password for %q", exampleFile, operator)
	}
	if err := bcrypt.CompareHashAndPassword(hash[1], []byte(password)); err != nil {
		t.Errorf("the operator's password: %v", err)
	}
}

func TestFindAbove(t *testing.T) {
	got, err := findAbove("Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	want, err := filepath.Abs(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	t.Chdir(t.TempDir())
	_, err = findAbove("Caddyfile.example")
	if err == nil || !strings.Contains(err.Error(), "-config") {
		t.Errorf("err = %v", err)
	}
}

func TestParseOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args string
		want string // in the error; "" wants none
		is   error
	}{
		{args: "-check -break idp -token-life 1m -v"},
		{args: "-break cable", want: "smtp or idp"},
		{args: "-token-life 1ms", want: "too short"},
		{args: "now", want: "unexpected argument"},
		{args: "-nonsense", want: "usage", is: errUsage},
		{args: "-h", want: "help", is: flag.ErrHelp},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			_, err := parseOptions(strings.Fields(tt.args), new(bytes.Buffer))
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("err = %v, want %v", err, tt.is)
			}
		})
	}
}
