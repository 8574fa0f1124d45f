package valuecache

import (
	"math/bits"
	"unsafe"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	// maxShards is well above the number of cores that it is run on, so that two rarely want the same shard.
	maxShards = 16
	// shardBytes is the least a shard gets before there are more of them, so that an eighth of it holds the largest value
	// that a request can bring (1.5 MiB).
	shardBytes = 16 << 20
	// largest is the part of a shard that one entry may take: larger ones would drive out too many others.
	largest = 8

	// mapBytes is what a map of int64 to int32 takes for an entry, and slack what is left unused, on average, in the map,
	// in the ring and in the allocator's size classes.
	mapBytes = 26
	slack    = 34
	// Overhead is what an entry counts, in bytes, besides its key and its value.
	Overhead = int64(unsafe.Sizeof(mvccpb.KeyValue{})+unsafe.Sizeof(slot{})) + mapBytes + slack
)

// Cache holds KeyValues by row ID. All methods may be called from any goroutine.
type Cache struct {
	shards []shard
	shift  uint
}

// Stats is a snapshot of what the cache holds and has done since it was made. The shards are asked one after the other.
type Stats struct {
	// Bytes is the memory that is accounted for: keys, values and Overhead for each entry.
	Bytes   int64
	Entries int64
	// Hits and Misses count the calls of Get.
	Hits, Misses int64
}

// New returns a cache that holds at most maxBytes. With less than about a kilobyte it holds nothing, which is allowed.
func New(maxBytes int64) *Cache {
	n := 1
	for n < maxShards && maxBytes/int64(2*n) >= shardBytes {
		n *= 2
	}
	c := &Cache{shards: make([]shard, n), shift: uint(64 - bits.TrailingZeros(uint(n)))}
	for i := range c.shards {
		c.shards[i].max = maxBytes / int64(n)
		c.shards[i].where = make(map[int64]int32)
		c.shards[i].free, c.shards[i].hand = none, none
	}
	return c
}

// shard spreads the IDs, which follow one another, by Fibonacci hashing.
func (c *Cache) shard(id int64) *shard {
	return &c.shards[uint64(id)*0x9e3779b97f4a7c15>>c.shift]
}

// Get returns the KeyValue of row id if it is held. The caller must not change it.
func (c *Cache) Get(id int64) (*mvccpb.KeyValue, bool) {
	kv := c.shard(id).get(id)
	return kv, kv != nil
}

// Add holds kv, which must not be nil or ever change again, as row id. It does nothing if kv takes more than an eighth of a
// shard, and it may drop others.
func (c *Cache) Add(id int64, kv *mvccpb.KeyValue) {
	c.shard(id).add(id, kv)
}

// Remove drops row id if it is held.
func (c *Cache) Remove(id int64) { c.shard(id).remove(id) }

// Stats returns what the cache holds and has done.
func (c *Cache) Stats() Stats {
	var sum Stats
	for i := range c.shards {
		s := c.shards[i].stats()
		sum.Bytes += s.Bytes
		sum.Entries += s.Entries
		sum.Hits += s.Hits
		sum.Misses += s.Misses
	}
	return sum
}
