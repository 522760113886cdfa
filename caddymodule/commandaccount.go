package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// accountVerb is a verb whose first argument is an account.
func accountVerb(name, rest, short string, args cobra.PositionalArgs, run func(*commandLine, []string) error) *cobra.Command {
	cmd := verb(name+" <account>"+rest, short, args, run)
	cmd.Long = short + ".\n\n<account> is <provider>/<user>, a tenant's name, or a mailbox."
	return cmd
}

func disconnectCommand() *cobra.Command {
	cmd := accountVerb("disconnect", "", "Ends a sign-in, here and at the provider where that can be told", cobra.ExactArgs(1), (*commandLine).disconnect)
	cmd.Flags().Bool("yes", false, "Do not ask")
	return cmd
}

func refreshCommand() *cobra.Command {
	return accountVerb("refresh", "", "Renews an account's token now", cobra.ExactArgs(1), (*commandLine).refresh)
}

func importCommand() *cobra.Command {
	return accountVerb("import", " [<file>]", "Takes over a refresh token from elsewhere, from a file or the standard input", cobra.RangeArgs(1, 2), (*commandLine).importToken)
}

// account finds the account that an argument means.
func (c *commandLine) account(name string) (accountView, error) {
	var list struct {
		Accounts []accountView `json:"accounts"`
		Next     string        `json:"next"`
	}
	var found []accountView
	for after := ""; ; after = "?after=" + url.QueryEscape(list.Next) {
		list.Next = ""
		if err := c.get("/accounts"+after, &list); err != nil {
			return accountView{}, err
		}
		for _, a := range list.Accounts {
			is := strings.EqualFold(name, a.Provider+"/"+a.User) || strings.EqualFold(name, a.User)
			for _, tenant := range a.Tenants {
				is = is || tenant == name
			}
			if is {
				found = append(found, a)
			}
		}
		if list.Next == "" {
			break
		}
	}
	switch len(found) {
	case 0:
		return accountView{}, &exit{exitUsage, fmt.Sprintf("no account, tenant or mailbox is called %q; caddy oauth-mail status shows them", name)}
	case 1:
		return found[0], nil
	}
	names := make([]string, len(found))
	for i, a := range found {
		names[i] = a.Provider + "/" + a.User
	}
	return accountView{}, &exit{exitUsage, fmt.Sprintf("%q may mean %s; give one of these", name, strings.Join(names, " or "))}
}

func (a accountView) path(call string) string {
	return "/accounts/" + url.PathEscape(a.Provider) + "/" + url.PathEscape(a.User) + call
}

func (c *commandLine) disconnect(args []string) error {
	account, err := c.account(args[0])
	if err != nil {
		return err
	}
	if !c.set("yes") {
		fmt.Fprintf(c.err, "%s/%s will not send any more until somebody signs in again (tenants: %s). Go on? [y/N] ",
			account.Provider, account.User, strings.Join(account.Tenants, ", "))
		line, _ := bufio.NewReader(io.LimitReader(c.in, 1<<10)).ReadString('\n')
		if l := strings.ToLower(strings.TrimSpace(line)); l != "y" && l != "yes" {
			return &exit{exitFailed, "nothing was changed"}
		}
	}
	answer, err := c.do(http.MethodPost, account.path("/disconnect"), nil)
	if err != nil {
		return err
	}
	var v disconnection
	return c.show(answer, &v, func() {
		c.printf("Disconnected: %s/%s.\n", account.Provider, account.User)
		if !v.Revoked {
			c.printf("The provider could not be told: remove the application in the account's settings there, if it must end there, too.\n")
		}
	})
}

func (c *commandLine) refresh(args []string) error {
	account, err := c.account(args[0])
	if err != nil {
		return err
	}
	answer, err := c.do(http.MethodPost, account.path("/refresh"), nil)
	if err != nil {
		return err
	}
	var v accountView
	return c.show(answer, &v, func() {
		c.printf("Refreshed: %s/%s", v.Provider, v.User)
		if v.ExpiresAt != nil {
			c.printf(", good until %s", v.ExpiresAt.Local().Format(time.DateTime))
		}
		c.printf(".\n")
	})
}

// importToken reads a refresh token: never from the arguments, which all users of the
// machine can see.
func (c *commandLine) importToken(args []string) error {
	account, err := c.account(args[0])
	if err != nil {
		return err
	}
	source := c.in
	if len(args) == 2 && args[1] != "-" {
		f, err := os.Open(args[1])
		if err != nil {
			return &exit{exitUsage, err.Error()}
		}
		defer f.Close()
		source = f
	}
	text, err := io.ReadAll(io.LimitReader(source, 64<<10))
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return &exit{exitUsage, "there is no refresh token; give it in a file, or on the standard input"}
	}
	answer, err := c.do(http.MethodPost, account.path("/import"), map[string]string{"refresh_token": token})
	if err != nil {
		return err
	}
	var v completion
	return c.show(answer, &v, func() { c.signedIn(*v.Account, v.Doubt) })
}
