package native

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// parkBound is the longest that the loser of a race is kept waiting for its answer.
	parkBound = 100 * time.Millisecond
	// parkIdle is how long nobody may have changed a key before the next of its losers is answered all the same.
	parkIdle = 2 * time.Millisecond
	// maxParked bounds the losers that wait for one key. Further ones are answered at once.
	maxParked = 1024
)

// errParked is what an operation's function returns when the operation should have its turn again later.
var errParked = errors.New("the operation waits for a key")

// contention keeps losers of compare-and-set races waiting, so that they do not all come back at once to lose again: when a
// change of the key is durable, one of them is answered with it, and has a good chance to be the next winner. Without this,
// each change of a hot key costs a request of everybody who wants to change it. Any moment before the answer is a right one
// for the losers' turn.
type contention struct {
	open atomic.Int64 // keys that somebody waits for; 0 makes contended cheap

	mu   sync.Mutex // guards lots
	lots map[string]*lot
}

// lot is who waits for a key, first come first.
type lot struct {
	ops []*operation
	// moved is when one was last let go, or the first came.
	moved time.Time
}

// contended says whether somebody waits for the key.
func (c *contention) contended(key string) bool {
	if c.open.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lots[key] != nil
}

// park keeps an operation; false if there is no room.
func (c *contention) park(op *operation, key string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lots[key]
	if l == nil {
		if c.lots == nil {
			c.lots = map[string]*lot{}
		}
		l = &lot{moved: now}
		c.lots[key] = l
		c.open.Add(1)
	}
	if len(l.ops) >= maxParked {
		return false
	}
	l.ops = append(l.ops, op)
	return true
}

// changed lets one operation go for each of the keys that somebody waits for.
func (c *contention) changed(b *batch, now time.Time) []*operation {
	if c.open.Load() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var free []*operation
	for i := range b.rows {
		if l := c.lots[b.rows[i].Key]; l != nil {
			free = c.pop(free, b.rows[i].Key, l, now)
		}
	}
	return free
}

// overdue lets go who has waited too long, and the next one of a key that nobody has changed for a while.
func (c *contention) overdue(now time.Time) []*operation {
	if c.open.Load() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var free []*operation
	for key, l := range c.lots {
		idle := now.Sub(l.moved) >= parkIdle
		for len(l.ops) > 0 && (idle || now.Sub(l.ops[0].parked) >= parkBound) {
			free = c.pop(free, key, l, now)
			idle = false
		}
	}
	return free
}

// pop is called with mu held.
func (c *contention) pop(free []*operation, key string, l *lot, now time.Time) []*operation {
	op := l.ops[0]
	l.ops = l.ops[1:]
	l.moved = now
	if len(l.ops) == 0 {
		delete(c.lots, key)
		c.open.Add(-1)
	}
	return append(free, op)
}

// all lets everybody go.
func (c *contention) all() []*operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	var free []*operation
	for _, l := range c.lots {
		free = append(free, l.ops...)
	}
	c.lots = nil
	c.open.Store(0)
	return free
}

// hotKey is the key of a transaction that races for it: a compare of its revision, and branches of which the losing one only
// reads.
func hotKey(r *pb.TxnRequest) (string, bool) {
	if len(r.Compare) != 1 {
		return "", false
	}
	c := r.Compare[0]
	return string(c.Key), c.Target == pb.Compare_MOD && c.Result == pb.Compare_EQUAL && len(c.RangeEnd) == 0 && c.GetModRevision() != 0
}

// waits says whether a transaction that has lost its race should be answered later: when what it lost against is not durable
// yet, or others wait already. An operation waits once.
func (t *turn) waits(r *pb.TxnRequest, p *path) bool {
	if p.succeeded || !t.op.parked.IsZero() || !p.reads(r) {
		return false
	}
	key, hot := hotKey(r)
	if !hot {
		return false
	}
	if !t.e.seq.contention.contended(key) {
		head, ok := t.e.index.Head(key)
		if !ok || head.Mod <= t.e.committed() {
			return false
		}
	}
	t.op.key = key
	return true
}
