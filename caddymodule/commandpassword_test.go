package caddymodule

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
)

// TestCommandPassword: a password is made and shown once; the device signs in with it
// where the configuration has its hash, and the log never has it.
func TestCommandPassword(t *testing.T) {
	t.Parallel()
	p := configureCaddy(t, tenantAt("127.0.0.1:9"), "")
	r := p.run("", "password")
	said := regexp.MustCompile(`(?s)^.*\n\n  ([a-z2-9]{16})\n\n.*\n\n  (\$2a\$10\$[./A-Za-z0-9]{53})\n$`).FindStringSubmatch(r.out)
	if r.code != 0 || said == nil {
		t.Fatalf("%+v", r)
	}
	var v struct{ Password, Hash string }
	if r = p.run("", "password", "--json", "--length", "20"); json.Unmarshal([]byte(r.out), &v) != nil || len(v.Password) != 20 || !strings.HasPrefix(v.Hash, "$2a$") {
		t.Errorf("as JSON: %+v", r)
	}
	for _, args := range [][]string{{"--length", "11"}, {"--length", "65"}, {"copier"}} {
		if r := p.run("", append([]string{"password"}, args...)...); r.code != exitUsage || r.out != "" {
			t.Errorf("%q: %+v", args, r)
		}
	}

	address := freeAddress(t)
	s := startCaddy(t, tenantAt("127.0.0.1:9")+fmt.Sprintf("smtp %s {\ntls off\nplaintext_auth 127.0.0.1\nuser copier %s default\nuser scanner %s default\n}\n", address, said[2], v.Hash))
	for user, word := range map[string]string{"copier": said[1], "scanner": v.Password} {
		if err := dialSMTP(t, address, nil, false).Auth(sasl.NewLoginClient(user, word)); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	if err := dialSMTP(t, address, nil, false).Auth(sasl.NewLoginClient("copier", v.Password)); code(err) != "535 5.7.8" {
		t.Errorf("with another's password: %v", err)
	}
	if log := s.output.String(); strings.Contains(log, said[1]) || strings.Contains(log, v.Password) {
		t.Error("a password is in the log")
	}
}

// TestRandomPassword: all letters come up, about as often, and no two passwords are the
// same.
func TestRandomPassword(t *testing.T) {
	t.Parallel()
	counts := make(map[rune]int)
	seen := make(map[string]bool)
	const n = 4000
	for range n {
		word := randomPassword(usualPassword)
		if seen[word] {
			t.Fatal("the same twice")
		}
		seen[word] = true
		for _, letter := range word {
			counts[letter]++
		}
	}
	for _, letter := range passwordLetters {
		if got, usual := counts[letter], n*usualPassword/len(passwordLetters); got < usual*3/4 || got > usual*5/4 {
			t.Errorf("%c comes %d times, want about %d", letter, got, usual)
		}
	}
	if len(counts) != 32 {
		t.Errorf("%d letters", len(counts))
	}
}
