package caddymodule

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"
)

const (
	// passwordLetters are those that people tell apart on a printer's display. There
	// are 32, so that each has the same chance.
	passwordLetters = "abcdefghijkmnpqrstuvwxyz23456789"
	// usualPassword is as long as nearly all devices take, and has 80 bits.
	usualPassword = 16
	// minPassword has 60 bits: against the delays of an entrance that is for ever.
	minPassword = 12
	// maxPassword is what bcrypt takes (72), and more than any device.
	maxPassword = 64
	// generatedCost is bcrypt's. No list has what is made here, so it need not be dear.
	generatedCost = 10
)

func passwordCommand() *cobra.Command {
	cmd := verb("password", "Makes a password for a device or a person, shows it this once, and prints its hash", cobra.NoArgs, (*commandLine).newPassword)
	cmd.Flags().Int("length", usualPassword, "How many letters and digits it has")
	return cmd
}

// newPassword asks no server: what it prints is for the configuration, and for who signs in.
func (c *commandLine) newPassword([]string) error {
	length, _ := c.cmd.Flags().GetInt("length")
	if length < minPassword || length > maxPassword {
		return &exit{exitUsage, fmt.Sprintf("--length must be from %d to %d", minPassword, maxPassword)}
	}
	v := struct {
		Password string `json:"password"`
		Hash     string `json:"hash"`
	}{Password: randomPassword(length)}
	hash, err := bcrypt.GenerateFromPassword([]byte(v.Password), generatedCost)
	if err != nil {
		return err
	}
	v.Hash = string(hash)
	answer, err := json.Marshal(v) //nolint:gosec // to show it is what the command is for
	if err != nil {
		return err
	}
	return c.show(answer, &v, func() {
		c.printf("The password, which is shown this once:\n\n  %s\n\nIts hash, for the Caddyfile (password of a device's user, or basic_auth):\n\n  %s\n", v.Password, v.Hash)
	})
}

func randomPassword(length int) string {
	b := make([]byte, length)
	_, _ = rand.Read(b) // never fails
	for i := range b {
		b[i] = passwordLetters[int(b[i])%len(passwordLetters)]
	}
	return string(b)
}
