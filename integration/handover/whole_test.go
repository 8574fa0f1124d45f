package handover

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/pgtest"
)

// wholeKeys is how many keys one transaction writes.
const wholeKeys = 5

// Kine, which knows no transactions of several keys, gets all of one or nothing.
func TestTransactionsAreWholeAfterAKill(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	p := &place{t: t, pg: pgtest.New(t)}
	p.create()
	kills := map[string]func(){
		"sessions": p.endSessions,
		"postgres": func() {
			p.pg.Kill()
			if err := p.pg.Resume(); err != nil {
				t.Fatal(err)
			}
		},
	}
	var writers []*whole
	for i := range killers {
		writers = append(writers, &whole{number: i})
	}
	revision := int64(0)
	for _, kill := range []string{"sessions", "postgres", "sessions", "postgres"} {
		n := p.start(nativeEngine)
		newest := writeWhole(t, n, writers, func() {
			time.Sleep(time.Duration(50+rng.IntN(300)) * time.Millisecond)
			kills[kill]()
		})
		n.stop()
		if newest < revision {
			t.Fatalf("revision %d after %d", newest, revision)
		}
		k := p.start(plainKine)
		shown, header := k.everything("/whole/")
		k.stop()
		if header < newest {
			t.Fatalf("kine's revision is %d, and %d was acknowledged", header, newest)
		}
		for _, w := range writers {
			w.settle(t, shown)
		}
		n = p.start(nativeEngine)
		again, after := n.everything("/whole/")
		n.stop()
		same(t, "after kine", asKine(again), asKine(shown))
		if after < header {
			t.Fatalf("revision %d after kine's %d", after, header)
		}
		revision = after
	}
}

// whole is a writer of one value to several keys at once.
type whole struct {
	number, count int
	// acked is the last value that was acknowledged, doubt the one whose outcome is not known.
	acked, doubt string
	revision     int64
}

func (w *whole) key(n int) string { return fmt.Sprintf("/whole/%d/%d", w.number, n) }

// run writes until a write is refused.
func (w *whole) run(ctx context.Context, r *running) {
	for {
		w.count++
		w.doubt = fmt.Sprintf("value %d", w.count)
		var ops []clientv3.Op
		for n := range wholeKeys {
			ops = append(ops, clientv3.OpPut(w.key(n), w.doubt))
		}
		opCtx, cancel := context.WithTimeout(ctx, opBound)
		answer, err := r.Txn(opCtx).Then(ops...).Commit()
		cancel()
		if err != nil {
			return
		}
		w.acked, w.revision = w.doubt, answer.Header.Revision
	}
}

// settle checks that all keys hold the same value, one that may be there.
func (w *whole) settle(t tester, shown map[string]object) {
	t.Helper()
	value := shown[w.key(0)].value
	if value != w.acked && value != w.doubt {
		t.Errorf("%q holds %q, neither %q nor %q", w.key(0), value, w.acked, w.doubt)
	}
	for n := range wholeKeys {
		if o := shown[w.key(n)]; o.value != value || value != "" && o.mod < w.revision {
			t.Errorf("%q is %+v, and %q holds %q since revision %d", w.key(n), o, w.key(0), value, w.revision)
		}
	}
	w.acked = value
}

// writeWhole writes until kill, and returns the greatest revision that was acknowledged.
func writeWhole(t *testing.T, r *running, writers []*whole, kill func()) int64 {
	t.Helper()
	var writing sync.WaitGroup
	for _, w := range writers {
		writing.Go(func() { w.run(t.Context(), r) })
	}
	kill()
	writing.Wait()
	var newest int64
	for _, w := range writers {
		newest = max(newest, w.revision)
	}
	return newest
}
