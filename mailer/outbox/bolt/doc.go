// Package bolt keeps the outbox of one instance in a file, on bbolt.
//
// The folder holds the database outbox.db, two journals of what is to come into it, in
// contents/ a file for each message over 256 KiB, and a reserve: room for outcomes when
// the disk is full.
//
// All changes go through one goroutine. It takes everything that waits and stores
// it at once, in one batch; what comes meanwhile waits for the next. Where many post at the
// same time, it waits for most of them, a flush's time at most. The same batch
// marks the messages that are handed out next, so that a delivery costs one flush and
// not two. Outcomes that nobody waits for lie a few milliseconds, and are stored with the
// next change that somebody waits for. Nothing else touches the lanes, which hence need
// no lock.
//
// A batch is made durable by one write to a journal, and its changes stay in memory, in the
// young generation, which lies on the database like a sheet of glass. When its journal is
// full, or somebody reads, or a second has passed, it becomes the old generation, and the
// other journal takes what comes next. Another goroutine merges the old generation into the
// database, by a transaction of bbolt, while messages are accepted; only if both journals are
// full they wait. So the tree of pages is written once for some hundred messages, and those
// that were sent meanwhile are never written to it with their contents. After a crash the
// changes in both journals are made again. While one journal after the other is filled, the
// memory of a generation that was merged serves for the next.
package bolt
