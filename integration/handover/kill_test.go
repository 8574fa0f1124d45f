package handover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/pgtest"
)

const (
	// killers is how many write when the engine is killed, ownKeys how many keys each has to itself.
	killers, ownKeys = 8, 10
	// killRounds is how often the table goes from the native engine to kine and back.
	killRounds = 3
	// opBound is for one write of theirs. It ends well before the test's own patience.
	opBound = 5 * time.Second
)

// wish is what a key holds, or would: the zero wish is a key that is not there.
type wish struct {
	value       string
	create, mod int64
}

// owner writes to keys that nobody else writes to until it is refused.
type owner struct {
	rng    *rand.Rand
	keys   []string
	holds  map[string]wish
	values int
	acked  int
	// doubtful is the key of the write that was refused, and doubt what it would have made of it; the revision is not known.
	doubtful string
	doubt    wish
}

// run writes until a write is refused. The error is a wrong answer.
func (o *owner) run(ctx context.Context, r *running) error {
	for {
		key := o.keys[o.rng.IntN(len(o.keys))]
		before := o.holds[key]
		o.values++
		after := wish{value: fmt.Sprintf("%s %d", key, o.values), create: before.create}
		op := clientv3.OpPut(key, after.value)
		if before.mod != 0 && o.rng.IntN(4) == 0 {
			after, op = wish{}, clientv3.OpDelete(key)
		}
		opCtx, cancel := context.WithTimeout(ctx, opBound)
		answer, err := r.try(opCtx, before.mod, op)
		cancel()
		if err != nil {
			o.doubtful, o.doubt = key, after
			return nil
		}
		if !answer.Succeeded {
			return fmt.Errorf("%q was lost by its only writer: %v", key, answer)
		}
		o.acked++
		if after.value != "" {
			after.mod = answer.Header.Revision
			if before.mod == 0 {
				after.create = after.mod
			}
			o.holds[key] = after
		} else {
			delete(o.holds, key)
		}
	}
}

// settle compares what an engine shows with what the owners know, and ends their doubts. It returns how many there were.
func settle(t tester, owners []*owner, shown map[string]object) (doubts int) {
	t.Helper()
	known := map[string]object{}
	for _, o := range owners {
		if o.doubtful != "" {
			doubts++
			before, is := o.holds[o.doubtful], shown[o.doubtful]
			switch {
			case is.value != o.doubt.value: // it was not done, or the comparison below tells
			case o.doubt.value == "":
				delete(o.holds, o.doubtful)
			default:
				if is.mod <= before.mod {
					t.Errorf("%q has revision %d after %d", o.doubtful, is.mod, before.mod)
				}
				if o.doubt.mod = is.mod; before.mod == 0 {
					o.doubt.create = is.mod
				}
				o.holds[o.doubtful] = o.doubt
			}
			o.doubtful = ""
		}
		for key, w := range o.holds {
			known[key] = object{value: w.value, create: w.create, mod: w.mod}
		}
	}
	same(t, "after the kill", asKine(shown), known)
	return doubts
}

func TestNothingAcknowledgedIsLostWhenTheNativeEngineIsKilled(t *testing.T) {
	t.Parallel()
	t.Run("its sessions", func(t *testing.T) {
		p := newPlace(t)
		killUnderWrites(t, p, p.endSessions)
	})
	t.Run("all of PostgreSQL", func(t *testing.T) {
		p := &place{t: t, pg: pgtest.New(t)}
		p.create()
		killUnderWrites(t, p, func() {
			p.pg.Kill()
			if err := p.pg.Resume(); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func killUnderWrites(t *testing.T, p *place, kill func()) {
	rng := seeded(t)
	w := newWriter(t, rng)
	k := p.start(plainKine)
	defer func() { k.stop() }()
	w.some(k, 50, 20)
	var owners []*owner
	for i := range killers {
		o := &owner{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), holds: map[string]wish{}}
		for n := range ownKeys {
			o.keys = append(o.keys, fmt.Sprintf("/own/%d/%d", i, n))
		}
		owners = append(owners, o)
	}
	for round := range killRounds {
		shown, before := k.everything("/")
		gaps := p.gaps()
		k.stop()
		n := p.start(nativeEngine)
		defer func() { n.stop() }()
		adopted, header := n.everything("/")
		same(t, "adopted", asKine(adopted), asKine(shown))
		if header < before {
			t.Fatalf("round %d: revision %d after %d", round, header, before)
		}
		newest := writeUntil(t, n, owners, func() {
			time.Sleep(time.Duration(50+rng.IntN(400)) * time.Millisecond)
			kill()
		})
		select {
		case <-n.host.EngineFailed():
		case <-time.After(patience):
			t.Fatal("the engine does not notice that its sessions have gone")
		}
		n.stop()

		k = p.start(plainKine)
		_, revision := k.everything("/")
		if revision < newest {
			t.Fatalf("round %d: kine's revision is %d, and %d was acknowledged", round, revision, newest)
		}
		mine, _ := k.everything("/own/")
		doubts := settle(t, owners, mine)
		rest, _ := k.everything(prefix)
		same(t, "what nobody wrote to", asKine(rest), asKine(w.objects))
		w.some(k, 40, 20)
		for _, c := range w.since(revision) {
			if c.mod <= revision {
				t.Fatalf("round %d: kine has given revision %d after %d", round, c.mod, revision)
			}
		}
		sameHistory(t, k.history(revision, w.last()), w.since(revision)) // kine waits at holes, and fills them
		if filled := p.gaps() - gaps; filled > int64(doubts) {
			t.Errorf("round %d: kine has filled %d holes, and %d writes were in doubt", round, filled, doubts)
		}
	}
	acked := 0
	for _, o := range owners {
		acked += o.acked
	}
	t.Logf("%d writes were acknowledged before %d kills", acked, killRounds)
	if acked < killRounds*killers {
		t.Errorf("only %d writes were acknowledged", acked)
	}
}

// writeUntil lets the owners write until kill, and returns the greatest revision that they were answered with.
func writeUntil(t *testing.T, r *running, owners []*owner, kill func()) int64 {
	t.Helper()
	var writing sync.WaitGroup
	errs := make(chan error, len(owners))
	for _, o := range owners {
		writing.Go(func() { errs <- o.run(t.Context(), r) })
	}
	kill()
	writing.Wait()
	newest := int64(0)
	for _, o := range owners {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
		for _, w := range o.holds {
			newest = max(newest, w.mod)
		}
	}
	return newest
}
