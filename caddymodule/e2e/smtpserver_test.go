//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// smtpServer is npm's smtp-server. It asks the authorization server about tokens
// by itself, and knows XOAUTH2 only.
type smtpServer struct {
	server
	starttlsPort, implicitPort int
}

// nodeProgram is the command line of a program in the folder node.
func nodeProgram(part, file string, options any) []string {
	text, err := json.Marshal(options)
	if err != nil {
		panic(err)
	}
	return []string{"node", program(part, filepath.Join("node", file)), string(text)}
}

func startSMTPServer(t testing.TB, dir string, a *authority, m *mailbox, introspectionURL, secret, user, password string, doors ...*door) *smtpServer {
	t.Helper()
	dir = filepath.Join(dir, "smtp-server")
	if err := os.Mkdir(dir, 0o755); err != nil { // as the others
		t.Fatal(err)
	}
	s := &smtpServer{starttlsPort: reservePort(t), implicitPort: reservePort(t)}
	s.name = "smtp-server"
	more := make([]map[string]any, 0, len(doors))
	for _, d := range doors {
		more = append(more, map[string]any{
			"name": d.name, "port": d.port, "implicit": d.security == mailer.ImplicitTLS, "plaintext": d.security == mailer.Plaintext,
			"pipelining": d.pipelining, "open": d.open, "loginOnly": d.loginOnly, "requireTLS": d.requireTLS,
		})
	}
	s.argv = nodeProgram("smtp-server", "smtp.mjs", map[string]any{
		"starttlsPort": s.starttlsPort, "implicitPort": s.implicitPort, "folder": dir,
		"certFile": a.certFile, "keyFile": a.keyFile,
		"introspectionURL": introspectionURL, "introspectionSecret": secret, "user": user, "password": password, "doors": more,
	})
	s.ready = says("ready\n")
	s.output.line = func(line string) {
		var told struct {
			From     string
			To       []string
			BodyType string
			SMTPUTF8 bool
			File     string
		}
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &told) != nil || told.File == "" {
			return
		}
		params := "BODY=" + strings.ToUpper(told.BodyType)
		if told.SMTPUTF8 {
			params += " SMTPUTF8"
		}
		data, err := os.ReadFile(told.File)
		if err == nil {
			err = m.add(delivered{From: told.From, To: told.To, Params: params, Data: data})
		}
		if err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(s.stop)
	s.start(t)
	return s
}

func (s *smtpServer) ports() (starttls, implicit int) { return s.starttlsPort, s.implicitPort }
func (s *smtpServer) log() string                     { return s.output.String() }

func (s *smtpServer) connections(d *door) int {
	return countLines(s.log(), `{"connected":"`+d.name+`"}`)
}
