package mvcc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func height(x *Index) int {
	h := 1
	for n := x.tree.root; n.kids != nil; n = n.kids[0] {
		h++
	}
	return h
}

// A tree of four levels and half-full nodes is emptied from its beginning, its end, its middle, and here and there.
func TestHighTreeShrinksToNothing(t *testing.T) {
	const n = 140_000
	orders := map[string]func(i int) int{
		"ascending":  func(i int) int { return i },
		"descending": func(i int) int { return n - 1 - i },
		"from inside": func(i int) int {
			if i%2 == 0 {
				return n/2 + i/2
			}
			return n/2 - 1 - i/2
		},
	}
	perm := rand.New(rand.NewPCG(3, 4)).Perm(n)
	orders["random"] = func(i int) int { return perm[i] }
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			x := New()
			key := func(i int) string { return fmt.Sprintf("%06d", i) }
			for i := range int64(n) {
				x.Append(tombstone(i+1, i+1, key(int(i)))) // all garbage at once
			}
			if h := height(x); h != 3 {
				t.Fatalf("%d levels of inner nodes", h)
			}
			var dead []Dead
			for i := range n {
				k := order(i)
				dead = append(dead, Dead{Key: key(k), ID: int64(k + 1)})
			}
			for some := range slices.Chunk(dead, n/7) {
				for _, d := range some { // in this order, not in that of Prune
					x.forget(d.Key, d.ID)
				}
				checkTree(t, x)
			}
			if x.Keys() != 0 || height(x) != 1 || len(x.tree.root.leaves) != 1 {
				t.Fatalf("%d keys, %d levels, %d leaves are left", x.Keys(), height(x), len(x.tree.root.leaves))
			}
			x.Append(put(n+1, n+1, "a"))
			checkTree(t, x)
		})
	}
}

func TestLeafMemoryFollowsItsKeys(t *testing.T) {
	var l leaf
	for i := range fanout {
		l.insert(i, fmt.Sprintf("%02d", i), record{})
		if c := cap(l.keys); c >= len(l.keys)+growBy {
			t.Fatalf("%d keys have room for %d", len(l.keys), c)
		}
	}
	for n := fanout; n > 0; n-- {
		if c := cap(l.recs); c > n+3*growBy {
			t.Fatalf("%d keys have room for %d", n, c)
		}
		l.remove(n / 2)
	}
}
