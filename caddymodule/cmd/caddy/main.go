// Command caddy is Caddy with its standard modules and oauth_mail, for people
// without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule"
)

func main() {
	caddycmd.Main()
}
