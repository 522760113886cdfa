package caddymodule

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

// Settings of run time never reach the addresses where machines of a cloud get their
// credentials, or others that no server of the world has. The configuration file may
// name them: who writes it could read those credentials anyway.

// metadataAddresses are those outside of link-local networks: AWS, Google and Alibaba
// Cloud, Oracle Cloud's and Azure's.
var metadataAddresses = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("168.63.129.16"),
}

// metadataNames lead to them.
var metadataNames = []string{"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}

// embedding are the networks whose addresses have an IPv4 address in them, and where
// (RFC 6052, section 2.1, and RFC 3056, section 2).
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
	{netip.MustParsePrefix("::/96"), 12},
}

// allowAddress refuses link-local and metadata addresses, and those that are nobody's.
func allowAddress(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	for _, e := range embedding {
		if e.prefix.Contains(a) && !a.IsLoopback() {
			octets := a.As16()
			a = netip.AddrFrom4([4]byte(octets[e.at:]))
			break
		}
	}
	switch {
	case a.IsLinkLocalUnicast(), slices.Contains(metadataAddresses, a):
		return fmt.Errorf("%s is a link-local address, or one where machines get their credentials: settings made at run time do not lead there", a)
	case a.IsMulticast(), a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no address of a server", a)
	}
	return nil
}

// allowHost refuses hosts that are such an address, or are known to lead to one. Where
// a name leads is seen when it is dialed.
func allowHost(host string) error {
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if slices.Contains(metadataNames, host) {
		return fmt.Errorf("%s is where machines get their credentials: settings made at run time do not lead there", host)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return allowAddress(a)
	}
	return nil
}

// allowURL is allowHost for a URL; an empty one is allowed.
func allowURL(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("%q is no URL", raw)
	}
	return allowHost(u.Hostname())
}

// guardDial is a [net.Dialer]'s Control that keeps to allowAddress.
func guardDial(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return allowAddress(to.Addr())
}
