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
	// entry is what it was made of at run time.
	entry *entry
}

type tenantSettings struct {
	Tenant
	// authorities is the content of CAFile.
	authorities []byte
	origin      origin
	// entry is what it was made of at run time.
	entry *entry
}

type keySettings struct {
	Key
	origin origin
}

// origin says where a setting comes from, and so who may change it.
type origin string

const (
	// originFile is the configuration file: shown, and read-only at run time.
	originFile origin = "file"
	// originRuntime is the administration: kept in the storage.
	originRuntime origin = "runtime"
)

// defaults of settings.
const (
	defaultConnections = 2
	minKeyLength       = 24
	noBrake            = -1
)
