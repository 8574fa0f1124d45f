package valuecache

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

func kv(id int64, valueBytes int) *mvccpb.KeyValue {
	key := fmt.Appendf(nil, "/registry/pods/default/%d", id)
	return &mvccpb.KeyValue{Key: key, ModRevision: id, Value: make([]byte, valueBytes)}
}

// checkShards fails if the rings and the accounts do not agree with the maps.
func checkShards(t interface{ Fatalf(string, ...any) }, c *Cache) {
	for n := range c.shards {
		s := &c.shards[n]
		var bytes int64
		entries, free := 0, 0
		if s.hand != none {
			for i := s.hand; ; {
				e := &s.slots[i]
				if s.where[e.id] != i || s.slots[e.next].prev != i || c.shard(e.id) != s {
					t.Fatalf("shard %d: slot %d is not where it says", n, i)
				}
				bytes += sizeOf(e.kv)
				entries++
				if i = e.next; i == s.hand {
					break
				}
			}
		}
		for i := s.free; i != none; i = s.slots[i].next {
			free++
			if s.slots[i].kv != nil {
				t.Fatalf("shard %d: free slot %d keeps a value", n, i)
			}
		}
		if entries != len(s.where) || entries+free != len(s.slots) || bytes != s.bytes || bytes > s.max {
			t.Fatalf("shard %d: %d entries of %d, %d free of %d slots, %d bytes counted as %d of %d",
				n, entries, len(s.where), free, len(s.slots), bytes, s.bytes, s.max)
		}
	}
}

func TestCacheAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New(rapid.Int64Range(0, 200_000).Draw(t, "max"))
		added := map[int64]*mvccpb.KeyValue{}
		var hits, misses int64
		id := rapid.Int64Range(1, 60)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				i := id.Draw(t, "id")
				added[i] = kv(i, rapid.IntRange(0, 30_000).Draw(t, "bytes"))
				c.Add(i, added[i])
				_, ok := c.Get(i)
				if fits := sizeOf(added[i]) <= c.shards[0].max/largest; ok != fits {
					t.Fatalf("just added, fits %v, held %v", fits, ok)
				}
				if ok {
					hits++
				} else {
					misses++
				}
			},
			"get": func(t *rapid.T) {
				i := id.Draw(t, "id")
				got, ok := c.Get(i)
				if ok && got != added[i] || !ok && got != nil {
					t.Fatalf("row %d: not what was added last", i)
				}
				if ok {
					hits++
				} else {
					misses++
				}
			},
			"remove": func(t *rapid.T) {
				i := id.Draw(t, "id")
				c.Remove(i)
				delete(added, i)
			},
			"": func(t *rapid.T) {
				checkShards(t, c)
				if s := c.Stats(); s.Hits != hits || s.Misses != misses {
					t.Fatalf("%+v, want %d hits, %d misses", s, hits, misses)
				}
			},
		})
	})
}

func TestRowsInUseOutliveAListOfEverything(t *testing.T) {
	c := New(1 << 20)
	for id := range int64(100) {
		c.Add(id, kv(id, 1000))
	}
	for id := int64(1000); id < 50_000; id++ {
		c.Add(id, kv(id, 1000))
		for _, used := range []int64{1, 50, 99} {
			if _, ok := c.Get(used); !ok {
				t.Fatalf("row %d, read all the time, was dropped when row %d was read once", used, id)
			}
		}
	}
	if _, ok := c.Get(2); ok {
		t.Error("row 2, never read, is still there")
	}
}

func TestOldestUnreadRowGoesFirst(t *testing.T) {
	c := New(100 * (sizeOf(kv(10, 1000)) + 8))
	for id := int64(10_000); id < 10_200; id++ {
		c.Add(id, kv(id, 1000))
	}
	for id := int64(10_000); id < 10_200; id++ {
		if _, ok := c.Get(id); ok != (id >= 10_200-c.Stats().Entries) {
			t.Fatalf("row %d held: %v, of %d", id, ok, c.Stats().Entries)
		}
	}
}

func TestLargestRequestFitsTheDefaultCache(t *testing.T) {
	c := New(256 << 20)
	if c.Add(1, kv(1, 3<<19)); c.Stats().Entries != 1 {
		t.Fatal("a value of 1.5 MiB is not cached")
	}
}

func TestMemoryIsWhatIsAccountedFor(t *testing.T) {
	for _, bytes := range []int{0, 300, 4000} {
		const limit = 48 << 20
		before := heap()
		c := New(limit)
		for id := range int64(2 * limit / (bytes + 230)) {
			c.Add(id, kv(id, bytes))
		}
		took, s := heap()-before, c.Stats()
		t.Logf("values of %d bytes: %d entries, accounted %d, heap %d", bytes, s.Entries, s.Bytes, took)
		if s.Bytes < limit*95/100 || s.Bytes > limit {
			t.Errorf("values of %d bytes: %d bytes accounted for of %d", bytes, s.Bytes, limit)
		}
		if took > limit*110/100 || took < limit*80/100 {
			t.Errorf("values of %d bytes: heap grew by %d with a limit of %d", bytes, took, limit)
		}
		runtime.KeepAlive(c)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestConcurrentUseKeepsTheBound(t *testing.T) {
	c := New(64 << 20)
	var wg sync.WaitGroup
	for g := range int64(4) {
		wg.Go(func() {
			for i := range int64(5000) {
				id := i*7 + g
				c.Add(id, kv(id, int(id%5000)))
				if got, ok := c.Get(id - 70); ok && got.ModRevision != id-70 {
					t.Errorf("row %d answered for %d", got.ModRevision, id-70)
				}
				if i%3 == 0 {
					c.Remove(id - 21)
				}
			}
		})
	}
	wg.Wait()
	checkShards(t, c)
}

func BenchmarkGet500(b *testing.B) {
	c := New(256 << 20)
	for id := range int64(100_000) {
		c.Add(id, kv(id, 1000))
	}
	b.ResetTimer()
	for i := range b.N {
		for k := range int64(500) {
			if _, ok := c.Get(int64(i)*500%99_000 + k); !ok {
				b.Fatal("missing")
			}
		}
	}
}

func BenchmarkAddWithEviction(b *testing.B) {
	c := New(16 << 20)
	v := kv(1, 1000)
	for i := range b.N {
		c.Add(int64(i), v)
	}
}
