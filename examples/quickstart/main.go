// Quickstart shows caddy-oauth-mail on a machine that has nothing but Go. One process holds Caddy with the plugin, an
// authorization server, a mail server and a page with the mails that arrived:
//
//	go run ./examples/quickstart
//
// With -check it goes the whole way by itself and says whether a mail arrived.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// What Caddyfile.example says; a test holds the two together.
const (
	pluginPort = 8025
	idpPort    = 8026
	pagePort   = 8027
	inboxPort  = 8587

	provider     = "quickstart"
	clientID     = "quickstart"
	clientSecret = "quickstart-client-secret"
	mailbox      = "sender@example.com"
	operator     = "operator"
	password     = "quickstart"
	apiKey       = "quickstart-api-key-0123456789"

	pluginURL   = "http://localhost:8025"
	issuerURL   = "http://localhost:8026"
	pageURL     = "http://localhost:8027"
	callbackURL = pluginURL + "/oauth/callback/" + provider

	stranger  = "somebody-else@example.com"
	recipient = "you@example.net"

	// What a person reads on the way: on the page's button, and as the provider's name.
	connectButton = "Connect the account"
	providerTitle = "Quickstart sign-in"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the process at once
	}()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// errUsage ends the program after the flag package has said what is wrong.
var errUsage = errors.New("wrong usage")

// options are the command line's.
type options struct {
	config    string
	tokenLife time.Duration
	check     bool
	breakPart string
	verbose   bool
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.config, "config", "", "the Caddyfile to run (default Caddyfile.example, here or in a folder above)")
	f.DurationVar(&o.tokenLife, "token-life", time.Hour, "how long access tokens live; 1m shows the plugin refreshing")
	f.BoolVar(&o.check, "check", false, "go the whole way without a person, then exit; the exit code is 0 if a mail arrived")
	f.StringVar(&o.breakPart, "break", "", "break a part on purpose: `smtp` (no mail server) or idp (no tokens)")
	f.BoolVar(&o.verbose, "v", false, "log everything")
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return o, err
	}
	if err != nil {
		return o, errUsage
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.breakPart != "" && o.breakPart != "smtp" && o.breakPart != "idp":
		return o, fmt.Errorf("-break takes smtp or idp, not %q", o.breakPart)
	case o.tokenLife < time.Second:
		return o, fmt.Errorf("-token-life %v is too short", o.tokenLife)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	if o.config == "" {
		o.config, err = findAbove("Caddyfile.example")
		if err != nil {
			return err
		}
	}
	caddyfile, err := os.ReadFile(o.config)
	if err != nil {
		return err
	}
	// The embedded authorization server reports through slog what its callers did wrong.
	level := slog.LevelError
	if o.verbose {
		level = slog.LevelDebug
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))

	b, err := startParts(ctx, o, caddyfile)
	if err != nil {
		return errors.Join(err, b.stop())
	}
	if o.check {
		err = check(ctx, b, stdout)
		return errors.Join(err, b.stop())
	}
	printSteps(stdout, b, o)
	<-ctx.Done()
	fmt.Fprintln(stdout, "\nStopping.")
	return b.stop()
}

func check(ctx context.Context, b *parts, stdout io.Writer) error {
	t := &trip{
		plugin: b.plugin, inbox: b.inbox, issuer: issuerURL,
		provider: provider, mailbox: mailbox, recipient: recipient, out: stdout,
	}
	began := time.Now()
	err := t.run(ctx)
	if err != nil {
		return fmt.Errorf("check failed at %w", err)
	}
	fmt.Fprintf(stdout, "check passed: a mail went all the way in %v\n", time.Since(began).Round(time.Millisecond))
	return nil
}

// findAbove looks for a file in the working directory and the directories above it.
func findAbove(name string) (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("%s is neither in %s nor above it: run this from the repository, or name the file with -config", name, start)
		}
		dir = up
	}
}

func printSteps(w io.Writer, b *parts, o options) {
	fmt.Fprintf(w, `caddy-oauth-mail quickstart is running. Ctrl-C stops it; nothing is kept.
Caddy's warnings are expected: the example keeps its secrets in clear, speaks plaintext on loopback, and nobody has
signed in yet.

  1. Connect the account: open %s and press "%s",
     then "Continue to %s", then "Sign in as %s".

  2. Post a mail:
     %s

  3. See it arrive: %s

`, pageURL, connectButton, providerTitle, mailbox, curlLine(b.plugin), pageURL)
	if o.breakPart != "" {
		fmt.Fprintln(w, "  "+breakNote(o.breakPart)+"\n")
	}
}

// curlLine answers the command that posts a mail, as the shell of this system wants it quoted.
func curlLine(p *plugin) string {
	body := fmt.Sprintf(`{"from":"Quickstart <%s>","to":"%s","subject":"Hello from curl","text":"It works."}`, mailbox, recipient)
	quoted := "'" + body + "'"
	q := "'"
	if runtime.GOOS == "windows" {
		quoted, q = fmt.Sprintf("%q", body), `"`
	}
	return fmt.Sprintf("curl %s/emails -H %sAuthorization: Bearer %s%s -H %sContent-Type: application/json%s -d %s",
		p.base, q, p.key, q, q, q, quoted)
}

func breakNote(part string) string {
	switch part {
	case "smtp":
		return "Broken on purpose (-break smtp): no mail server answers, so no mail goes out."
	case "idp":
		return "Broken on purpose (-break idp): the authorization server gives no tokens, so connecting fails."
	}
	return ""
}

func newPlugin() *plugin {
	return &plugin{
		base: pluginURL, operator: operator, password: password, key: apiKey,
		client: &http.Client{},
	}
}
