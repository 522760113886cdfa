//go:build e2e

package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// The tenants that send without a person's sign-in, all as app@example.com.
var appTenants = []string{appSecret, appCertificate, appService}

const (
	appSecret      = "app_secret"      // client credentials, the second of two secrets is right
	appCertificate = "app_certificate" // client credentials, a certificate's assertion
	appService     = "app_service"     // a service account, as Google has them

	appUser = "app@example.com"
)

// apps is what the tenants without a person sign in with.
type apps struct {
	dir         string
	certificate *rsa.PrivateKey
	google      *google
}

func newApps(t testing.TB, dir string) *apps {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a := &apps{dir: dir, certificate: key}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, "app.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))+pemOf(t, key))
	a.google = newGoogle(t)
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": a.google.email, "private_key_id": a.google.keyID,
		"private_key": pemOf(t, a.google.key), "client_id": "1234567890", "token_uri": "https://elsewhere.example.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, "service_account.json", string(text))
	return a
}

// file is where one of the apps' files lies.
func (a *apps) file(name string) string { return filepath.Join(a.dir, name) }

func (a *apps) write(t testing.TB, name, text string) {
	t.Helper()
	// As a whole, as secret stores do it.
	temporary := a.file(name + ".new")
	err := os.WriteFile(temporary, []byte(text), 0o600)
	if err == nil {
		err = os.Rename(temporary, a.file(name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func pemOf(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// publicKey is the certificate's key as the authorization server is told it.
func (a *apps) publicKey() jose.JSONWebKey {
	return jose.JSONWebKey{Key: a.certificate.Public(), Algorithm: string(jose.PS256), Use: "sig"}
}

// config is the part of the Caddyfile with the apps.
func (a *apps) config(t testing.TB, s *Stack, port int) string {
	a.google.issuer = s.proxy.URL.JoinPath("/token").String()
	a.google.secret = s.clientSecret
	a.write(t, "secret-1", "canary-wrong-secret\n")
	a.write(t, "secret-2", s.clientSecret+"\n")
	var b strings.Builder
	fmt.Fprintf(&b, `
		provider app_secret {
			issuer %[1]s
			grant client_credentials
			client_id app-secret
			client_secret {file.%[2]s}
			client_secret {file.%[3]s}
			client_auth post
			scopes smtp.send
			servers localhost
		}
		provider app_certificate {
			issuer %[1]s
			grant client_credentials
			client_id app-certificate
			client_certificate %[4]s
			scopes smtp.send
			servers localhost
		}
		provider app_service {
			preset google
			grant service_account
			service_account %[5]s
			token_endpoint %[6]s
			servers localhost
		}
`, s.proxy.URL, a.file("secret-1"), a.file("secret-2"), a.file("app.pem"), a.file("service_account.json"), a.google.URL+"/token")
	for _, name := range appTenants {
		fmt.Fprintf(&b, `
		tenant %[1]s {
			server localhost:%[2]d
			auth oauth %[1]s xoauth2
			user %[3]s
			ca_file %[4]s
		}
		key %[1]s {env.E2E_KEY_%[1]s} %[1]s
`, name, port, appUser, s.authority.caFile)
	}
	return b.String()
}

// google is a token endpoint as Google's: it takes assertions of service
// accounts and nothing else. What it hands out are oidc-provider's own tokens.
type google struct {
	*httptest.Server
	email, keyID   string
	key            *rsa.PrivateKey
	issuer, secret string // where its tokens come from
}

const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

func newGoogle(t testing.TB) *google {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &google{email: "mailer@project.iam.gserviceaccount.com", keyID: "0123456789abcdef", key: key}
	g.Server = httptest.NewServer(http.HandlerFunc(g.token))
	t.Cleanup(g.Close)
	return g
}

func (g *google) token(w http.ResponseWriter, r *http.Request) {
	refuse := func(code, description string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
	}
	if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.PostForm.Get("grant_type") != jwtBearer {
		refuse("unsupported_grant_type", "Invalid grant_type: "+r.PostForm.Get("grant_type"))
		return
	}
	if _, _, ok := r.BasicAuth(); ok || r.PostForm.Has("client_id") || r.PostForm.Has("client_secret") {
		refuse("invalid_request", "no client authentication, please")
		return
	}
	var claims struct {
		jwt.Claims
		Audience string `json:"aud"` // a string, never a list
		Scope    string `json:"scope"`
	}
	token, err := jwt.ParseSigned(r.PostForm.Get("assertion"), []jose.SignatureAlgorithm{jose.RS256})
	if err == nil {
		err = token.Claims(g.key.Public(), &claims)
	}
	now := time.Now()
	switch {
	case err != nil:
		refuse("invalid_grant", "Invalid JWT Signature.")
	case token.Headers[0].KeyID != g.keyID || claims.Issuer != g.email:
		refuse("invalid_grant", "Invalid grant: account not found")
	case claims.Audience != g.URL+"/token":
		refuse("invalid_grant", "Invalid JWT: Failed audience check.")
	case claims.Expiry == nil || claims.IssuedAt == nil || claims.Expiry.Time().Sub(claims.IssuedAt.Time()) > time.Hour || now.After(claims.Expiry.Time()):
		refuse("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.")
	case claims.Scope != "https://mail.google.com/" || claims.Subject != appUser:
		refuse("unauthorized_client", "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.")
	default:
		answer, err := http.PostForm(g.issuer, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"app-secret"}, "client_secret": {g.secret}, "scope": {"smtp.send"},
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		var m map[string]any
		if err := json.NewDecoder(answer.Body).Decode(&m); err != nil || answer.StatusCode != http.StatusOK {
			http.Error(w, "no token", http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": m["access_token"], "expires_in": 3599, "token_type": "Bearer"})
	}
}
