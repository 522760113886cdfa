package caddymodule

import (
	"cmp"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func inventoryCommand() *cobra.Command {
	return verb("inventory", "Lists which devices and programs send by SMTP, how, and when last", cobra.NoArgs, (*commandLine).inventory)
}

func (c *commandLine) inventory([]string) error {
	answer, err := c.do(http.MethodGet, "/inventory", nil)
	if err != nil {
		return err
	}
	var v struct {
		Clients []clientView `json:"clients"`
	}
	return c.show(answer, &v, func() {
		if len(v.Clients) == 0 {
			c.printf("Nobody has sent by SMTP since Caddy was started.\n")
			return
		}
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "WHO\tTENANT\tADDRESS\tAT\tCALLS ITSELF\tTLS\tSIGNS IN BY\tMESSAGES\tLAST SEEN")
		for _, d := range v.Clients {
			fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", d.Kind, d.Name, d.Tenant, d.Address, d.Listen,
				cmp.Or(d.Greeting, "-"), cmp.Or(d.TLS, "none"), cmp.Or(d.Mechanism, "-"), d.Messages, d.LastSeen.Local().Format(time.DateTime))
		}
		_ = w.Flush()
	})
}
