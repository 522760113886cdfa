package mailertest

import (
	"net"
	"testing"
)

// dial begins a session in memory. The client's writes wait until they are
// read, so that a server that reads nothing is noticed; the server's do not.
func dial(serve func(net.Conn)) net.Conn {
	client, server := newPipe(newWay(0, 0), newWay(0, unbounded))
	go serve(server)
	return client
}

// Listen serves connections on loopback TCP until the test ends.
func Listen(t testing.TB, serve func(net.Conn)) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go ServeAll(l, serve)
	return "127.0.0.1", l.Addr().(*net.TCPAddr).Port
}

// ServeAll serves all who connect, each in a goroutine, until the listener is closed.
func ServeAll(l net.Listener, serve func(net.Conn)) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go serve(nc)
	}
}
