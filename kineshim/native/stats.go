package native

import (
	"kineshim/kineshim/watch"
)

// Observer takes measurements one by one, from many goroutines. It must neither block nor cost much: it is called for each operation.
type Observer interface{ Observe(float64) }

// Measures are who is told how long things take, in seconds. Nil: nobody.
type Measures struct {
	// Queue is told, for each operation that needs a turn, how long it waited for it; Batch, for each batch of changes, for how long it was filled
	// before it was sent to PostgreSQL; Commit, how long it took from then until it was durable, on the standby too if that is waited for.
	Queue, Batch, Commit Observer
	// BatchOperations is told how many operations a batch has.
	BatchOperations Observer
	// WatchLag is told, for each batch of events of a watch, how long its oldest event took from its publication on this node until it was handed
	// to the client's connection.
	WatchLag Observer
}

// observe tells o, if there is one.
func observe(o Observer, v float64) {
	if o != nil {
		o.Observe(v)
	}
}

// Stats are numbers of a node's copy of the keys, and of the engine that serves from it.
type Stats struct {
	// Loaded: there is a copy. Without one all others are 0.
	Loaded bool
	// Serving: an engine serves here. Queued is how many operations wait for their turn, InFlight how many batches are on their way to PostgreSQL;
	// Leases are those that have been granted and not ended.
	Serving                  bool
	Queued, InFlight, Leases int
	// Revision is the newest durable revision, Compacted the one below which reads are refused, -1: none.
	Revision, Compacted int64
	// Keys and Revisions are what the index holds: keys, with deleted ones that are not compacted yet, and their versions.
	Keys, Revisions int
	// CacheBytes are the values in memory; CacheHits and CacheMisses count since the copy was made.
	CacheBytes, CacheHits, CacheMisses int64
	Watch                              watch.Stats
}

// Stats looks. It takes locks that are held for a moment only.
func (r *Replica) Stats() Stats {
	k := r.copy.Load()
	if k == nil {
		return Stats{}
	}
	c := k.cache.Stats()
	s := Stats{
		Loaded: true, Revision: k.committed(), Compacted: k.compacted(), Keys: k.index.Keys(), Revisions: k.index.Revisions(),
		CacheBytes: c.Bytes, CacheHits: c.Hits, CacheMisses: c.Misses, Watch: k.hub.Stats(),
	}
	if e := r.serving.Load(); e != nil {
		s.Serving = true
		s.Queued, s.InFlight = e.seq.load()
		s.Leases = e.leases.Count()
	}
	return s
}

// load is how many operations wait for their turn, and how many batches are on their way.
func (q *sequencer) load() (queued, inFlight int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queue), len(q.flight)
}
