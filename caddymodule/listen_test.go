package caddymodule

import (
	"net/netip"
	"strings"
	"testing"
)

// opsHash is the hash of "ops-password".
const opsHash = "$2a$04$RbAFPPsTv5Eb8x1m.6N8/eJ1wE4njy0qDlQ/7V78PC90gLUx/Q1bS"

// smtpTenant is a tenant for entrances, whose server nobody has to reach.
const smtpTenant = "tenant r {\nserver smtp.example\nauth none\nfrom a@example.com\nsenders *@example.com\n}\n"

// TestNoOpenRelay: an entrance loads only where everybody who can send there is known.
func TestNoOpenRelay(t *testing.T) {
	const (
		user  = "user u {\npassword " + opsHash + "\ntenant r\n}\n"
		name  = "hostname smtp.example.com\n"
		local = "hostname localhost\n"
	)
	network := func(ranges string) string { return "network " + ranges + " {\ntenant r\n}\n" }
	for _, tt := range []struct{ name, listen, lines, want string }{
		{"nobody, on all addresses", ":587", name, "nobody may send here"},
		{"nobody, on loopback", "127.0.0.1:2525", "tls off\n", "nobody may send here"},
		{"nobody, but a network for plaintext", ":587", name + "plaintext_auth 10.0.0.0/8\n", "nobody may send here"},
		{"users with STARTTLS", ":587", name + user, ""},
		{"a user in a line", ":587", name + "user u " + opsHash + " r\n", ""},
		{"a user of an unknown tenant in a line", ":587", name + "user u " + opsHash + " R\n", `user u, tenant: there is no tenant "R"`},
		{"a network in a line", ":25", "tls off\nnetwork r 192.168.7.0/24 10.0.0.1\n", ""},
		{"a network of an unknown tenant in a line", ":25", "tls off\nnetwork r.example 192.168.7.0/24\n", `there is no tenant "r.example"`},
		{"a public network in a line", ":25", name + "network r 198.51.100.0/24\n", "holds public addresses"},
		{"users with TLS from the start", ":465", name + user, ""},
		{"users without TLS", ":587", "tls off\n" + user, "nobody could sign in without TLS"},
		{"users without TLS, on loopback", "localhost:587", "tls off\n" + user, "nobody could sign in"},
		{"users without TLS, in a private network", "10.0.0.1:587", "tls off\nplaintext_auth 10.0.0.0/24\n" + user, ""},
		{"plaintext from everywhere", ":587", name + user + "plaintext_auth 0.0.0.0/0\n", "plaintext_auth: 0.0.0.0/0 holds public addresses"},
		{"plaintext from everywhere by IPv6", ":587", name + user + "plaintext_auth ::/0\n", "plaintext_auth: ::/0 holds public addresses"},
		{"plaintext from a public address", ":587", name + user + "plaintext_auth 192.0.2.7\n", "192.0.2.7/32 holds public addresses"},
		{"plaintext for TLS from the start", ":465", name + user + "plaintext_auth 10.0.0.0/8\n", "there is no session without TLS"},
		{"plaintext where one address has it", ":465 :587", name + user + "plaintext_auth 10.0.0.0/8\n", ""},
		{"a private network", ":25", "tls off\n" + network("192.168.7.0/24 fd00::/8"), ""},
		{"loopback", "localhost:25", local + network("127.0.0.0/8 ::1"), ""},
		{"everybody", ":25", name + network("0.0.0.0/0"), "network 0.0.0.0/0: 0.0.0.0/0 holds public addresses"},
		{"everybody by IPv6", ":25", name + network("::/0"), "::/0 holds public addresses"},
		{"everybody, in two halves", ":25", name + network("0.0.0.0/1 128.0.0.0/1"), "holds public addresses"},
		{"a public network", ":25", name + network("198.51.100.0/24"), "198.51.100.0/24 holds public addresses"},
		{"a public address", ":25", name + network("198.51.100.7"), "198.51.100.7/32 holds public addresses"},
		{"a private network and more", ":25", name + network("10.0.0.0/7"), "10.0.0.0/7 holds public addresses"},
		{"IPv4 in the clothes of IPv6", ":25", name + network("::ffff:0.0.0.0/96"), "must be written as IPv4"},
		{"everybody, beside users", ":587", name + user + network("0.0.0.0/0"), "holds public addresses"},
		{"everybody, on loopback", "127.0.0.1:25", local + network("0.0.0.0/0"), "holds public addresses"},
		{"a public network for users", ":587", name + "user u {\npassword " + opsHash + "\ntenant r\nnetworks 198.51.100.0/24\n}\n", ""},
		{"an empty password", ":587", name + "user u {\npassword \"\"\ntenant r\n}\n", "user u, password: missing"},
		{"a short password", ":587", name + "user u {\npassword {env.OAUTH_MAIL_TEST_SHORT}\ntenant r\n}\n", "less than 24 characters has to be hashed"},
		{"an unknown hash", ":587", name + "user u {\npassword $1$abcdefgh$0123456789012345678901\ntenant r\n}\n", "is no hash by bcrypt or argon2id"},
		{"a broken hash", ":587", name + "user u {\npassword $argon2id$v=19$m=1\ntenant r\n}\n", "is no hash by argon2id"},
		{"a hash that takes hours", ":587", name + "user u {\npassword " + strings.Replace(opsHash, "$04$", "$31$", 1) + "\ntenant r\n}\n", "bcrypt cost 31"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("OAUTH_MAIL_TEST_SHORT", "geheimgeheim")
			err := validateError(t, option(t, smtpTenant+"smtp "+tt.listen+" {\n"+tt.lines+"}\n"))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got error %v, want one with %q", err, tt.want)
			case err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "RbAF")):
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

// TestSMTPErrors: what cannot work is refused, and the error names the place.
func TestSMTPErrors(t *testing.T) {
	const (
		name = "hostname smtp.example.com\n"
		pass = "password " + opsHash + "\n"
		user = "user u {\n" + pass + "tenant r\n}\n"
	)
	for _, tt := range []struct{ name, content, want string }{
		{"no hostname", "smtp :587 {\n" + user + "}\n", "smtp :587, hostname: \"\" must be"},
		{"hostname with a port", "smtp :587 {\nhostname a.example:25\n" + user + "}\n", "smtp :587, hostname:"},
		{"no tenant", "smtp :587 {\n" + name + "user u {\n" + pass + "}\n}\n", "smtp :587, user u, tenant: missing"},
		{"unknown tenant", "smtp :587 {\n" + name + "user u {\n" + pass + "tenant R\n}\n}\n", `user u, tenant: there is no tenant "R"`},
		{"unknown tenant of a name", "smtp :587 {\n" + name + "tenant r\nsni b.example R\n" + user + "}\n", `sni b.example: there is no tenant "R"`},
		{"no tenant without a name", "smtp :587 {\n" + name + "sni b.example r\n" + user + "}\n", "clients that ask for no name need a tenant"},
		{"sender that the tenant does not allow", "smtp :587 {\n" + name + "user u {\n" + pass + "tenant r\nrewrite_from a@example.net\n}\n}\n", "user u, rewrite_from: a@example.net is not among the senders of tenant r"},
		{"sender of a network", "smtp :587 {\n" + name + "network 10.0.0.0/8 {\ntenant r\nfrom a@example.net\n}\n}\n", "network 10.0.0.0/8, from: a@example.net is not among"},
		{"sender that is none", "smtp :587 {\n" + name + "user u {\n" + pass + "tenant r\nfrom bob\n}\n}\n", "user u, from:"},
		{"two users but for case", "smtp :587 {\n" + name + user + "user U {\n" + pass + "tenant r\n}\n}\n", "names are compared without regard to case"},
		{"a network twice", "smtp :587 {\n" + name + "tenant r\nnetwork 10.0.0.0/8\nnetwork 10.0.0.0/8\n}\n", "10.0.0.0/8 is there twice"},
		{"bits behind the length", "smtp :587 {\n" + name + "tenant r\nnetwork 10.0.0.1/8\n}\n", "is it 10.0.0.0/8?"},
		{"an address twice", "smtp :587 {\n" + name + user + "}\nsmtp :587 {\n" + name + user + "}\n", "smtp :587 listens at :587, too"},
		{"a Unix socket", "smtp unix//run/smtp.sock {\n" + name + user + "}\n", "is no TCP address"},
		{"certificate without TLS", "smtp localhost {\ntls off internal\ntenant r\nnetwork 127.0.0.1\n}\n", "without TLS there is no certificate"},
		{"path in place of a password", "smtp :587 {\n" + name + "user u {\npassword /etc/hostname\ntenant r\n}\n}\n", "smtp :587, user u, password: this is the path of a file; write {file./etc/hostname}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := validateError(t, option(t, smtpTenant+tt.content)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestNearby: public addresses are never taken for private ones.
func TestNearby(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"127.0.0.1": true, "10.255.255.255": true, "172.31.0.0/16": true, "192.168.0.0/16": true, "169.254.1.1": true, "100.64.0.0/10": true,
		"::1": true, "fd12::/16": true, "fe80::/10": true,
		"172.32.0.1": false, "192.169.0.1": false, "100.128.0.1": false, "11.0.0.0/8": false, "172.0.0.0/8": false, "::/1": false, "fe00::/8": false, "2001:db8::1": false, "0.0.0.0": false, "::": false,
	} {
		p, err := parseNetwork(s)
		if err != nil || isNearby(p) != want {
			t.Errorf("%s: nearby %t, %v, want %t", s, isNearby(p), err, want)
		}
	}
	if !inAny([]netip.Prefix{netip.MustParsePrefix("fe80::/10")}, netip.MustParseAddr("fe80::1%eth0")) {
		t.Error("an address with a zone is in no network")
	}
}
