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

// Key is its API key, and the password of the user of its name at the SMTP entrance.
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
		smtp SMTP {
			tls off
			plaintext_auth 127.0.0.0/8
			connections_per_address 100
USERS
		}
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

// Site makes the Caddyfile of a send route at /emails, an SMTP entrance, an open
// administration at /admin and a respond handler at /respond, with the lines of an
// outbox.
func Site(outbox string, tenants ...Tenant) string {
	var b, users strings.Builder
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
		fmt.Fprintf(&users, "\t\t\tuser %[1]s {\n\t\t\t\tpassword %[2]s\n\t\t\t\ttenant %[1]s\n\t\t\t}\n", t.Name, t.Key())
	}
	return strings.NewReplacer("OUTBOX", outbox, "TENANTS", b.String(), "USERS", users.String()).Replace(site)
}
