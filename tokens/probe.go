package tokens

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
)

// The stages of [Client.Probe], as its errors name them.
const (
	// ProbeMetadata is finding the endpoints.
	ProbeMetadata = "metadata"
	// ProbeClient is the token endpoint's accepting the client.
	ProbeClient = "client"
)

// Probe tries whether the provider is there and accepts the client, without anybody's
// token. It asks for one with the client's own credentials where the grant is theirs;
// else it presents a refresh token that was made up: a server that refuses that one has
// accepted the client before. Report is told of each stage when it ends; the error, an
// [*Error], is that of the last one. A service account cannot be tried without a mailbox.
func (c *Client) Probe(ctx context.Context, report func(stage string, err error)) error {
	p, err := c.resolve(ctx)
	report(ProbeMetadata, err)
	if err != nil || p.Grant == GrantServiceAccount {
		return err
	}
	err = c.probeClient(ctx, p)
	report(ProbeClient, err)
	return err
}

func (c *Client) probeClient(ctx context.Context, p Provider) error {
	if p.Grant == GrantClientCredentials {
		_, err := c.mint(ctx, "")
		return err
	}
	madeUp := "probe-" + rand.Text()
	_, err := c.post(ctx, "probe", p, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {madeUp}}, madeUp)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == "invalid_grant" {
		return nil
	}
	return err
}
