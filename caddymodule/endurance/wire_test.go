//go:build endurance

package endurance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
)

// wire is the least client that HTTP needs: what it costs is taken from both sides
// of a comparison.
type wire struct {
	nc      net.Conn
	r       *bufio.Reader
	request []byte
	want    int
}

// dialWire connects to a server, to post to a URL again and again what is answered by
// a status.
func dialWire(b testing.TB, url string, header map[string]string, body []byte, want int) *wire {
	b.Helper()
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	nc, err := net.Dial("tcp", host)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	var text bytes.Buffer
	fmt.Fprintf(&text, "POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, host, len(body))
	for name, value := range header {
		fmt.Fprintf(&text, "%s: %s\r\n", name, value)
	}
	text.WriteString("\r\n")
	text.Write(body)
	return &wire{nc: nc, r: bufio.NewReader(nc), request: text.Bytes(), want: want}
}

func (w *wire) do() error {
	if _, err := w.nc.Write(w.request); err != nil {
		return err
	}
	line, err := w.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	status, _ := strconv.Atoi(string(line[9:12]))
	length := 0
	for {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); textproto.CanonicalMIMEHeaderKey(string(name)) == "Content-Length" {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	if status != w.want {
		text, _ := io.ReadAll(io.LimitReader(w.r, int64(length)))
		return fmt.Errorf("status %d: %s", status, text)
	}
	_, err = w.r.Discard(length)
	return err
}
