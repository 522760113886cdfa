package outbox

// Sealer seals what engines store. A name belongs to each record: what was sealed
// under one does not open under another. It may be used concurrently.
type Sealer interface {
	Seal(name string, plaintext []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}
