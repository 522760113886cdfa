package caddymodule

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// nearby are the networks whose addresses cannot come from the internet.
var nearby = parsePrefixes(
	"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
	"::1/128", "fc00::/7", "fe80::/10",
)

func parsePrefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// parseNetwork reads a network or a single address.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q must be a network such as 192.168.7.0/24, or an address", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%q must be written as IPv4", s)
	case p.Masked() != p:
		return p, fmt.Errorf("%q has bits behind its length; is it %s?", s, p.Masked())
	}
	return p, nil
}

// isNearby reports whether all addresses of a network are private, of the link or
// loopback.
func isNearby(p netip.Prefix) bool {
	return slices.ContainsFunc(nearby, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
}

// inAny reports whether an address is in one of the networks. Its zone does not
// matter.
func inAny(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) })
}

// narrowestFirst sorts networks so that the first one that holds an address counts.
func narrowestFirst(a, b *smtpNetwork) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) }
