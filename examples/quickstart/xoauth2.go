package main

import (
	"bytes"
	"strings"

	"github.com/emersion/go-sasl"
)

// xoauth2Refusal is the challenge after a bad token; the client answers it with an empty line and then gets its 535.
const xoauth2Refusal = `{"status":"401","schemes":"bearer","scope":"openid email offline_access"}`

// An xoauth2Server is the server's side of XOAUTH2, the mechanism of Google and Microsoft. It implements [sasl.Server].
// The client sends user=<address> ^A auth=Bearer <token> ^A ^A.
type xoauth2Server struct {
	admit   func(user, token string) bool
	refused bool
}

// Next implements [sasl.Server].
func (x *xoauth2Server) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.refused {
		return nil, true, errAuthFailed
	}
	if response == nil {
		return nil, false, nil // the client did not put its answer on the AUTH line: ask for it
	}
	user, token, ok := parseXOAUTH2(response)
	if !ok || !x.admit(user, token) {
		x.refused = true
		return []byte(xoauth2Refusal), false, nil
	}
	return nil, true, nil
}

func parseXOAUTH2(response []byte) (user, token string, ok bool) {
	body, ok := bytes.CutSuffix(response, []byte("\x01\x01"))
	if !ok {
		return "", "", false
	}
	for field := range strings.SplitSeq(string(body), "\x01") {
		key, value, _ := strings.Cut(field, "=")
		switch strings.ToLower(key) {
		case "user":
			user = value
		case "auth":
			scheme, rest, _ := strings.Cut(value, " ")
			if strings.EqualFold(scheme, "bearer") {
				token = strings.TrimSpace(rest)
			}
		}
	}
	return user, token, user != "" && token != ""
}

// An oauthBearerServer makes every refusal of go-sasl's OAUTHBEARER the 535 that RFC 4954 section 6 wants: go-smtp
// would answer 454, "try again later".
type oauthBearerServer struct {
	sasl    sasl.Server
	refused bool
}

func newOAuthBearerServer(admit func(user, token string) bool) *oauthBearerServer {
	return &oauthBearerServer{sasl: sasl.NewOAuthBearerServer(func(o sasl.OAuthBearerOptions) *sasl.OAuthBearerError {
		if admit(o.Username, o.Token) {
			return nil
		}
		return &sasl.OAuthBearerError{Status: "invalid_token", Schemes: "bearer"}
	})}
}

// Next implements [sasl.Server].
func (o *oauthBearerServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if o.refused {
		return nil, true, errAuthFailed
	}
	challenge, done, err = o.sasl.Next(response)
	if err != nil {
		return nil, true, errAuthFailed
	}
	o.refused = !done && len(challenge) > 0
	return challenge, done, nil
}
