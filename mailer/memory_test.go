package mailer

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// fileSource is an attachment in a file.
type fileSource struct {
	name string
	size int64
}

func (f fileSource) Open() (io.ReadCloser, error) { return os.Open(f.name) }
func (f fileSource) Size() int64                  { return f.size }

// TestMemoryOfLargeAttachment composes and sends 25 MiB from a file. It adds up
// all that is allocated meanwhile, by the server of the test, too: however
// seldom the garbage is collected, the heap cannot grow by more. It is not
// parallel, as nobody else may allocate.
func TestMemoryOfLargeAttachment(t *testing.T) {
	const size, most = 25 << 20, 8 << 20
	line := strings.Repeat("x", 70) + "\r\n"
	text := strings.Repeat(line, size/len(line)+1)
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file := fileSource{name, int64(len(text))}
	text = ""
	for _, kind := range []string{"application/pdf", "message/rfc822"} {
		for _, chunking := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/chunking %v", kind, chunking), func(t *testing.T) {
				s := &mailertest.Sink{Pipelining: true, Chunking: chunking}
				var roots *x509.CertPool
				s.TLS, roots = mailertest.NewCertificate(t)
				host, port := s.Listen(t)
				tenant := &Tenant{Name: "lab", Pool: new(Pool), Server: Server{Host: host, Port: port, RootCAs: roots}}
				defer tenant.Pool.Close()
				submit(t, tenant) // makes the connection
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				m := &Message{From: sender, To: []Address{someone}, Subject: "large", Attachments: []Attachment{{Filename: "a", ContentType: kind, Source: file}}}
				content, err := m.Compose()
				if err == nil {
					_, err = tenant.Submit(t.Context(), m.Envelope(), content, Options{})
				}
				runtime.ReadMemStats(&after)
				if err != nil || s.Taken() != 2 || s.Octets() < size {
					t.Fatalf("%v, %d messages of %d octets", err, s.Taken(), s.Octets())
				}
				grown := after.TotalAlloc - before.TotalAlloc
				t.Logf("allocated %d KiB for %d KiB on the wire", grown>>10, s.Octets()>>10)
				if grown > most {
					t.Errorf("allocated %d octets, more than %d", grown, most)
				}
			})
		}
	}
}
