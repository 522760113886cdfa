//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// The programs of the README that send do so, and tell why they could not.
func TestREADMEPrograms(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	s := Start(t, Options{Outbox: true})
	tenant := onPostfix + "-password"
	here := strings.NewReplacer("https://mail.example.com", s.URL, "contoso.com", "example.com")
	for language, run := range map[string]struct {
		dir  string
		argv []string
		// succeeds tells that it ends well with an error, too: it prints the answer.
		succeeds bool
	}{
		"sh":     {".", []string{"bash", "-e"}, true},
		"js":     {"node", []string{"node", "--input-type=module", "-"}, false}, // where its package is
		"python": {".", []string{"/usr/bin/python3", "-"}, false},
		"php":    {".", []string{"php"}, false},
		"go":     {"resendgo", []string{"go", "run"}, false}, // where its module is
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			var program string
			for _, block := range fence.FindAllStringSubmatch(string(readme), -1) {
				if block[1] == language && strings.Contains(block[2], "you@example.net") {
					program = here.Replace(block[2])
				}
			}
			if program == "" {
				t.Fatal("the README has no such program")
			}
			with := func(key string) (string, error) {
				argv, input := run.argv, program
				if language == "go" { // it takes no program from its input
					file := filepath.Join(t.TempDir(), "main.go")
					if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
						t.Fatal(err)
					}
					argv, input = append(argv, file), ""
				}
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Dir, cmd.Stdin = run.dir, strings.NewReader(input)
				cmd.Env = append(os.Environ(), "WEBSHOP_KEY="+key)
				var said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &said, &said
				err := cmd.Run()
				return said.String(), err
			}
			said, err := with(s.keys[tenant])
			if err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			id := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindString(said)
			if id == "" {
				t.Fatalf("it has not told the id: %s", said)
			}
			d := s.mailbox.find(t, id)
			if got := read(t, readers[0].argv, []string{d.File})[0]; got.Subject != "Hello" || got.Text != "It works." || d.From != "noreply@example.com" {
				t.Errorf("%+v has arrived from %s", got, d.From)
			}
			said, err = with("a key that nobody knows here")
			if run.succeeds != (err == nil) || !strings.Contains(said, "The API key is not known here") {
				t.Errorf("with a wrong key: %v\n%s", err, said)
			}
		})
	}
}
