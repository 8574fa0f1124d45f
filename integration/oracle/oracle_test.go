package oracle

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// sequencesOfAPair is after how many sequences a pair is replaced, so that histories stay short.
const sequencesOfAPair = 150

// workers run sequences at the same time, on pairs of their own.
const workers = 2

// suite compares random sequences.
type suite struct {
	fresh func() (*pair, error)
	// shared: many sequences run on one pair, each on an empty keyspace at the revisions that the one before has left.
	shared bool
	// whole: operations are not what the endpoint under test supports when parts of them are left out.
	whole    bool
	generate func(*rand.Rand) []Op
}

// seed is even, which rapid's numbers are not.
var seed = rapid.Custom(func(t *rapid.T) uint64 {
	var seed uint64
	for range 64 {
		seed <<= 1
		if rapid.Bool().Draw(t, "bit") {
			seed |= 1
		}
	}
	return seed
})

// run checks so many sequences.
func (s suite) run(t *testing.T, n int) {
	t.Helper()
	if n < 1 {
		t.Skip("no checks")
	}
	if err := flag.Set("rapid.checks", strconv.Itoa(max(1, n/workers))); err != nil {
		t.Fatal(err)
	}
	for worker := range workers {
		t.Run(fmt.Sprint(worker), func(t *testing.T) {
			t.Parallel()
			s.worker(t)
		})
	}
}

func (s suite) worker(t *testing.T) {
	var now *pair
	var failed []Op // what has differed
	var how error
	var sequences int
	defer func() {
		if failed != nil {
			s.report(t, failed, how, now.history)
		}
		if now != nil {
			if err := now.close(); err != nil {
				t.Error(err)
			}
		}
	}()
	rapid.Check(t, func(rt *rapid.T) {
		ops := s.generate(rand.New(rand.NewPCG(seed.Draw(rt, "sequence"), 0)))
		if failed == nil {
			if now != nil && (!s.shared || sequences >= sequencesOfAPair) {
				if err := now.close(); err != nil {
					t.Fatal(err)
				}
				now = nil
			}
			if now == nil {
				p, err := s.fresh()
				if err != nil {
					t.Fatal(err)
				}
				now, sequences = p, 0
			}
			sequences++
			if s.shared {
				ops = append(ops, emptied(ops)...)
			}
			if how = now.execute(ops); how != nil {
				failed = ops
			}
		}
		if failed != nil { // also when rapid looks whether it happens again
			rt.Fatal("see below")
		}
	})
}

// emptied leaves an empty keyspace and no leases behind.
func emptied(after []Op) []Op {
	all := []Op{{Delete: &DeleteOp{Key: "\x00", End: "\x00"}}}
	seen := map[Lease]bool{}
	for _, o := range after {
		if o.Grant != nil && !seen[o.Grant.ID] {
			seen[o.Grant.ID] = true
			all = append(all, Op{Revoke: &LeaseOp{ID: o.Grant.ID}})
		}
	}
	return append(all, Op{Leases: &struct{}{}})
}

// report cuts a failure down: the sequence alone on a fresh pair, or, if that does not differ, with all that ran before.
func (s suite) report(t *testing.T, ops []Op, how error, history []Op) {
	var d *difference
	if !errors.As(how, &d) {
		t.Error(how)
		return
	}
	t.Logf("after %d operations: %v", len(history), how)
	least, why := minimal(ops, s.fresh, !s.whole)
	if least == nil {
		least, why = minimal(history, s.fresh, !s.whole)
	}
	if least == nil {
		t.Errorf("not again on a fresh pair:\n%s", lines(ops))
		return
	}
	path, err := keep(t.Name(), least, why)
	t.Errorf("in the end, and kept in %s (%v):\n%s\n%v", path, err, lines(least), why)
}

func etcdPair(own func() (*system, error)) func() (*pair, error) {
	return func() (*pair, error) {
		ref, err := etcds().get()
		if err != nil {
			return nil, err
		}
		other, err := own()
		if err != nil {
			return nil, errors.Join(err, ref.close())
		}
		return &pair{ref: ref, own: other}, nil
	}
}

func etcdAndEtcd() (*pair, error) {
	p, err := etcdPair(etcds().get)()
	if err == nil {
		p.renews = true
	}
	return p, err
}

func etcdAndNative() (*pair, error) {
	p, err := fresh["native"]()
	if err != nil {
		return nil, err
	}
	return etcdPair(p.get)()
}

// What is compared must not depend on anything but the requests: else etcd would differ from itself.
func TestEtcdEqualsItself(t *testing.T) {
	plain := func(rng *rand.Rand) []Op { return sequence(rng, false) }
	suite{fresh: etcdAndEtcd, shared: true, generate: plain}.run(t, checks()/8)
}

// A restart must not show either.
func TestEtcdEqualsItselfAfterRestart(t *testing.T) {
	suite{fresh: etcdAndEtcd, generate: persisted}.run(t, checks()/100)
}

// persisted is a sequence with restarts, after which everything is read again.
func persisted(rng *rand.Rand) []Op {
	return append(sequence(rng, true), Op{Restart: &RestartOp{Hard: oneIn(rng, 4)}}, Op{Dump: &struct{}{}})
}

func TestNativeEqualsEtcd(t *testing.T) {
	some := func(rng *rand.Rand) []Op { return sequence(rng, oneIn(rng, 5)) } // a restart takes as long as a sequence
	suite{fresh: etcdAndNative, shared: true, generate: some}.run(t, checks())
}

func TestNativeEqualsEtcdOnFreshStores(t *testing.T) {
	suite{fresh: etcdAndNative, generate: persisted}.run(t, checks()/8)
}

func etcdAndKine() (*pair, error) {
	p, err := fresh["kine"]()
	if err != nil {
		return nil, err
	}
	q, err := etcdPair(p.get)()
	if err != nil {
		return nil, err
	}
	q.own.numbers = &numbers{}
	q.mask, q.maskEvent, q.loose = kineMask, kineMaskEvent, true
	return q, nil
}

// kine's engine, where kine supports the call.
func TestKineEqualsEtcd(t *testing.T) {
	suite{fresh: etcdAndKine, whole: true, generate: kineSequence}.run(t, checks()/40)
}

// Failures of the past, and cases that somebody has thought of.
func TestKeptSequences(t *testing.T) {
	var paths []string
	for _, pattern := range []string{"testdata/*.jsonl", foundDir + "/*.jsonl"} {
		some, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, some...)
	}
	if len(paths) == 0 {
		t.Fatal("no sequences in testdata")
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".jsonl"), func(t *testing.T) {
			t.Parallel() // some wait for leases
			ops, err := readOps(path)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, etcdAndEtcd, ops)
			compare(t, etcdAndNative, ops)
		})
	}
}

// compare runs a sequence on a fresh pair.
func compare(t *testing.T, fresh func() (*pair, error), ops []Op) {
	t.Helper()
	p, err := fresh()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.execute(ops), p.close()); err != nil {
		t.Errorf("%s and %s: %v", p.ref.name, p.own.name, err)
	}
}
