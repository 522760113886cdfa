package mailer

import (
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
)

// oauthBearerClient is OAUTHBEARER (RFC 7628). Other than go-sasl's it escapes
// the user's name and lets the server say why it refused.
type oauthBearerClient struct {
	user  string
	host  string
	port  int
	token string
	challengeStatus
}

var saslName = strings.NewReplacer("=", "=3D", ",", "=2C") // RFC 5801, section 4

func (o *oauthBearerClient) Start() (string, []byte, error) {
	ir := "n,a=" + saslName.Replace(o.user) + ",\x01host=" + o.host + "\x01port=" + strconv.Itoa(o.port) +
		"\x01auth=Bearer " + o.token + "\x01\x01"
	return sasl.OAuthBearer, []byte(ir), nil
}

// Next sees an error and nothing else. The answer is the one that RFC 7628,
// section 3.2.3, asks for; the refusal follows it.
func (o *oauthBearerClient) Next(challenge []byte) ([]byte, error) {
	if o.seen {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	o.read(challenge)
	return []byte{1}, nil
}
