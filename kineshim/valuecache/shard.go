package valuecache

import (
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// slot is an entry. The slots in use form a ring by position; the free ones a list by next.
type slot struct {
	id         int64
	kv         *mvccpb.KeyValue
	prev, next int32
	used       uint32 // 1: since the hand last came by. Atomic: set under the read lock.
}

// none is the position of no slot.
const none = int32(-1)

func sizeOf(kv *mvccpb.KeyValue) int64 { return int64(cap(kv.Key)+cap(kv.Value)) + Overhead }

// shard is a CLOCK of its own.
type shard struct {
	max int64 // bytes; never changes

	mu    sync.RWMutex // guards the fields below
	where map[int64]int32
	slots []slot
	free  int32
	hand  int32 // the entry that is looked at next; none if there is none
	bytes int64

	hits, misses atomic.Int64
	_            [64]byte // keeps the counters of two shards apart
}

func (s *shard) get(id int64) *mvccpb.KeyValue {
	s.mu.RLock()
	i, ok := s.where[id]
	if !ok {
		s.mu.RUnlock()
		s.misses.Add(1)
		return nil
	}
	e := &s.slots[i]
	kv := e.kv
	if atomic.LoadUint32(&e.used) == 0 { // a write for each Get would take the line from the other cores
		atomic.StoreUint32(&e.used, 1)
	}
	s.mu.RUnlock()
	s.hits.Add(1)
	return kv
}

func (s *shard) add(id int64, kv *mvccpb.KeyValue) {
	size := sizeOf(kv)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.where[id]; ok {
		s.drop(i)
	}
	if size > s.max/largest {
		return
	}
	for s.bytes+size > s.max {
		s.evict()
	}
	s.bytes += size
	s.where[id] = s.insert(slot{id: id, kv: kv})
}

func (s *shard) remove(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.where[id]; ok {
		s.drop(i)
	}
}

// evict drops one entry. There must be one. It ends: the hand clears the bits as it goes round.
func (s *shard) evict() {
	for s.slots[s.hand].used != 0 {
		s.slots[s.hand].used = 0
		s.hand = s.slots[s.hand].next
	}
	s.drop(s.hand)
}

// insert puts e where the hand comes last, and returns its position.
func (s *shard) insert(e slot) int32 {
	i := s.free
	if i == none {
		i = int32(len(s.slots))
		s.slots = append(s.slots, slot{})
	} else {
		s.free = s.slots[i].next
	}
	if s.hand == none {
		e.prev, e.next, s.hand = i, i, i
	} else {
		e.prev, e.next = s.slots[s.hand].prev, s.hand
		s.slots[e.prev].next = i
		s.slots[e.next].prev = i
	}
	s.slots[i] = e
	return i
}

// drop takes the entry at position i away.
func (s *shard) drop(i int32) {
	e := s.slots[i]
	s.slots[e.prev].next = e.next
	s.slots[e.next].prev = e.prev
	if s.hand == i {
		s.hand = e.next
		if e.next == i {
			s.hand = none
		}
	}
	delete(s.where, e.id)
	s.bytes -= sizeOf(e.kv)
	s.slots[i] = slot{next: s.free}
	s.free = i
}

func (s *shard) stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{Bytes: s.bytes, Entries: int64(len(s.where)), Hits: s.hits.Load(), Misses: s.misses.Load()}
}
