// Package mailertest has what tests of mail need on the other side: a [Server]
// that records what it gets, a [Script] that answers, fails or falls silent at
// any step, a [Vendor] that answers as Exchange Online or Gmail do, a [Sink]
// that is fast enough to measure against, and connections that take their time,
// [Pipe] and [DelayProxy].
package mailertest
