// Package outbox keeps messages from the moment they are accepted until they are
// sent, refused for good, or given up.
//
// An [Engine] stores them durably and hands out those that are due; [Outbox]
// decides what becomes of each after a try. The engine for one instance is package
// bolt; fleets use one on their database. Every engine passes the suite of package
// outboxtest.
//
// Delivery is at least once: a message is sent twice only where an instance ended,
// or the connection did, between the content and the record of the server's answer.
package outbox
