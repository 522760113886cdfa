//go:build endurance

// The proofs on the whole program. Those for every commit take some two minutes:
//
//	go test -tags endurance -count=1 -timeout 5m ./caddymodule/endurance/...
//
// With -kills 200, -reloads 1000, -queued 1000000, -crowd 1000 and -hold 10m they are those of the
// long suite.
package endurance

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule"
)

var (
	kills   = flag.Int("kills", 20, "how often Caddy is killed; a hundred messages are accepted for each, or fifty where there are more than a hundred kills")
	reloads = flag.Int("reloads", 20, "how often Caddy reloads")
)

func TestMain(m *testing.M) {
	for as, serve := range map[string]func(io.Reader, io.Writer) error{asSink: serveSink, asLeastRelay: serveLeastRelay} {
		if os.Getenv(as) == "" {
			continue
		}
		if err := serve(os.Stdin, os.Stdout); !errors.Is(err, io.EOF) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	Main(m)
}
