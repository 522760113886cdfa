package caddymodule

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestAccessErrors: errors of files and sockets keep their cause, and tell what to do.
func TestAccessErrors(t *testing.T) {
	t.Parallel()
	denied := &fs.PathError{Op: "open", Path: "/x/key", Err: syscall.EACCES}
	socket := func(errno syscall.Errno) error {
		return &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", errno)}
	}
	for _, tt := range []struct {
		name  string
		of    func(error) error
		err   error
		wants string // in addition to the error itself
	}{
		{"a file of somebody else", fileError, fmt.Errorf("opening: %w", denied), "Caddy runs as " + processUser()},
		{"a file that is away", fileError, fs.ErrNotExist, ""},
		{"a port that is taken", socketError, socket(syscall.EADDRINUSE), "another program has this port"},
		{"an address of another machine", socketError, socket(syscall.EADDRNOTAVAIL), "this machine has no such address"},
		{"a port for root", socketError, socket(syscall.EACCES), "CAP_NET_BIND_SERVICE"},
		{"another trouble", socketError, socket(syscall.EMFILE), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.of(tt.err)
			if !errors.Is(got, tt.err) || !strings.HasPrefix(got.Error(), tt.err.Error()) || !strings.Contains(got.Error(), tt.wants) ||
				tt.wants == "" && got.Error() != tt.err.Error() {
				t.Errorf("got %q, want %q", got, tt.wants)
			}
		})
	}
}

// TestStartRefused: what keeps Caddy from starting is named, with what to do.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	const network = " {\ntls off\ntenant default\nnetwork 127.0.0.0/8\n}\n"
	for _, tt := range []struct {
		name, more string
		prepare    func(*testing.T, *caddyProcess)
		says       []string
	}{
		{"the port of an SMTP entrance is taken", "smtp " + taken.Addr().String() + network, nil, []string{taken.Addr().String(), "another program has this port"}},
		{"the key file is broken", "", func(t *testing.T, p *caddyProcess) {
			writeFile(t, filepath.Join(p.dir, "storage-oauth_mail.key"), []byte("broken\n"))
		}, []string{"storage-oauth_mail.key", "bring the file back from a backup"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := configureCaddy(t, scripted(t, new(mailertest.Script))+tt.more, "")
			if tt.prepare != nil {
				tt.prepare(t, p)
			}
			out, err := p.command("run", "--config", p.config, "--adapter", "caddyfile").CombinedOutput()
			if err == nil {
				t.Error("started")
			}
			for _, says := range tt.says {
				if !strings.Contains(string(out), says) {
					t.Errorf("%q is not in %s", says, grepLines(string(out), `"error"`))
				}
			}
		})
	}
}
