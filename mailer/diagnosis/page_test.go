package diagnosis

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/diagnosis.md")

// TestPage holds docs/diagnosis.md to the table.
func TestPage(t *testing.T) {
	t.Parallel()
	const file = "../../docs/diagnosis.md"
	want := page()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/diagnosis.md is not what the table says; run: go test ./mailer/diagnosis -run TestPage -update")
	}
}

func page() string {
	var b strings.Builder
	b.WriteString(`# What failures mean, and what to do

This page is made from the table in ` + "`mailer/diagnosis`" + `, which has the same in Japanese. Correct it there, then run
` + "`go test ./mailer/diagnosis -run TestPage -update`" + `.

The class is what is to become of the message: *permanent* (for this message, or this set-up), *temporary* (a later try can
succeed), *throttle* (so too, more slowly), *authorization* (a person has to permit something). Whatever the class, after a reply
with a 4yz code a later try can succeed. Whether anything makes that try depends on the program that sends.
`)
	var parts []string
	rows := make(map[string][]Diagnosis)
	for _, d := range All() {
		part, _, _ := strings.Cut(d.ID, ".")
		if rows[part] == nil {
			parts = append(parts, part)
		}
		rows[part] = append(rows[part], d)
	}
	for _, part := range parts {
		fmt.Fprintf(&b, "\n## %s\n\n| id | whose job | class | meaning | what to do |\n|---|---|---|---|---|\n", part)
		for _, d := range rows[part] {
			text := d.In(English)
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", d.ID, d.Who, d.Class, escape(text.Meaning), escape(strings.Join(text.Do, "<br>")))
		}
	}
	return b.String()
}

// escape makes text fit for a cell of a table; between backticks only the bar
// matters.
func escape(s string) string {
	parts := strings.Split(strings.ReplaceAll(s, "|", `\|`), "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.NewReplacer("<br>", "<br>", "<", "&lt;", ">", "&gt;").Replace(parts[i])
	}
	return strings.Join(parts, "`")
}
