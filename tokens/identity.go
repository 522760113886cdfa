package tokens

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// idClaims are the claims of an ID token that are used (OpenID Connect Core,
// section 2).
type idClaims struct {
	Issuer    string  `json:"iss"`
	Subject   string  `json:"sub"`
	Audience  oneMany `json:"aud"`
	Expiry    float64 `json:"exp"`
	Nonce     string  `json:"nonce"`
	Email     string  `json:"email"`
	Preferred string  `json:"preferred_username"`
	UPN       string  `json:"upn"`
	Directory string  `json:"tid"`
	Object    string  `json:"oid"`
}

// oneMany is a JSON string or list of strings.
type oneMany []string

func (o *oneMany) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*o = oneMany{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

// readIDToken reads the claims of an ID token that came straight from the token
// endpoint. Its signature is not looked at: the connection's TLS vouches for it
// (OpenID Connect Core, section 3.1.3.7, item 6).
func readIDToken(raw string, p Provider, nonce string, now time.Time) (Identity, error) {
	if raw == "" {
		return Identity{}, nil
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return Identity{}, errors.New("the ID token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return Identity{}, errors.New("the ID token is not in base64")
	}
	var c idClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Identity{}, errors.New("the ID token has no readable claims")
	}
	if "https://"+c.Issuer == p.Issuer {
		c.Issuer = p.Issuer // Google leaves the scheme out at times
	}
	const leeway = 5 * time.Minute
	switch {
	case !slices.Contains(c.Audience, p.ClientID):
		return Identity{}, errors.New("the ID token was made for another client")
	case p.Issuer != "" && c.Issuer != p.Issuer && p.IssRule != IssIgnored:
		return Identity{}, errors.New("the ID token is of another issuer")
	case now.After(time.Unix(int64(c.Expiry), 0).Add(leeway)):
		return Identity{}, errors.New("the ID token has expired; compare the clocks")
	case nonce != "" && c.Nonce != nonce:
		return Identity{}, errors.New("the ID token belongs to another sign-in")
	}
	id := Identity{Issuer: c.Issuer, Subject: c.Subject, Directory: c.Directory, Object: c.Object}
	for _, n := range []string{c.Email, c.Preferred, c.UPN} {
		if strings.Contains(n, "@") && !slices.Contains(id.Names, n) {
			id.Names = append(id.Names, n)
		}
	}
	return id, nil
}

// known reports whether the identity says who signed in.
func (i Identity) known() bool { return i.Subject != "" || i.Object != "" }

// same reports whether two known identities are one person. Names don't count:
// an administrator can give them to another.
func (i Identity) same(o Identity) bool {
	if i.Object != "" && o.Object != "" {
		return i.Directory == o.Directory && i.Object == o.Object
	}
	return i.Issuer == o.Issuer && i.Subject == o.Subject
}

// names reports whether the identity claims the mailbox as its own.
func (i Identity) names(user string) bool {
	return slices.ContainsFunc(i.Names, func(n string) bool { return strings.EqualFold(n, user) })
}
