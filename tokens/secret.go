package tokens

import "log/slog"

// Secret is a string that does not show itself: printed, logged or marshalled
// it reads "[redacted]". Only [Secret.Reveal] gives the value.
//
// Its value lies behind a pointer, since fmt looks into unexported fields
// without asking for a String method.
type Secret struct{ value *string }

const redacted = "[redacted]"

// NewSecret wraps a value. An empty one gives the zero Secret.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{&value}
}

// Reveal returns the value. Call it on the last line before the wire.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == nil }

// String returns a fixed text.
func (s Secret) String() string { return redacted }

// GoString returns a fixed text.
func (s Secret) GoString() string { return redacted }

// MarshalText returns a fixed text. A secret is stored by [Store] alone.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns a fixed text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
