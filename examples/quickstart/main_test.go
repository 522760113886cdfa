package main

import (
	"bytes"
	"strings"
	"testing"
)

// The printed steps name what a person then sees: the page's button, the provider, and the account to choose.
func TestPrintSteps(t *testing.T) {
	t.Parallel()
	p, _, h := testPage(t)
	button := ">" + connectButton + "</button>"
	if body := bodyOf(t, ask(h, "GET", "/")); !strings.Contains(body, button) {
		t.Errorf("the page has no %s:\n%s", button, body)
	}
	for name, tt := range map[string]struct {
		options options
		want    []string
	}{
		"as it is": {want: []string{
			"open " + pageURL + ` and press "` + connectButton + `"`,
			`"Continue to ` + providerTitle + `"`,
			`"Sign in as ` + mailbox + `"`,
			curlLine(p.plugin),
			"See it arrive: " + pageURL,
			"warnings are expected",
		}},
		"broken": {options{breakPart: "smtp"}, []string{breakNote("smtp")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			printSteps(&out, &parts{plugin: p.plugin}, tt.options)
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("there is no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}
