// Package bolt keeps the outbox of one instance in a file, on bbolt.
//
// The folder holds the database outbox.db, a journal of what is to come into it, in
// contents/ a file for each message over 256 KiB, and a reserve: room for outcomes when
// the disk is full.
//
// All changes go through one goroutine. It takes everything that waits and stores
// it at once, in one batch; what comes meanwhile waits for the next. The same batch
// marks the messages that are handed out next, so that a delivery costs one flush and
// not two. Outcomes that nobody waits for lie a few milliseconds, and are stored with the
// next change that somebody waits for. Nothing else touches the lanes, which hence need
// no lock.
//
// A batch is applied to a transaction of bbolt that stays open, and made durable by one
// write to the journal. When that is full, or somebody reads, or a second has passed, the
// transaction is committed, and the journal begins anew. After a crash the changes in the
// journal are made again. So the tree of pages is written once for some hundred messages,
// and those that were sent meanwhile are never written to it with their contents.
package bolt
