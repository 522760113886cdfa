// Package bolt keeps the outbox of one instance in a file, on bbolt.
//
// The folder holds the database outbox.db, in contents/ a file for each message
// over 64 KiB, and a reserve: room for outcomes when the disk is full.
//
// All changes go through one goroutine. It takes everything that waits and stores
// it in one transaction; what comes meanwhile waits for the next. The same
// transaction marks the messages that are handed out next, so that a delivery costs
// one commit and not two. Outcomes that nobody waits for lie a few milliseconds, and
// are stored with the next change that somebody waits for. Nothing else touches the
// lanes, which hence need no lock.
package bolt
