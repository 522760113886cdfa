package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// Whoever reaches Caddy's admin API could change what it serves, but for the
// management token: it lies in a file that only Caddy's user and root can read.
const (
	// managementTokenPrefix tells the token from all other secrets, so that the command
	// line sends nothing else, whatever file it is led to.
	managementTokenPrefix = "oauth-mail-management-" //nolint:gosec // what all have in common
	managementTokenSuffix = "-oauth_mail.token"      //nolint:gosec // of a file name
)

// managementTokenFile is where the token lies: beside the key file with file storage,
// else in Caddy's data folder.
func (a *App) managementTokenFile() string {
	if files, ok := a.storage.(*certmagic.FileStorage); ok {
		root := filepath.Clean(files.Path)
		if absolute, err := filepath.Abs(root); err == nil {
			root = absolute
		}
		return root + managementTokenSuffix
	}
	return filepath.Join(caddy.AppDataDir(), "caddy"+managementTokenSuffix)
}

// makeManagementToken makes the token unless it is there, and tells if it is of no use. A server sends mail without
// it, too.
func (a *App) makeManagementToken() {
	name := a.managementTokenFile()
	_, err := readManagementToken(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = makeSecretFile(name, managementTokenPrefix+tokens.NewKey()+"\n")
	}
	if err != nil {
		a.logger.Warn("there is no management token: the command line can look, but change nothing", "file", name, "error", fileError(err))
	}
}

// readManagementToken reads a token from its file.
func readManagementToken(name string) (string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if !strings.HasPrefix(token, managementTokenPrefix) || len(token) < len(managementTokenPrefix)+32 {
		return "", fmt.Errorf("%s holds no management token", name)
	}
	return token, nil
}

// checkManagementToken refuses a request without the token. It is read each time: who
// deletes the file and loads the configuration again has a new one.
func (a *App) checkManagementToken(r *http.Request) error {
	want, err := readManagementToken(a.managementTokenFile())
	if err != nil {
		return fmt.Errorf("this server has no management token, so nothing can be changed here: %w; delete the file if it is there, and load the configuration again to have one made", fileError(err))
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errors.New("this call needs the management token, in the header Authorization: Bearer <token>; it lies in the file that token_file names")
	}
	x, y := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(strings.TrimSpace(given)))
	if subtle.ConstantTimeCompare(x[:], y[:]) != 1 {
		return errors.New("this is not the management token of this server; it lies in the file that token_file names")
	}
	return nil
}

// remoteIP is the address of whoever has connected.
func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
