// Package valuecache keeps the KeyValues of recently used rows in memory, bounded by bytes.
//
// A row never changes, so that an entry is never out of date: Remove is there to free the memory of rows that compaction has
// deleted, and nothing goes wrong without it. The cache gives no promise to hold anything.
//
// The KeyValues are shared: the cache, its callers and everyone that they pass a KeyValue to must never change one, nor the
// bytes of its key and value.
//
// It is divided into shards by row ID, each with a lock of its own and an equal part of the bytes. Each shard is a CLOCK: a
// ring of entries with one bit each that a Get sets. When space is needed, a hand goes round, clears the bits that are set
// and drops the entries whose bit is not. So a Get takes a read lock and writes nothing to an entry that was used lately,
// and rows that are read once, by a list of everything say, go before those that are read again and again.
package valuecache
