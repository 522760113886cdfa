package tokens

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

func TestSecretDoesNotShow(t *testing.T) {
	t.Parallel()
	const canary = "canary"
	s := NewSecret(canary)
	hidden := struct{ inner struct{ s Secret } }{}
	hidden.inner.s = s
	token := &Token{AccessToken: s, RefreshToken: s}
	key := rsaKey()
	private := key.Signer.(*rsa.PrivateKey)
	credentials := append(NewClientSecret(canary), keyOf(key), assertionOf(canary))
	client := NewClient(Provider{Credentials: credentials, ServiceAccount: credentials[1].Key}, nil)
	by, err := credentials[1].prove(client.provider, certificateEnd)
	if err != nil {
		t.Fatal(err)
	}
	cell := &Cell{newest: token}
	var out bytes.Buffer
	for _, v := range []any{
		s, &s, hidden, token, *token, client, client.Provider(), cell,
		[]Secret{s},
		map[string]Secret{"k": s},
		key, *key,
		[]*SigningKey{key},
		map[string]SigningKey{"k": *key},
		credentials, by, &by,
		proof{secret: s},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		b, _ := json.Marshal(v)
		out.Write(b)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
	}
	text := strings.ToLower(out.String())
	for _, form := range []string{
		canary, fmt.Sprintf("%x", canary), private.D.String()[:20], fmt.Sprintf("%x", private.D)[:20], private.Primes[0].String()[:20],
		strings.ToLower(by.assertion.Reveal()[:20]),
	} {
		if i := strings.Index(text, form); i >= 0 {
			t.Errorf("the secret shows: …%s", text[max(0, i-80):i+20])
		}
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	if s := NewSecret("x"); s.Reveal() != "x" || s.IsZero() {
		t.Error("the value is lost")
	}
	if s := NewSecret(""); !s.IsZero() || s.Reveal() != "" || s != (Secret{}) {
		t.Error("an empty value is not the zero Secret")
	}
	if !reflect.DeepEqual(NewSecret("x"), NewSecret("x")) || reflect.DeepEqual(NewSecret("x"), NewSecret("y")) {
		t.Error("DeepEqual does not compare values")
	}
}
