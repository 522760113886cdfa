package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

func init() {
	callAsSendmail()
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "oauth-mail",
		Usage: "<command>",
		Short: "Signs in to mail accounts, tests tenants, sends, and looks after messages",
		Long: `
Looks after the app oauth_mail of the Caddy that runs on this machine, by
Caddy's admin API at '` + caddy.DefaultAdminListen + `'; --address names another one, and --config
a configuration that does.

Everybody who reaches that API may look. To change something, the command
needs the management token, which it finds by itself when it runs as root or
as Caddy's user; --token-file names another file.

With --json the answers are JSON, one value or one line each, for scripts.

Exit codes: 0 all is well; 1 it failed; 2 wrong arguments; 3 no Caddy with
oauth_mail answers; 4 not allowed; 10 and 11 of status: something is not as
it should be, mail does not flow; 12 a test failed, or a message is refused.
The command sendmail has those of sysexits.h.`,
		CobraFunc: func(cmd *cobra.Command) {
			group(cmd)
			f := cmd.PersistentFlags()
			f.String("address", "", "Address of Caddy's admin API (if --config is not used)")
			f.StringP("config", "c", "", "Configuration file that names it (if --address is not used)")
			f.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
			f.String("token-file", "", "File with the management token (default: where the server says)")
			f.Bool("json", false, "Print JSON")
			f.String("lang", "", "Language of diagnoses: en or ja (default: that of the environment)")
			cmd.AddCommand(statusCommand(), authorizeCommand(), disconnectCommand(), refreshCommand(), importCommand(),
				testCommand(), sendCommand(), sendmailCommand(), outboxCommand(), logCommand(), keyCommand(), inventoryCommand(), passwordCommand(), checkCommand())
		},
	})
}

// The exit codes.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitAway       = 3
	exitDenied     = 4
	exitDegraded   = 10
	exitFailing    = 11
	exitTestFailed = 12
)

// exit ends a command with a code. Its text, if there is one, tells the user why.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

// commandLine is a command that runs: where it talks to its user, and to the server.
type commandLine struct {
	cmd      *cobra.Command
	in       io.Reader
	out, err io.Writer
	json     bool
	language diagnosis.Language
	// api is the server; see connect.
	api *adminClient
}

// verb makes a command. Its errors are told in plain words, and become exit codes.
func verb(use, short string, args cobra.PositionalArgs, run func(*commandLine, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, SilenceUsage: true, SilenceErrors: true}
	// What cobra finds to be wrong would end with 1.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return newCommandLine(cmd).end(&exit{exitUsage, err.Error() + "; see " + cmd.CommandPath() + " --help"})
	})
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		c := newCommandLine(cmd)
		if args != nil {
			if err := args(cmd, given); err != nil {
				return c.end(&exit{exitUsage, err.Error() + "; it is " + cmd.UseLine()})
			}
		}
		return c.end(run(c, given))
	}
	cmd.Args = cobra.ArbitraryArgs
	return cmd
}

// group makes a command of commands: alone it shows them.
func group(cmd *cobra.Command) {
	cmd.SilenceUsage, cmd.SilenceErrors, cmd.Args = true, true, cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return newCommandLine(cmd).end(&exit{exitUsage, fmt.Sprintf("there is no command %q; see %s --help", args[0], cmd.CommandPath())})
	}
}

func newCommandLine(cmd *cobra.Command) *commandLine {
	c := &commandLine{cmd: cmd, in: cmd.InOrStdin(), err: plainWriter{cmd.ErrOrStderr()}, language: languageOfEnvironment(cmd)}
	c.json, _ = cmd.Flags().GetBool("json")
	c.out = cmd.OutOrStdout()
	if !c.json {
		c.out = plainWriter{c.out}
	}
	return c
}

// end tells an error and makes of it what Caddy's main understands.
func (c *commandLine) end(err error) error {
	if err == nil {
		return nil
	}
	code := exitFailed
	if e, ok := errors.AsType[*exit](err); ok {
		code = e.code
	}
	if text := strings.TrimSpace(err.Error()); text != "" {
		fmt.Fprintln(c.err, capitalized(strings.TrimSuffix(text, "."))+".")
	}
	if code == exitFailed {
		return err
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(c.cmd, nil)
}

// printf writes for people.
func (c *commandLine) printf(format string, args ...any) { fmt.Fprintf(c.out, format, args...) }

// show prints an answer: as it is with --json, else by the given func.
func (c *commandLine) show(answer json.RawMessage, into any, people func()) error {
	if c.json {
		_, err := fmt.Fprintln(c.out, strings.TrimSpace(string(answer)))
		return err
	}
	if err := understand(answer, into); err != nil {
		return err
	}
	people()
	return nil
}

// understand reads an answer of the server.
func understand(answer json.RawMessage, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the server's answer is not understood, is it of another version? %w", err)
	}
	return nil
}

// tell prints what happens on the way: a line of JSON, or a text for people.
func (c *commandLine) tell(event map[string]any, people string) {
	if !c.json {
		c.printf("%s\n", people)
		return
	}
	line, _ := json.Marshal(event) // texts and numbers
	fmt.Fprintln(c.out, string(line))
}

func (c *commandLine) text(flag string) string {
	v, _ := c.cmd.Flags().GetString(flag)
	return v
}

func (c *commandLine) texts(flag string) []string {
	v, _ := c.cmd.Flags().GetStringArray(flag)
	return v
}

func (c *commandLine) set(flag string) bool {
	v, _ := c.cmd.Flags().GetBool(flag)
	return v
}

// languageOfEnvironment is the language of who sits there.
func languageOfEnvironment(cmd *cobra.Command) diagnosis.Language {
	lang, _ := cmd.Flags().GetString("lang")
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if lang == "" {
			lang = os.Getenv(name)
		}
	}
	if strings.HasPrefix(lang, "ja") {
		return diagnosis.Japanese
	}
	return diagnosis.English
}

// plainWriter leaves out what a terminal would obey: answers have the words of mail
// servers and providers in them, who are strangers.
type plainWriter struct{ w io.Writer }

func (p plainWriter) Write(b []byte) (int, error) {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return -1
		}
		return r
	}, string(b))
	if _, err := io.WriteString(p.w, clean); err != nil {
		return 0, err
	}
	return len(b), nil
}
