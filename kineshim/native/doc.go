// Package native is the engine of --engine=native: the etcd v3 data API on kine's own table, through one sequencer, an index of
// the keyspace in memory and group commits.
//
// Every write, and all that must be in one order with the writes, is a turn of the sequencer: it is evaluated against the index,
// its changes are appended to the index above the committed revision and to the current batch, and it is answered when that
// batch is durable. Reads see the committed revision only. If a commit's outcome is in doubt the engine fails as a whole: what
// the index holds then is not known to be true, and a new engine loads it again.
package native
