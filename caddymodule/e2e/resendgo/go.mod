module github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule/e2e/resendgo

go 1.26.0

require (
	github.com/resend/resend-go/v2 v2.28.0
	github.com/resend/resend-go/v3 v3.1.1
)
