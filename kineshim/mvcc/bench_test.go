package mvcc

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// benchKey is 60 bytes long and as repetitive as Kubernetes' keys are.
func benchKey(i int) string {
	return fmt.Sprintf("/registry/pods/namespace-%04d/deployment-%08d-5f7c9d8b6x", i/10_000, i%10_000)
}

// filled returns an index with n keys, appended in random order.
func filled(n int) *Index {
	x := New()
	for i, k := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		x.Append(put(int64(i+2), int64(i+2), benchKey(k)))
	}
	return x
}

func TestMillionKeysFitInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second or two and 200 MB")
	}
	if n := len(benchKey(1)); n != 60 {
		t.Fatalf("keys of %d bytes", n)
	}
	before := heap()
	x := filled(1_000_000)
	took := heap() - before
	t.Logf("%d MB for %d keys, %d rows", took>>20, x.Keys(), x.Revisions())
	if limit := int64(160 << 20); took > limit {
		t.Errorf("%d bytes, more than %d", took, limit)
	}
	checkTree(t, x)
	if n := x.Count(everything(), x.HeadRevision()); n != 1_000_000 {
		t.Errorf("%d keys", n)
	}
	runtime.KeepAlive(x)
}

func TestHistoryGivesItsMemoryBack(t *testing.T) {
	const keys, rounds = 20_000, 10
	x := filled(keys)
	before, id := heap(), x.HeadID()
	for range rounds {
		for k := range keys {
			id++
			x.Append(put(id, id, benchKey(k)))
		}
	}
	full := heap() - before
	x.Advance(id+1, id+1)
	x.Prune(x.Garbage(id + 1))
	left := heap() - before
	t.Logf("%d bytes for each older row, %d bytes left for each key", full/(keys*rounds), left/keys)
	if x.Revisions() != keys {
		t.Fatalf("%d rows are left", x.Revisions())
	}
	if full > 70*keys*rounds || left > 5*keys {
		t.Errorf("%d bytes with history, %d without", full, left)
	}
	runtime.KeepAlive(x)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

var sizes = []int{10_000, 1_000_000}

func bySize(b *testing.B, f func(b *testing.B, x *Index, keys []string)) {
	for _, n := range sizes {
		x := filled(n)
		keys := make([]string, 1<<12)
		for i := range keys {
			keys[i] = benchKey(i * 2741 % n)
		}
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) { f(b, x, keys) })
	}
}

func BenchmarkGet(b *testing.B) {
	bySize(b, func(b *testing.B, x *Index, keys []string) {
		at := x.HeadRevision()
		for i := range b.N {
			if _, ok := x.Get(keys[i%len(keys)], at); !ok {
				b.Fatal("missing")
			}
		}
	})
}

func BenchmarkGetParallelWithWriter(b *testing.B) {
	bySize(b, func(b *testing.B, x *Index, keys []string) {
		at, stop, done := x.HeadRevision(), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for id := at + 1; ; id++ {
				select {
				case <-stop:
					return
				default:
					x.Append(put(id, id, keys[id%int64(len(keys))]))
				}
			}
		}()
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				x.Get(keys[i%len(keys)], at)
			}
		})
		close(stop)
		<-done
	})
}

func BenchmarkCount10k(b *testing.B) {
	bySize(b, func(b *testing.B, x *Index, _ []string) {
		at, s := x.HeadRevision(), Span{From: "/registry/pods/namespace-0000/", To: "/registry/pods/namespace-00000"}
		for range b.N {
			if n := x.Count(s, at); n != 10_000 {
				b.Fatal(n)
			}
		}
	})
}

func BenchmarkCount10kBehindTheHead(b *testing.B) {
	for _, behind := range []int64{1, 100, 1_000, 10_000, 50_000} {
		x := filled(200_000)
		at := x.HeadRevision() - behind
		s := Span{From: "/registry/pods/namespace-0000/", To: "/registry/pods/namespace-00000"}
		want := x.scanCount(s, at)
		b.Run(fmt.Sprintf("behind=%d", behind), func(b *testing.B) {
			for range b.N {
				if n := x.Count(s, at); n != want {
					b.Fatal(n, want)
				}
			}
		})
	}
}

func BenchmarkAscend500(b *testing.B) {
	bySize(b, func(b *testing.B, x *Index, keys []string) {
		at := x.HeadRevision()
		b.ReportAllocs()
		for i := range b.N {
			n, s := 0, Span{From: keys[i%len(keys)], Open: true}
			x.Ascend(s, at, func(Item) bool {
				n++
				return n < 500
			})
		}
	})
}

func BenchmarkAppendUpdate(b *testing.B) {
	bySize(b, func(b *testing.B, x *Index, keys []string) {
		id := x.HeadID()
		b.ReportAllocs()
		for i := range b.N {
			id++
			x.Append(put(id, id, keys[i%len(keys)]))
		}
	})
}

func BenchmarkAppendCreate(b *testing.B) {
	x := New()
	keys := make([]string, b.N)
	for i, k := range rand.New(rand.NewPCG(1, 1)).Perm(b.N) {
		keys[i] = benchKey(k)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i, key := range keys {
		x.Append(put(int64(i+2), int64(i+2), key))
	}
}

func BenchmarkGarbageAndPrune(b *testing.B) {
	x := filled(200_000)
	id := x.HeadID()
	for range b.N {
		b.StopTimer()
		for k := range 10_000 {
			id++
			x.Append(put(id, id, benchKey(k*17)))
		}
		b.StartTimer()
		x.Prune(x.Garbage(id))
	}
}
