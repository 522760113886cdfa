// Package river is the outbox engine of fleets: any number of instances that share a
// PostgreSQL database, with River for the wake-up calls.
//
// # What is where
//
// Messages, contents, lanes and limits are rows of our own tables; River's jobs live
// beside them in the same schema, so that a message and its job are committed
// together. Records and contents are sealed. A job tells a message's id, its lane and
// its generation, and nothing else.
//
// # Who sends a message
//
// A message that is being sent has an owner, which is an instance, and a generation,
// which grows whenever the message changes hands. What a try came to is recorded only
// where both are still the same. Each instance has a beat in the database. Where one
// stands still for 12 s, and some instance or other was in contact with the database
// all that time, its messages are taken over: after an outage of the database nobody
// takes the others for dead because they are a moment later to come back.
//
// # Who may connect to a mail server
//
// The connections that a mailbox may have are leases of instances, which last as long
// as a beat of the instance was seen in the last 12 s by the database's clock. An
// instance fences itself before: 9 s after the last beat that it knows was heard it
// begins nothing, breaks off what it has not begun to transmit, and closes its idle
// connections. So where it is dead, its share is free when its messages are; and where
// it is cut off from the database, or that is away, nobody opens a connection in the
// place of one that is still idle there. What it has begun to transmit goes on to its
// end, as breaking it off would put the message in doubt: until then there may be as
// many connections too many as there are such messages, and a message too many in a
// window. When it is back it counts them again before it takes another. The same
// holds for a process that was stopped longer than 9 s, which learns of that when it
// goes on; nothing can hold it to what it does not know.
//
// # Lanes, and what River does
//
// The instance that accepts a message tries it at once. All others are claimed, lane
// by lane, from an index by tenant and due time, under FOR UPDATE SKIP LOCKED: a lane
// costs one look at the index where something in it is due, however many messages
// wait in others, and a lane that is parked costs none. A River queue for each tenant
// would cost a poll a second for each of them in each instance, and one queue for all
// would let the jobs of one slow tenant take all workers. So River does what needs no
// room: it is the clock that all instances share. Its job wakes the lane of a message
// in an instance, whichever has a worker free, and is then done; where that one has no
// room it calls the others by NOTIFY. A job of an older generation does nothing, and
// none runs longer than a look at the index. Timers in each instance, NOTIFY, and a
// look at all lanes every two seconds do the same without River, so that no single
// one of them is needed for a message to move.
//
// What is due is due by the clock of the instance that looks. Beats, leases and limits
// go by the database's.
package river
