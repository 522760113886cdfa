//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// reading is what a reader of mail has understood of a message.
type reading struct {
	// Defects are what Python's parser found wrong; mailparser tells none.
	Defects     []string
	Subject     string
	From        []person
	To          []person
	Cc          []person
	Bcc         []person
	ReplyTo     []person `json:"reply_to"`
	MessageID   string   `json:"message_id"`
	Text, HTML  string
	Attachments []attachment
}

// person is a display name and an address.
type person [2]string

type attachment struct {
	Filename    string
	Type        string
	ContentID   string `json:"content_id"`
	Disposition string
	Size        int
	SHA256      string
}

func attached(filename, mediaType, contentID string, content []byte) attachment {
	sum := sha256.Sum256(content)
	disposition := "attachment"
	if contentID != "" {
		disposition = "inline"
	}
	return attachment{filename, mediaType, contentID, disposition, len(content), hex.EncodeToString(sum[:])}
}

// The readers: implementations that have nothing in common with this module.
var readers = []struct {
	name string
	argv []string
}{
	{"Python's email", []string{"/usr/bin/python3", "-I", "read.py"}},
	{"mailparser", []string{"node", "node/read.mjs"}},
}

// read lets a reader read files. It normalises what is a matter of taste: angle
// brackets, how a line ends, and how the last one does.
func read(t testing.TB, argv, files []string) []reading {
	t.Helper()
	cmd := exec.Command(argv[0], append(argv[1:], files...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr.String())
	}
	var readings []reading
	if err := json.Unmarshal(out, &readings); err != nil {
		t.Fatal(err)
	}
	for i := range readings {
		r := &readings[i]
		for _, text := range []*string{&r.Text, &r.HTML} {
			*text = strings.TrimRight(strings.ReplaceAll(*text, "\r\n", "\n"), "\n")
		}
		for j := range r.Attachments {
			r.Attachments[j].ContentID = strings.Trim(r.Attachments[j].ContentID, "<>")
		}
	}
	return readings
}
