package tokens

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"time"
)

// Token is what is known of one account: its tokens, their times, and how the
// last refresh went. A Token that others can see is never changed; a new one
// takes its place.
type Token struct {
	Account Account
	// Registration is the [Provider.Registration] that the grant belongs to;
	// empty in records from before it was kept, until the next refresh.
	Registration string
	// Generation grows by one with each grant and each refresh.
	Generation uint64
	// AccessToken opens the mail server until Expiry.
	AccessToken Secret
	// RefreshToken gets new access tokens. Grants without a user have none.
	RefreshToken Secret
	// PreviousRefreshToken is the one before, which a provider may still honour
	// for some seconds when its answer to the last refresh was lost.
	PreviousRefreshToken Secret
	// Imported identifies the refresh token that the grant was imported with;
	// empty for any other grant. Renewals keep it: the provider may have ended
	// that token, and presenting it again may end the grant.
	Imported string
	// Requested are the scopes that were asked for; nil in records from before
	// they were kept.
	Requested []string
	// Scopes were granted, as the provider told; nil where it did not.
	Scopes []string
	// Identity is who signed in.
	Identity Identity
	// AuthorizedAt is when a person consented, AuthorizedBy who had asked for it.
	AuthorizedAt time.Time
	AuthorizedBy string
	// IssuedAt is when AccessToken was issued and Expiry when it ends.
	IssuedAt, Expiry time.Time
	// Revoked marks a grant that the provider has ended: a person must sign in
	// again.
	Revoked bool
	// Failure is the last refresh that failed; nil after one that did not.
	Failure *Failure

	// record is the hash of the sealed record that says just this; zero where none
	// is known to.
	record [sha256.Size]byte
}

// edit returns a copy that is about to say something else, which no record says yet.
func (t *Token) edit() Token {
	next := *t
	next.record = [sha256.Size]byte{}
	return next
}

// Identity is who signed in, as the ID token told (OpenID Connect Core, section
// 2). Issuer and Subject identify; the rest can change at the provider.
type Identity struct {
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	// Directory and Object are Entra's `tid` and `oid`.
	Directory string `json:"directory,omitempty"`
	Object    string `json:"object,omitempty"`
	// Names are the mailbox names it claims: email, preferred_username, upn.
	Names []string `json:"names,omitempty"`
}

// Failure is the record of a refresh that failed.
type Failure struct {
	At          time.Time `json:"at"`
	Kind        string    `json:"kind"`
	Code        string    `json:"code,omitempty"`
	Description string    `json:"description,omitempty"`
	// The rest is as in [Error].
	Suberror      string `json:"suberror,omitempty"`
	Numbers       []int  `json:"numbers,omitempty"`
	TraceID       string `json:"trace_id,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
}

// Advice is [Error.Advice] of the failure.
func (f *Failure) Advice() (Advice, bool) {
	return adviceOn(f.Numbers, f.Description, f.Code, f.Suberror, f.Kind)
}

// noExpiry stands in for a missing expires_in (RFC 6749 leaves it optional).
const noExpiry = time.Hour

// life is how long the access token lives in all.
func (t *Token) life() time.Duration { return t.Expiry.Sub(t.IssuedAt) }

// defaultMargin stands in for a [Provider.Margin] of zero.
const defaultMargin = 15 * time.Minute

// due is dueAhead with the default margin.
func (t *Token) due() time.Time { return t.dueAhead(0) }

// dueAhead is the time from which the access token is to be renewed: at three
// quarters of its life, but no more than the margin ahead; at half its life
// where that is under five minutes. Two minutes are the least margin: it is not
// handed out in the last one.
func (t *Token) dueAhead(margin time.Duration) time.Time {
	if margin == 0 {
		margin = defaultMargin
	}
	life := t.life()
	if life < 5*time.Minute {
		return t.Expiry.Add(-life / 2)
	}
	return t.Expiry.Add(-min(max(margin, 2*time.Minute), life/4))
}

// usable reports whether the access token may be handed out: with less than
// a minute or a tenth of its life left, whichever is shorter, it might end
// between here and the mail server.
func (t *Token) usable(now time.Time) bool {
	if t == nil || t.AccessToken.IsZero() || t.Revoked {
		return false
	}
	return now.Before(t.Expiry.Add(-min(time.Minute, t.life()/10)))
}

// fresh reports whether the access token needs no renewal yet.
func (t *Token) fresh(now time.Time, margin time.Duration) bool {
	return t.usable(now) && now.Before(t.dueAhead(margin)) && !t.fromFuture(now)
}

// fromFuture reports whether the token was issued by a clock that is ahead of
// this one, or before this one was set back. When it ends is not known then.
func (t *Token) fromFuture(now time.Time) bool {
	return now.Before(t.IssuedAt.Add(-time.Minute))
}

// belongsTo reports whether the grant was made to a registration, or may have
// been: old records do not tell.
func (t *Token) belongsTo(registration string) bool {
	return t.Registration == "" || t.Registration == registration
}

// uses reports whether the grant lives and lives on a refresh token, or did.
// Presenting that token elsewhere may end the grant (RFC 9700, section 4.14.2).
func (t *Token) uses(refreshToken, registration string) bool {
	if t.Revoked || !t.belongsTo(registration) {
		return false
	}
	is := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	return is(t.RefreshToken.Reveal(), refreshToken) || is(t.PreviousRefreshToken.Reveal(), refreshToken) ||
		is(t.Imported, importMark(refreshToken))
}

// importMark identifies a refresh token that was imported, without being one.
func importMark(refreshToken string) string { return digest("import", refreshToken) }

// supersedes reports whether t was granted or issued after o. A later sign-in
// counts more than the generation, which begins anew after a disconnect.
func (t *Token) supersedes(o *Token) bool {
	if !t.AuthorizedAt.Equal(o.AuthorizedAt) {
		return t.AuthorizedAt.After(o.AuthorizedAt)
	}
	return t.Generation > o.Generation
}

// newerThan reports whether t tells more than o: it supersedes it, or is the
// same token and known to be dead.
func (t *Token) newerThan(o *Token) bool {
	return t.supersedes(o) || t.Revoked && !o.Revoked && !o.supersedes(t)
}

// fingerprint identifies an access token without being one.
func fingerprint(accessToken string) [sha256.Size]byte {
	return sha256.Sum256([]byte(accessToken))
}

// recordVersion is the version of the JSON inside a sealed record.
const recordVersion = 1

// record is a Token as it is stored.
type record struct {
	Version              int       `json:"version"`
	Provider             string    `json:"provider"`
	User                 string    `json:"user"`
	Registration         string    `json:"registration,omitempty"`
	Generation           uint64    `json:"generation"`
	AccessToken          string    `json:"access_token,omitempty"`
	RefreshToken         string    `json:"refresh_token,omitempty"`
	PreviousRefreshToken string    `json:"previous_refresh_token,omitempty"`
	Imported             string    `json:"imported,omitempty"`
	Requested            []string  `json:"requested,omitempty"`
	Scopes               []string  `json:"scopes,omitempty"`
	Identity             Identity  `json:"identity,omitzero"`
	AuthorizedAt         time.Time `json:"authorized_at,omitzero"`
	AuthorizedBy         string    `json:"authorized_by,omitempty"`
	IssuedAt             time.Time `json:"issued_at,omitzero"`
	Expiry               time.Time `json:"expiry,omitzero"`
	Revoked              bool      `json:"revoked,omitempty"`
	Failure              *Failure  `json:"failure,omitempty"`
}

func encodeToken(t *Token) ([]byte, error) {
	return json.Marshal(record{
		Version:              recordVersion,
		Provider:             t.Account.Provider,
		User:                 t.Account.User,
		Registration:         t.Registration,
		Generation:           t.Generation,
		AccessToken:          t.AccessToken.Reveal(),
		RefreshToken:         t.RefreshToken.Reveal(),
		PreviousRefreshToken: t.PreviousRefreshToken.Reveal(),
		Imported:             t.Imported,
		Requested:            t.Requested,
		Scopes:               t.Scopes,
		Identity:             t.Identity,
		AuthorizedAt:         t.AuthorizedAt,
		AuthorizedBy:         t.AuthorizedBy,
		IssuedAt:             t.IssuedAt,
		Expiry:               t.Expiry,
		Revoked:              t.Revoked,
		Failure:              t.Failure,
	})
}

func decodeToken(data []byte) (*Token, error) {
	var r record
	err := json.Unmarshal(data, &r)
	if err != nil {
		// A newer record may have another shape.
		var v struct {
			Version int `json:"version"`
		}
		if json.Unmarshal(data, &v) == nil {
			r.Version = v.Version
		}
	}
	if r.Version > recordVersion {
		return nil, fmt.Errorf("token record version %d: %w", r.Version, ErrNewerFormat)
	}
	if err != nil {
		// The decoder's words may quote the record, which holds tokens.
		return nil, fmt.Errorf("no valid record: %w", ErrCorrupt)
	}
	return &Token{
		Account:              Account{Provider: r.Provider, User: r.User},
		Registration:         r.Registration,
		Generation:           r.Generation,
		AccessToken:          NewSecret(r.AccessToken),
		RefreshToken:         NewSecret(r.RefreshToken),
		PreviousRefreshToken: NewSecret(r.PreviousRefreshToken),
		Imported:             r.Imported,
		Requested:            r.Requested,
		Scopes:               r.Scopes,
		Identity:             r.Identity,
		AuthorizedAt:         r.AuthorizedAt,
		AuthorizedBy:         r.AuthorizedBy,
		IssuedAt:             r.IssuedAt,
		Expiry:               r.Expiry,
		Revoked:              r.Revoked,
		Failure:              r.Failure,
	}, nil
}
