package tokens

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// Account is one mailbox identity at one provider: the key under which a token
// is kept.
type Account struct {
	// Provider is the provider's name in the configuration.
	Provider string `json:"provider"`
	// User is the mailbox that signs in, such as noreply@example.com. Letters
	// count as equal in either case.
	User string `json:"user"`
}

func (a Account) String() string { return a.Provider + "/" + a.User }

// The keys in the storage. User text never becomes part of one: storages
// differ in what they do with odd characters and with case.
const (
	// prefixTokens holds one sealed record per account.
	prefixTokens = "oauth_mail/tokens" //nolint:gosec // no credentials
	// prefixStates holds the hashes of states that were used up.
	prefixStates = "oauth_mail/states"
	// lockPrefix begins the names of locks. File storages fold its case, so it
	// has none.
	lockPrefix = "oauth_mail_token_"
)

// hash identifies the account, whatever the case of its letters.
func (a Account) hash() string { return digest(a.Provider, strings.ToLower(a.User)) }

// digest is the SHA-256 of length-prefixed parts, in hexadecimal.
func digest(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// storageKey is where the account's record lies. The two digits spread a large
// number of records over folders.
func (a Account) storageKey() string {
	h := a.hash()
	return prefixTokens + "/" + h[:2] + "/" + h + ".tok"
}

func (a Account) lockName() string { return lockPrefix + a.hash() }
