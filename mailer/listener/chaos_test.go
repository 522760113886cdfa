//go:build chaos

package listener

import (
	"testing"
	"time"
)

// TestChaosCrowd is TestCrowd with as many as it takes.
func TestChaosCrowd(t *testing.T) {
	crowd(t, 1000, 10_000, time.Second)
}
