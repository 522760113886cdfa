package endurance

import (
	"cmp"
	"fmt"
	"strings"
)

// Tenant is a tenant of a [Site], with a mail server on loopback and an API key.
type Tenant struct {
	Name        string
	Port        int
	Connections int
	// More are further lines of the tenant: "auth none" where there are none. With
	// Secure, its server offers STARTTLS.
	More   string
	Secure bool
}

// Key is its API key.
func (t Tenant) Key() string { return "key-of-the-endurance-test-" + t.Name }

// Sender is who all tenants of a [Site] send as.
const Sender = "sender@example.com"

const site = `{
	admin ADMIN
	persist_config off
	grace_period 10s
	storage file_system DIR/storage
	oauth_mail {
OUTBOX
TENANTS
	}
}
URL {
	handle /respond {
		respond "{\"id\":\"0\"}"
	}
	handle_path /admin/* {
		oauth_mail admin {
			allow_unauthenticated
		}
	}
	oauth_mail send
	respond 404
}
`

// Site makes the Caddyfile of a send route at /emails, an open administration at
// /admin and a respond handler at /respond, with the lines of an outbox.
func Site(outbox string, tenants ...Tenant) string {
	var b strings.Builder
	for _, t := range tenants {
		scheme := "plaintext://"
		if t.Secure {
			scheme = ""
		}
		fmt.Fprintf(&b, `
		tenant %[1]s {
			server %[7]s127.0.0.1:%[2]d
			from %[3]s
			connections %[4]d
			%[5]s
		}
		key %[1]s %[6]s %[1]s
`, t.Name, t.Port, Sender, t.Connections, cmp.Or(t.More, "auth none"), t.Key(), scheme)
	}
	return strings.NewReplacer("OUTBOX", outbox, "TENANTS", b.String()).Replace(site)
}
