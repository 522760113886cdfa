package caddymodule

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// processUser is as whom Caddy runs.
func processUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// fileError adds to the error of a file that Caddy may not use what to do about it: most
// such files were made when Caddy ran as somebody else.
func fileError(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w; Caddy runs as %s, to whom it must belong", err, processUser())
}

// socketError adds to the error of a socket that cannot be opened what to do about it.
func socketError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another program has this port, such as a mail server of this machine (as root, `ss -ltnp` names it): stop that, or take another address", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; this machine has no such address", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; Caddy runs as %s, and ports below 1024 want root or the capability CAP_NET_BIND_SERVICE", err, processUser())
	}
	return err
}
