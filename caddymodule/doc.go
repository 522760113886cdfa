// Package caddymodule makes Caddy send mail through servers that demand OAuth
// 2.0. Importing it registers
//
//   - the app `oauth_mail`, which holds providers, tenants and keys and keeps
//     the tokens fresh ([App]), with its global Caddyfile option;
//   - the handler `http.handlers.oauth_mail` ([Handler]), with its directive
//     `oauth_mail send|callback|admin|health`.
//
// The smallest configuration that sends:
//
//	{
//		oauth_mail {
//			redirect_base https://mail.example.com/oauth/callback
//			provider m365 {
//				preset microsoft
//				directory contoso.onmicrosoft.com
//				client_id {env.M365_CLIENT_ID}
//				client_secret {file./run/secrets/m365_secret}
//			}
//			tenant default {
//				auth oauth m365
//				user noreply@contoso.com
//			}
//			key webshop {env.WEBSHOP_KEY} default
//		}
//	}
//	mail.example.com {
//		oauth_mail /emails send
//		oauth_mail /oauth/* callback
//		respond 404
//	}
//
// How a configuration becomes what runs: the JSON or Caddyfile is expanded
// (placeholders are replaced, once) into plain settings; [build] makes an
// immutable snapshot of them; the [registry] publishes it. Whatever outlives a
// configuration, such as tokens in memory and warm connections, is passive and
// lies in usage pools.
package caddymodule
