package caddymodule

import (
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// settings are what a snapshot is built from: plain values without
// placeholders.
type settings struct {
	redirectBase string
	refresh      string
	keepSent     time.Duration
	keepFailed   time.Duration
	providers    map[string]providerSettings
	tenants      map[string]tenantSettings
	keys         map[string]keySettings
	smtp         []SMTP
}

type providerSettings struct {
	Provider
	// credentials are Provider.Credentials, ready to use, in the same order.
	credentials []credential
	// serviceAccount reads the key in Provider.ServiceAccount.
	serviceAccount func() (*tokens.SigningKey, error)
	// authorities is the content of CAFile.
	authorities []byte
	origin      origin
}

type tenantSettings struct {
	Tenant
	// authorities is the content of CAFile.
	authorities []byte
	origin      origin
}

type keySettings struct {
	Key
	origin origin
}

// origin says where a setting comes from, and so who may change it.
type origin string

// originFile is the configuration file: shown, and read-only at run time.
const originFile origin = "file"

// defaults of settings.
const (
	defaultConnections = 2
	minKeyLength       = 24
	noBrake            = -1
)
