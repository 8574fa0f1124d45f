package lease

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// book returns a Book whose clock stands where the test sets it.
func book() (*Book, *time.Duration) {
	now := new(time.Duration)
	return New(func() time.Duration { return *now }), now
}

func grant(t *testing.T, b *Book, id, ttl int64) Lease {
	t.Helper()
	l, err := b.Grant(id, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestGrantRefusesWhatEtcdRefuses(t *testing.T) {
	b, _ := book()
	grant(t, b, 7, 10)
	for _, c := range []struct {
		id, ttl int64
		want    error
	}{
		{7, 10, ErrExists},
		{7, MaxTTL + 1, ErrTTLTooLarge}, // looked at first
		{8, MaxTTL + 1, ErrTTLTooLarge},
		{0, math.MaxInt64, ErrTTLTooLarge},
		{8, MaxTTL, nil},
		{-5, 10, nil},
		{math.MinInt64, math.MinInt64, nil},
	} {
		if _, err := b.Grant(c.id, c.ttl); !errors.Is(err, c.want) {
			t.Errorf("grant %d for %d s: %v, want %v", c.id, c.ttl, err, c.want)
		}
	}
	if n := len(b.All()); n != 4 {
		t.Errorf("%d leases, want 4", n)
	}
}

func TestShortTTLIsRaisedToTheMinimum(t *testing.T) {
	for ttl, want := range map[int64]int64{math.MinInt64: 2, -1: 2, 0: 2, 1: 2, 2: 2, 3: 3} {
		b, now := book()
		*now = time.Hour
		l := grant(t, b, 1, ttl)
		if l.TTL != want || l.Expires != time.Hour+time.Duration(want)*time.Second {
			t.Errorf("TTL %d: granted %+v, want %d s", ttl, l, want)
		}
	}
}

func TestFreshIDsArePositiveAndUnique(t *testing.T) {
	b, _ := book()
	seen := map[int64]bool{}
	for range 1000 {
		l := grant(t, b, 0, 10)
		if l.ID <= 0 || seen[l.ID] {
			t.Fatalf("ID %d after %d others", l.ID, len(seen))
		}
		seen[l.ID] = true
	}
}

func TestRenewalGivesTheWholeTTLFromNowOn(t *testing.T) {
	b, now := book()
	grant(t, b, 1, 10)
	*now = 10*time.Second - 1
	l, err := b.Renew(1)
	if err != nil || l.TTL != 10 || l.Expires != 20*time.Second-1 {
		t.Fatalf("renewed: %+v, %v", l, err)
	}
	if _, remaining, _ := b.Get(1); remaining != 10*time.Second {
		t.Errorf("%v remain", remaining)
	}
	if _, err := b.Renew(2); !errors.Is(err, ErrNotFound) || errors.Is(err, ErrExpired) {
		t.Errorf("renew what is not there: %v", err)
	}
}

func TestExpiredLeaseIsNotRenewedAndStaysUntilRevoked(t *testing.T) {
	b, now := book()
	grant(t, b, 1, 10)
	b.Attach(1, "k")
	*now = 10 * time.Second
	if _, err := b.Renew(1); !errors.Is(err, ErrExpired) || !errors.Is(err, ErrNotFound) {
		t.Errorf("renew an expired lease: %v", err)
	}
	if _, remaining, ok := b.Get(1); !ok || remaining != 0 {
		t.Errorf("get: %v, %v", remaining, ok)
	}
	for range 2 {
		if ids := b.Expired(10); !slices.Equal(ids, []int64{1}) {
			t.Errorf("expired: %v", ids)
		}
	}
	if !slices.Equal(b.Keys(1), []string{"k"}) {
		t.Errorf("keys: %q", b.Keys(1))
	}
	if err := b.Revoke(1); err != nil {
		t.Error(err)
	}
	if err := b.Revoke(1); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoke twice: %v", err)
	}
	if ids := b.Expired(10); len(ids) != 0 {
		t.Errorf("expired after the revocation: %v", ids)
	}
}

func TestLongestLeaseDoesNotOverflowTheClock(t *testing.T) {
	b, now := book()
	*now = 10 * 365 * 24 * time.Hour // MaxTTL after it is past what a time.Duration holds
	if l := grant(t, b, 1, MaxTTL); l.Expires != endOfTime || l.Expires < *now {
		t.Errorf("expires at %v", l.Expires)
	}
	if ids := b.Expired(1); len(ids) != 0 {
		t.Errorf("expired at once: %v", ids)
	}
}

func TestRestoredLeaseKeepsItsTime(t *testing.T) {
	b, now := book()
	*now = time.Minute
	b.Restore([]Lease{{ID: 1, TTL: 100, Expires: time.Minute + 3*time.Second}, {ID: 2, TTL: 1, Expires: time.Second}})
	b.Attach(1, "k")
	if _, remaining, ok := b.Get(1); !ok || remaining != 3*time.Second {
		t.Errorf("restored: %v remain, %v", remaining, ok)
	}
	if l, _, _ := b.Get(2); l != (Lease{ID: 2, TTL: MinTTL, Expires: time.Second}) {
		t.Errorf("restored with a TTL of 1 s: %+v", l)
	}
	b.Restore([]Lease{{ID: 1, TTL: 100, Expires: time.Hour}})
	if in, ok := b.Next(); !ok || in != 0 {
		t.Errorf("next: %v, %v", in, ok)
	}
	if all := b.All(); len(all) != 2 || all[1].Expires != time.Hour || !slices.Equal(b.Keys(1), []string{"k"}) {
		t.Errorf("restored again: %+v with %q", all, b.Keys(1))
	}
}

func TestUnknownLeaseKeepsItsKeys(t *testing.T) {
	b, now := book()
	b.Attach(1, "b")
	b.Attach(1, "a")
	b.Attach(2, "c")
	b.Attach(3, "d")
	b.Detach(3, "d")
	b.Detach(4, "e")
	if !slices.Equal(b.Keys(1), []string{"a", "b"}) || b.KeyCount(1) != 2 || b.KeyCount(2) != 1 || b.KeyCount(3) != 0 {
		t.Errorf("keys: %q, %q, %q", b.Keys(1), b.Keys(2), b.Keys(3))
	}
	if len(b.keys) != 2 {
		t.Errorf("%d leases take memory, want 2", len(b.keys))
	}
	*now = time.Hour
	if _, ok := b.Next(); ok || len(b.All()) != 0 || len(b.Expired(9)) != 0 {
		t.Error("a lease that is only named by keys is listed")
	}
	if _, _, ok := b.Get(1); ok {
		t.Error("it is there")
	}
	if _, err := b.Renew(1); !errors.Is(err, ErrNotFound) || errors.Is(err, ErrExpired) {
		t.Errorf("renew: %v", err)
	}
	if err := b.Revoke(1); !errors.Is(err, ErrNotFound) || b.KeyCount(1) != 2 {
		t.Errorf("revoke: %v, %d keys are left", err, b.KeyCount(1))
	}
	grant(t, b, 1, 10)
	b.Restore([]Lease{{ID: 2, TTL: 10, Expires: 2 * time.Hour}})
	if !slices.Equal(b.Keys(1), []string{"a", "b"}) || b.KeyCount(2) != 1 {
		t.Errorf("keys when the leases are there: %q, %q", b.Keys(1), b.Keys(2))
	}
	if err := b.Revoke(1); err != nil || b.KeyCount(1) != 0 {
		t.Errorf("revoke: %v, %d keys are left", err, b.KeyCount(1))
	}
}

func TestRestartChangesClockAndLeasesAndKeepsTheKeys(t *testing.T) {
	b, now := book()
	*now = time.Hour
	grant(t, b, 1, 10)
	grant(t, b, 2, 10)
	b.Attach(1, "a")
	b.Attach(2, "b")
	b.Attach(3, "c")
	other := 5 * time.Second
	b.Restart(func() time.Duration { return other }, []Lease{
		{ID: 4, TTL: 60, Expires: 30 * time.Second}, {ID: 2, TTL: 1, Expires: 8 * time.Second}, {ID: 3, TTL: 60, Expires: 4 * time.Second},
	})
	want := []Lease{{3, 60, 4 * time.Second}, {2, MinTTL, 8 * time.Second}, {4, 60, 30 * time.Second}}
	if all := b.All(); !slices.Equal(all, want) {
		t.Errorf("leases: %+v", all)
	}
	if _, remaining, ok := b.Get(2); !ok || remaining != 3*time.Second {
		t.Errorf("lease 2 has %v left, %v", remaining, ok)
	}
	if ids := b.Expired(9); !slices.Equal(ids, []int64{3}) {
		t.Errorf("expired: %v", ids)
	}
	if l, err := b.Renew(2); err != nil || l.Expires != other+MinTTL*time.Second {
		t.Errorf("renewed: %+v, %v", l, err)
	}
	if err := b.Revoke(1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a lease from before is there: %v", err)
	}
	for id, key := range map[int64]string{1: "a", 2: "b", 3: "c"} {
		if keys := b.Keys(id); !slices.Equal(keys, []string{key}) {
			t.Errorf("keys of %d: %q", id, keys)
		}
	}
}

func TestFreshIDIsNotNamedByAnyKey(t *testing.T) {
	b, _ := book()
	b.Attach(5, "k")
	if b.free(5) || !b.free(6) || b.free(0) {
		t.Error("ID 5 is taken, 6 is not, 0 is none")
	}
}

func TestKeysOfManyLeasesTakeLittleMemory(t *testing.T) {
	const n = 200_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("/registry/events/namespace/%08d", i)
	}
	for shared, most := range map[int64]int64{1: 130, 3: 90, 500: 90} {
		b, _ := book()
		before := heapBytes()
		for i, name := range names {
			b.Attach(int64(i)/shared, name)
		}
		took := (heapBytes() - before) / n
		t.Logf("%d keys of one lease: %d bytes for each, without the key", shared, took)
		if took > most {
			t.Errorf("%d bytes for each key, more than %d", took, most)
		}
		for i, name := range names {
			b.Detach(int64(i)/shared, name)
		}
		if len(b.keys) != 0 {
			t.Errorf("%d leases still have keys", len(b.keys))
		}
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestConcurrentUseLosesNothing(t *testing.T) {
	b := New(func() time.Duration { return 0 })
	var running sync.WaitGroup
	for w := range 4 {
		running.Go(func() {
			for i := range 200 {
				l, err := b.Grant(0, 10)
				if err != nil {
					t.Error(err)
					return
				}
				b.Attach(l.ID, fmt.Sprint(w, i))
				b.All()
				b.Next()
				b.Expired(3)
				if _, err := b.Renew(l.ID); err != nil || b.KeyCount(l.ID) != 1 {
					t.Errorf("renew: %v, with %d keys", err, b.KeyCount(l.ID))
				}
				if i%2 == 0 {
					err = b.Revoke(l.ID)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	if n := len(b.All()); n != 400 {
		t.Errorf("%d leases, want 400", n)
	}
}

// model is the book as one would write it without caring for speed.
type model struct {
	leases map[int64]Lease
	keys   map[int64]map[string]bool // of any ID
}

func (m *model) sorted() []Lease {
	return slices.SortedFunc(maps.Values(m.leases), func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Expires, b.Expires), cmp.Compare(a.ID, b.ID))
	})
}

func (m *model) expired(now time.Duration) []int64 {
	ids := []int64{}
	for _, l := range m.sorted() {
		if l.Expires <= now {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

func TestBookAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := book()
		m := model{leases: map[int64]Lease{}, keys: map[int64]map[string]bool{}}
		id := rapid.Int64Range(-2, 6).Filter(func(id int64) bool { return id != 0 })
		key := rapid.StringOfN(rapid.RuneFrom([]rune("abcdef")), 1, 2, -1) // more than are few
		t.Repeat(map[string]func(*rapid.T){
			"grant": func(t *rapid.T) {
				id, ttl := id.Draw(t, "id"), rapid.Int64Range(-1, 9).Draw(t, "ttl")
				_, taken := m.leases[id]
				l, err := b.Grant(id, ttl)
				if taken != errors.Is(err, ErrExists) || !taken && err != nil {
					t.Fatalf("grant: %v, taken: %v", err, taken)
				}
				if !taken {
					ttl = max(ttl, 2)
					m.leases[id] = Lease{ID: id, TTL: ttl, Expires: *now + time.Duration(ttl)*time.Second}
					if l != m.leases[id] {
						t.Fatalf("granted %+v, want %+v", l, m.leases[id])
					}
				}
			},
			"renew": func(t *rapid.T) {
				id := id.Draw(t, "id")
				want, there := m.leases[id]
				got, err := b.Renew(id)
				if !there || want.Expires <= *now {
					if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrExpired) != there {
						t.Fatalf("renew: %v, there: %v", err, there)
					}
					return
				}
				want.Expires = *now + time.Duration(want.TTL)*time.Second
				m.leases[id] = want
				if got != want || err != nil {
					t.Fatalf("renewed %+v, %v, want %+v", got, err, want)
				}
			},
			"revoke": func(t *rapid.T) {
				id := id.Draw(t, "id")
				_, there := m.leases[id]
				if err := b.Revoke(id); there != (err == nil) {
					t.Fatalf("revoke: %v, there: %v", err, there)
				}
				if there {
					delete(m.keys, id)
				}
				delete(m.leases, id)
			},
			"attach": func(t *rapid.T) {
				id := id.Draw(t, "id")
				for _, key := range rapid.SliceOfN(key, 1, fewKeys).Draw(t, "keys") {
					b.Attach(id, key)
					if m.keys[id] == nil {
						m.keys[id] = map[string]bool{}
					}
					m.keys[id][key] = true
				}
			},
			"detach": func(t *rapid.T) {
				id := id.Draw(t, "id")
				for _, key := range rapid.SliceOfN(key, 1, 3).Draw(t, "keys") {
					b.Detach(id, key)
					delete(m.keys[id], key)
				}
			},
			"detach all": func(t *rapid.T) {
				id := id.Draw(t, "id")
				for _, key := range b.Keys(id) {
					b.Detach(id, key)
				}
				delete(m.keys, id)
			},
			"restore": func(t *rapid.T) {
				l := leases(id).Draw(t, "leases")
				b.Restore(l)
				m.restore(l)
			},
			"restart": func(t *rapid.T) {
				l := leases(id).Draw(t, "leases")
				clock := new(time.Duration)
				*clock = time.Duration(rapid.IntRange(0, 9000).Draw(t, "ms")) * time.Millisecond
				b.Restart(func() time.Duration { return *clock }, l)
				now = clock
				clear(m.leases)
				m.restore(l)
			},
			"pass": func(t *rapid.T) { *now += time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond },
			"":     func(t *rapid.T) { m.compare(t, b, *now) },
		})
	})
}

// leases draws leases as they are stored, of which two may have the same ID.
func leases(id *rapid.Generator[int64]) *rapid.Generator[[]Lease] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Lease {
		expires := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "expires")) * time.Millisecond
		return Lease{ID: id.Draw(t, "id"), TTL: rapid.Int64Range(0, 9).Draw(t, "ttl"), Expires: expires}
	}), 0, 4)
}

func (m *model) restore(l []Lease) {
	for _, l := range l {
		l.TTL = max(l.TTL, 2)
		m.leases[l.ID] = l
	}
}

// compare compares all that can be asked.
func (m *model) compare(t *rapid.T, b *Book, now time.Duration) {
	if all, want := b.All(), m.sorted(); !slices.Equal(all, want) {
		t.Fatalf("all: %+v, want %+v", all, want)
	}
	over := m.expired(now)
	for _, limit := range []int{0, 1, 2, 100} {
		if ids := b.Expired(limit); !slices.Equal(ids, over[:min(limit, len(over))]) {
			t.Fatalf("expired, at most %d: %v, want %v", limit, ids, over)
		}
	}
	in, ok := b.Next()
	if sorted := m.sorted(); ok != (len(sorted) > 0) || ok && in != max(0, sorted[0].Expires-now) {
		t.Fatalf("next: %v, %v, with %+v at %v", in, ok, sorted, now)
	}
	named := 0
	for _, keys := range m.keys {
		if len(keys) > 0 {
			named++
		}
	}
	if len(b.keys) != named {
		t.Fatalf("%d leases take memory for keys, want %d", len(b.keys), named)
	}
	for id := int64(-2); id <= 6; id++ {
		l, remaining, ok := b.Get(id)
		want, there := m.leases[id]
		if ok != there || l != want || there && remaining != want.Expires-now {
			t.Fatalf("get %d: %+v, %v, %v, want %+v", id, l, remaining, ok, want)
		}
		if keys := b.Keys(id); !slices.Equal(keys, slices.Sorted(maps.Keys(m.keys[id]))) || b.KeyCount(id) != len(keys) {
			t.Fatalf("keys of %d: %q, want %v", id, keys, m.keys[id])
		}
	}
}
