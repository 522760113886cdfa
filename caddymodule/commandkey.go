package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func keyCommand() *cobra.Command {
	cmd := verb("key", "Lists the keys of the send route, and makes and deletes them", cobra.NoArgs, (*commandLine).keys)
	create := verb("new <name> <tenant>", "Makes a key, and shows it this once", cobra.ExactArgs(2), (*commandLine).newKey)
	create.Flags().StringArray("sender", nil, "Address, or *@<domain>, that it may send as; may be repeated")
	cmd.AddCommand(create, verb("list", "Lists keys", cobra.NoArgs, (*commandLine).keys),
		verb("delete <name>...", "Deletes keys that were made at run time", cobra.MinimumNArgs(1), (*commandLine).deleteKeys))
	return cmd
}

func (c *commandLine) keys([]string) error {
	answer, err := c.do(http.MethodGet, "/keys", nil)
	if err != nil {
		return err
	}
	var v struct {
		Keys []keyView `json:"keys"`
	}
	return c.show(answer, &v, func() {
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "KEY\tFROM\tTENANT\tSCOPES\tENDS\tLAST USED")
		for _, k := range v.Keys {
			used, ends, tenant := "-", "-", k.Tenant
			if k.ExpiresAt != nil {
				ends = k.ExpiresAt.Local().Format(time.DateTime)
				if !k.ExpiresAt.After(time.Now()) {
					ends = "HAS ENDED"
				}
			}
			if k.LastUsedAt != nil {
				used = k.LastUsedAt.Local().Format(time.DateTime)
			}
			if tenant == "" {
				tenant = strings.Join(k.Tenants, ",")
			}
			fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%s\t%s\n", k.Name, k.Origin, tenant, strings.Join(k.Scopes, ","), ends, used)
		}
		_ = w.Flush()
	})
}

func (c *commandLine) newKey(args []string) error {
	body := map[string]any{"name": args[0], "tenant": args[1]}
	if senders := c.texts("sender"); len(senders) > 0 {
		body["senders"] = senders
	}
	answer, err := c.do(http.MethodPost, "/keys", body)
	if err != nil {
		return err
	}
	var k keyView
	return c.show(answer, &k, func() {
		c.printf("The key %s, which is shown this once:\n\n  %s\n\nPrograms send it in the header Authorization: Bearer <key>.\n", k.Name, k.Key)
	})
}

func (c *commandLine) deleteKeys(names []string) error {
	for _, name := range names {
		answer, err := c.do(http.MethodDelete, "/keys/"+url.PathEscape(name), nil)
		if err != nil {
			return err
		}
		if err := c.show(answer, new(map[string]any), func() { c.printf("Deleted: %s\n", name) }); err != nil {
			return err
		}
	}
	return nil
}
