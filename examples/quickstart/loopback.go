package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"time"
)

// listenLoopback listens on port of 127.0.0.1 and, where the machine has one, of ::1, because "localhost" may mean
// either. Port 0 picks a free port, the same for both. The error names the port, what it is for and what to do.
func listenLoopback(port int, purpose string) ([]net.Listener, error) {
	v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, portError(port, purpose, err)
	}
	listeners := []net.Listener{v4}
	if !hasIPv6Loopback() {
		return listeners, nil
	}
	v6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(portOf(v4))))
	if err == nil {
		return append(listeners, v6), nil
	}
	if port == 0 {
		return listeners, nil // that number was free for IPv4 only, and nobody asked for it
	}
	return nil, errors.Join(portError(port, purpose, err), v4.Close())
}

func hasIPv6Loopback() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// portFree reports an error when something answers on port. Caddy opens its sockets so that two of its processes can
// share one (SO_REUSEPORT), so the second of two quickstarts would not notice by itself.
func portFree(ctx context.Context, port int, purpose string) error {
	var d net.Dialer
	for _, host := range []string{"127.0.0.1", "::1"} {
		dial, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := d.DialContext(dial, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		cancel()
		if err == nil {
			_ = conn.Close() // nothing was said over it
			return portError(port, purpose, errors.New("something answers there already"))
		}
	}
	return nil
}

func portError(port int, purpose string, err error) error {
	find := fmt.Sprintf("lsof -nP -iTCP:%d -sTCP:LISTEN", port)
	if runtime.GOOS == "windows" {
		find = fmt.Sprintf("netstat -ano | findstr :%d", port)
	}
	return fmt.Errorf("port %d, for the %s, is not free (%w): stop the program that holds it, perhaps another quickstart (`%s` shows it), and start again",
		port, purpose, err, find)
}

func portOf(l net.Listener) int {
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0
	}
	return addr.Port
}

// serveHTTP serves h on all listeners until stop is called. Requests for another host than the loopback names are
// refused: a web page elsewhere may let its own name resolve to 127.0.0.1 and would then count as the same origin.
func serveHTTP(h http.Handler, listeners []net.Listener) (stop func(context.Context) error) {
	protect := http.NewCrossOriginProtection()
	srv := &http.Server{
		Handler:           loopbackHost(protect.Handler(h)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
	}
	for _, l := range listeners {
		// What Serve returns is known: stop closed it.
		go func() { _ = srv.Serve(l) }()
	}
	return func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err != nil {
			return errors.Join(err, srv.Close())
		}
		return nil
	}
}

func loopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if host != "localhost" && !net.ParseIP(host).IsLoopback() {
			http.Error(w, "this demonstration answers on localhost only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
