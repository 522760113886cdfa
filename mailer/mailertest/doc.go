// Package mailertest has mail servers for tests: a [Server] that records what
// it gets, and a [Script] that answers, fails or falls silent at any step.
package mailertest
