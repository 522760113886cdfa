package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func authorizeCommand() *cobra.Command {
	cmd := accountVerb("authorize", "", "Signs in to an account", cobra.ExactArgs(1), (*commandLine).authorize)
	cmd.Flags().String("flow", "auto", "How: browser, device, paste, or auto")
	cmd.Flags().Bool("no-open", false, "Open no browser")
	return cmd
}

// authorize has a person sign in, in the way that fits.
func (c *commandLine) authorize(args []string) error {
	account, err := c.account(args[0])
	if err != nil {
		return err
	}
	flow, err := c.chooseFlow(account)
	if err != nil {
		return err
	}
	answer, err := c.do(http.MethodPost, account.path("/authorize"), map[string]string{"flow": flow})
	if err != nil {
		return err
	}
	var begun invitation
	if err := understand(answer, &begun); err != nil {
		return err
	}
	switch flow {
	case flowDevice:
		return c.byDevice(account, begun)
	case flowPaste:
		return c.byPaste(account, begun)
	}
	return c.byBrowser(account, begun)
}

// chooseFlow is --flow, or what fits the provider and this machine.
func (c *commandLine) chooseFlow(account accountView) (string, error) {
	if flow := c.text("flow"); flow != "auto" {
		return flow, nil
	}
	var list struct {
		Providers []providerView `json:"providers"`
	}
	if err := c.get("/providers", &list); err != nil {
		return "", err
	}
	for _, p := range list.Providers {
		if p.Name != account.Provider {
			continue
		}
		local := false
		if u, err := url.Parse(p.RedirectURI); err == nil {
			local = isLoopback(u.Hostname())
		}
		switch {
		case p.DeviceCode && !hasDisplay():
			return flowDevice, nil
		case p.RedirectURI != "" && (!local || hasDisplay()):
			return flowBrowser, nil
		}
	}
	return flowPaste, nil
}

// hasDisplay reports whether a browser on this machine could be seen.
func hasDisplay() bool {
	return runtime.GOOS == "windows" || runtime.GOOS == "darwin" || os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
}

// byBrowser hands out the link and waits until somebody has signed in by it.
func (c *commandLine) byBrowser(account accountView, begun invitation) error {
	c.tell(map[string]any{"flow": begun.Flow, "url": begun.URL, "expires_at": begun.ExpiresAt},
		"Open this link in a browser and sign in as "+account.User+", or hand it to the owner of the mailbox:\n\n  "+begun.URL+
			"\n\nIt works until "+begun.ExpiresAt.Local().Format("15:04")+". Waiting ...")
	if hasDisplay() && !c.set("no-open") {
		_ = openBrowser(begun.URL) // the link is on the screen
	}
	before := account.AuthorizedAt
	for {
		if err := c.pause(2 * time.Second); err != nil {
			return err
		}
		answer, err := c.do(http.MethodGet, account.path(""), nil)
		if err != nil {
			return err
		}
		var now accountView
		if err := understand(answer, &now); err != nil {
			return err
		}
		if now.AuthorizedAt != nil && (before == nil || now.AuthorizedAt.After(*before)) {
			return c.show(answer, &now, func() { c.signedIn(now, "") })
		}
		if time.Now().After(begun.ExpiresAt.Add(time.Minute)) { // who began in time may end a little later
			return errors.New("nobody has signed in by the link, and it has ended; begin anew")
		}
	}
}

// openBrowser opens a link in the user's browser.
func openBrowser(link string) error {
	name, args := "xdg-open", []string{link}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", link}
	}
	cmd := exec.Command(name, args...) //nolint:gosec // the link is the server's
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// byDevice shows the code and asks until somebody has typed it elsewhere.
func (c *commandLine) byDevice(account accountView, begun invitation) error {
	text := "On any device, open\n\n  " + begun.VerificationURI + "\n\nand type the code\n\n  " + begun.UserCode + "\n\nthen sign in as " + account.User + ". Waiting ..."
	c.tell(map[string]any{
		"flow": begun.Flow, "verification_uri": begun.VerificationURI, "verification_uri_complete": begun.VerificationURIComplete,
		"user_code": begun.UserCode, "expires_at": begun.ExpiresAt,
	}, text)
	session, interval, trouble := begun.Session, begun.Interval, ""
	for {
		if err := c.pause(time.Duration(interval) * time.Second); err != nil {
			return err
		}
		answer, err := c.do(http.MethodPost, account.path("/complete"), map[string]string{"session": session})
		if err != nil {
			return err
		}
		var v completion
		if err := understand(answer, &v); err != nil {
			return err
		}
		if v.Account != nil {
			return c.show(answer, &v, func() { c.signedIn(*v.Account, v.Doubt) })
		}
		if v.Trouble != "" && v.Trouble != trouble && !c.json {
			fmt.Fprintf(c.err, "Not yet: %s\n", v.Trouble)
		}
		session, interval, trouble = v.Session, max(v.Interval, 1), v.Trouble
	}
}

// byPaste shows the provider's page and reads the address where the browser ended.
func (c *commandLine) byPaste(account accountView, begun invitation) error {
	c.tell(map[string]any{"flow": begun.Flow, "url": begun.URL, "redirect_uri": begun.RedirectURI, "expires_at": begun.ExpiresAt},
		"Open this page in any browser and sign in as "+account.User+":\n\n  "+begun.URL+
			"\n\nAt the end the browser arrives at "+begun.RedirectURI+"..., which may not open.\nPaste the whole address from the browser's address bar here:")
	line, err := bufio.NewReader(io.LimitReader(c.in, 64<<10)).ReadString('\n')
	if line = strings.TrimSpace(line); line == "" {
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return &exit{exitUsage, "no address was pasted; nothing was changed"}
	}
	answer, err := c.do(http.MethodPost, account.path("/complete"), map[string]string{"session": begun.Session, "url": line})
	if err != nil {
		return err
	}
	var v completion
	return c.show(answer, &v, func() { c.signedIn(*v.Account, v.Doubt) })
}

func (c *commandLine) signedIn(a accountView, doubt string) {
	c.printf("\nSigned in: %s/%s may send.\n", a.Provider, a.User)
	if doubt != "" {
		c.printf("But: %s\n", doubt)
	}
	if len(a.Tenants) > 0 {
		c.printf("Try it: caddy oauth-mail test %s\n", a.Tenants[0])
	}
}

// pause waits, unless the user ends it.
func (c *commandLine) pause(d time.Duration) error {
	select {
	case <-c.cmd.Context().Done():
		return c.cmd.Context().Err()
	case <-time.After(d):
		return nil
	}
}
