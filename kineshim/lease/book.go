// Package lease keeps the leases of a keyspace in memory: what time each has left on the lease clock, and which keys go with
// it.
//
// It is pure: it stores nothing, starts nothing, and reads the time from the clock that it is given. The lease clock counts
// the time that the cluster has served, so that a lease loses none of its time while nobody could have renewed it.
//
// A Book is of use without leases, too: a node that follows the primary knows which keys name which lease, because that is part of
// the keys, but not the leases. It attaches and detaches keys, and is given the leases by Restart when it becomes the primary.
package lease

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// MinTTL is what a shorter TTL is raised to, in seconds: etcd's minimum with its default heartbeat of 100 ms and
	// election timeout of 1 s, one and a half times the latter, rounded up.
	MinTTL = 2
	// MaxTTL is the longest TTL that is granted, in seconds: etcd's. A time.Duration just holds it.
	MaxTTL = 9_000_000_000
)

var (
	// ErrNotFound says that there is no such lease.
	ErrNotFound = errors.New("lease not found")
	// ErrExpired is Renew's ErrNotFound for a lease that is still in the book, but whose time is over. It must be revoked.
	ErrExpired = fmt.Errorf("%w: its time is over", ErrNotFound)
	// ErrExists says that the ID that was asked for is taken.
	ErrExists = errors.New("lease already exists")
	// ErrTTLTooLarge says that more than MaxTTL was asked for.
	ErrTTLTooLarge = errors.New("too large lease TTL")
)

// Lease is a lease without its keys.
type Lease struct {
	// ID is never 0. A client may choose a negative one; those that Grant chooses are positive.
	ID int64
	// TTL is what was granted, in seconds, and what a renewal gives again.
	TTL int64
	// Expires is when its time is over, on the lease clock.
	Expires time.Duration
}

// Book is the leases, and the keys that go with them. Keys are attached to a lease's ID, whether there is such a lease or not. It
// is safe for concurrent use; each method is one step.
type Book struct {
	mu     sync.RWMutex // guards the fields below and the entries
	clock  func() time.Duration
	leases map[int64]*entry
	queue  queue
	keys   map[int64]keySet // by lease ID; none is empty
}

// entry is a lease in the book.
type entry struct {
	Lease
	at int // its place in the queue
}

// New returns an empty book that runs on the clock, which must be safe for concurrent use and never go back.
func New(clock func() time.Duration) *Book {
	return &Book{clock: clock, leases: map[int64]*entry{}, keys: map[int64]keySet{}}
}

// Restart puts another clock and these leases in place of those that there are. They are taken as Restore takes them. What keys are
// attached to which ID stays, whether it is one of these leases or not.
func (b *Book) Restart(clock func() time.Duration, l []Lease) {
	fresh := New(clock)
	fresh.Restore(l)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock, b.leases, b.queue = fresh.clock, fresh.leases, fresh.queue
}

// Restore adds leases as they are, with their time. As in etcd a TTL below MinTTL is raised, for the renewals to come. The
// keys that are attached to a lease's ID stay.
func (b *Book) Restore(l []Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range l {
		l.TTL = max(l.TTL, MinTTL)
		if e := b.leases[l.ID]; e != nil {
			e.Lease = l
			heap.Fix(&b.queue, e.at)
			continue
		}
		b.add(l)
	}
}

// Grant adds a lease of ttl seconds, raised to MinTTL, that begins now. ID 0 asks for a fresh one, which no key names. Keys that
// are attached to an ID that is asked for go with the lease from now on. The errors are ErrTTLTooLarge and ErrExists.
func (b *Book) Grant(id, ttl int64) (Lease, error) {
	if ttl > MaxTTL {
		return Lease{}, ErrTTLTooLarge
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if id == 0 {
		id = b.freshID()
	} else if b.leases[id] != nil {
		return Lease{}, ErrExists
	}
	ttl = max(ttl, MinTTL)
	l := Lease{ID: id, TTL: ttl, Expires: after(b.clock(), ttl)}
	b.add(l)
	return l, nil
}

// freshID is random, so that an ID is not given twice in the life of a store, whoever serves. Called with mu held.
func (b *Book) freshID() int64 {
	for {
		if id := rand.Int64(); b.free(id) {
			return id
		}
	}
}

// free says that no lease has the ID and that no key names it. Called with mu held.
func (b *Book) free(id int64) bool {
	_, named := b.keys[id]
	return id != 0 && !named && b.leases[id] == nil
}

// add is called with mu held.
func (b *Book) add(l Lease) {
	e := &entry{Lease: l}
	b.leases[l.ID] = e
	heap.Push(&b.queue, e)
}

// Renew gives a lease its whole TTL again, from now on. A lease whose time is over is not renewed, even if it has not been
// revoked yet (ErrExpired): its keys may be about to go.
func (b *Book) Renew(id int64) (Lease, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.leases[id]
	if e == nil {
		return Lease{}, ErrNotFound
	}
	now := b.clock()
	if e.Expires <= now {
		return Lease{}, ErrExpired
	}
	e.Expires = after(now, e.TTL)
	heap.Fix(&b.queue, e.at)
	return e.Lease, nil
}

// Revoke forgets a lease and what is attached to it. Deleting the keys is the caller's part. The error is ErrNotFound.
func (b *Book) Revoke(id int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.leases[id]
	if e == nil {
		return ErrNotFound
	}
	delete(b.leases, id)
	delete(b.keys, id)
	heap.Remove(&b.queue, e.at)
	return nil
}

// Attach notes that the key goes with the lease, whether there is such a lease or not. It does nothing if it does already. The Book
// keeps the string: who has many keys gives it those that are in memory anyway.
func (b *Book) Attach(id int64, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.keys[id]
	if s.add(key) {
		b.keys[id] = s
	}
}

// Detach notes that the key does not go with the lease. It does nothing if it did not.
func (b *Book) Detach(id int64, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.keys[id]
	switch {
	case !s.remove(key):
	case s.len() == 0:
		delete(b.keys, id)
	default:
		b.keys[id] = s
	}
}

// Keys returns the keys that go with a lease, sorted, whether there is such a lease or not.
func (b *Book) Keys(id int64) []string {
	b.mu.RLock()
	s := b.keys[id]
	keys := s.all()
	b.mu.RUnlock()
	slices.Sort(keys)
	return keys
}

// KeyCount is the number of keys that go with a lease, whether there is such a lease or not.
func (b *Book) KeyCount(id int64) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s := b.keys[id]
	return s.len()
}

// Get returns a lease and the time that it has left, which is 0 or less if it waits to be revoked.
func (b *Book) Get(id int64) (l Lease, remaining time.Duration, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e := b.leases[id]
	if e == nil {
		return Lease{}, 0, false
	}
	return e.Lease, e.Expires - b.clock(), true
}

// Count is how many leases there are.
func (b *Book) Count() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.leases)
}

// All returns all leases, those that expire first first, as etcd lists them; equal ones by ID.
func (b *Book) All() []Lease {
	b.mu.RLock()
	all := make([]Lease, 0, len(b.leases))
	for _, e := range b.queue {
		all = append(all, e.Lease)
	}
	b.mu.RUnlock()
	slices.SortFunc(all, compare)
	return all
}

// Expired returns the IDs of at most limit leases whose time is over, those that expired first first. They stay in the book
// until they are revoked.
func (b *Book) Expired(limit int) []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	var over []*entry
	for len(over) < limit && len(b.queue) > 0 && b.queue[0].Expires <= now {
		over = append(over, heap.Pop(&b.queue).(*entry))
	}
	ids := make([]int64, 0, len(over))
	for _, e := range over {
		ids = append(ids, e.ID)
		heap.Push(&b.queue, e)
	}
	return ids
}

// Next is the time until the next expiry, 0 if a lease waits to be revoked; ok is false when there are no leases.
func (b *Book) Next() (in time.Duration, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if len(b.queue) == 0 {
		return 0, false
	}
	return max(0, b.queue[0].Expires-b.clock()), true
}

// endOfTime is the latest expiry: in whole seconds and with one to spare, so that it can be rounded up where it is stored.
const endOfTime = (math.MaxInt64/time.Second - 1) * time.Second

// after is ttl seconds after now, or the end of time.
func after(now time.Duration, ttl int64) time.Duration {
	span := time.Duration(ttl) * time.Second
	if now > endOfTime-span {
		return endOfTime
	}
	return now + span
}

func compare(a, b Lease) int {
	return cmp.Or(cmp.Compare(a.Expires, b.Expires), cmp.Compare(a.ID, b.ID))
}

// queue is a heap of the leases by their expiry, for container/heap.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return compare(q[i].Lease, q[j].Lease) < 0 }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

func (q *queue) Push(x any) {
	e := x.(*entry)
	e.at = len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
