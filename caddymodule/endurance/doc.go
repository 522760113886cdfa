// Package endurance has what proofs on the whole program need: [Caddy] is a process
// that can be killed, [Ledger] keeps book of messages, and [Load] posts them without
// end. The proofs are its tests, behind the tag endurance.
package endurance
