package oracle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A database in which no engine has ever been, which sequences do not get: theirs are copies of one.
func TestVirginStoreIsAtRevisionOne(t *testing.T) {
	virgin := func() (*system, error) {
		server, err := engines["native"]()
		if err != nil {
			return nil, err
		}
		return newEngine(server, "native", true)
	}
	own, err := virgin()
	if err != nil {
		t.Fatal(err)
	}
	revision, err := own.revision()
	if err := errors.Join(err, own.close()); err != nil || revision != 1 {
		t.Errorf("revision %d, %v; want 1", revision, err)
	}
	compare(t, etcdPair(virgin), []Op{
		{Dump: &struct{}{}},
		{Watch: &WatchOp{Key: "\x00", End: "\x00", Start: Rev{Plus: 1}}},
		{Put: &PutOp{Key: "a", Value: "x"}},
		{Restart: &RestartOp{}},
		{Dump: &struct{}{}},
		{Put: &PutOp{Key: "a", PrevKv: true}},
		{Dump: &struct{}{}},
	})
}

// More keys than are read at a time, more events than are sent at a time, and pages of them.
func TestManyKeys(t *testing.T) {
	for name, fresh := range map[string]func() (*pair, error){"etcd": etcdAndEtcd, "native": etcdAndNative} {
		t.Run(name, func(t *testing.T) { compare(t, fresh, manyKeys()) })
	}
}

func manyKeys() []Op {
	const txns, perTxn, page = 40, 100, 700
	all := func(change func(*RangeOp)) Op {
		o := &RangeOp{Key: "k", End: "l"}
		change(o)
		return Op{Range: o}
	}
	key := func(i int) Bin { return Bin(fmt.Sprintf("k/%03d/%d", i*7919%1000, i)) }
	var ops []Op
	put := func(round, from, to int) {
		for i := from; i < to; i += perTxn {
			txn := &TxnOp{}
			for j := i; j < i+perTxn; j++ {
				value := Bin(fmt.Sprintf("%d %d %s", round, j, strings.Repeat("v", j%200)))
				txn.Then = append(txn.Then, Op{Put: &PutOp{Key: key(j), Value: value}})
			}
			ops = append(ops, Op{Txn: txn})
		}
	}
	look := func() {
		for start := 0; start < txns*perTxn; start += 1777 { // lists that go on after some key
			ops = append(ops, all(func(o *RangeOp) { o.Key = key(start) + "\x00"; o.Limit = page }))
		}
		for back := int64(0); back < 60; back += 13 {
			at := Rev{From: "cur", Plus: -back}
			ops = append(ops,
				all(func(o *RangeOp) { o.Revision = at; o.Limit = page }),
				all(func(o *RangeOp) { o.Revision = at; o.CountOnly = true }),
				all(func(o *RangeOp) { o.Revision = at; o.KeysOnly = true }),
				Op{Range: &RangeOp{Key: "k/3", End: "k/7", Revision: at, CountOnly: true}})
		}
		ops = append(ops,
			all(func(o *RangeOp) {}),
			all(func(o *RangeOp) { o.Order = int32(pb.RangeRequest_DESCEND); o.Limit = page }),
			all(func(o *RangeOp) { o.Target = int32(pb.RangeRequest_VALUE); o.Limit = page }),
			all(func(o *RangeOp) { o.MinMod = Rev{From: "cur", Plus: -20}; o.Limit = page }),
			all(func(o *RangeOp) { o.MaxCreate = Rev{From: "cur", Plus: -50} }),
			Op{Watch: &WatchOp{Key: "k", End: "l", Start: Rev{From: "compacted", Plus: 2}, PrevKv: true}},
			Op{Sync: &struct{}{}})
	}
	put(1, 0, txns*perTxn)
	put(2, 500, 2500)
	ops = append(ops, Op{Watch: &WatchOp{Stream: 1, Key: "k", End: "l", PrevKv: true}})
	ops = append(ops, Op{Delete: &DeleteOp{Key: "k/2", End: "k/5", PrevKv: true}})
	look()
	ops = append(ops, Op{Restart: &RestartOp{}})
	look()
	ops = append(ops, Op{Compact: &CompactOp{Revision: Rev{From: "cur", Plus: -10}, Physical: true}})
	put(3, 1000, 1500)
	ops = append(ops, Op{Delete: &DeleteOp{Key: "k", End: "\x00"}}, Op{Restart: &RestartOp{Hard: true}})
	return append(ops, Op{Range: &RangeOp{Key: "k", End: "l", Revision: Rev{From: "cur", Plus: -1}}}, Op{Dump: &struct{}{}})
}

// begin starts a sequence whose operations a test gives one by one.
func begin(t *testing.T, fresh func() (*pair, error)) *run {
	t.Helper()
	p, err := fresh()
	if err != nil {
		t.Fatal(err)
	}
	r := &run{pair: p, streams: map[int]*watched{}}
	t.Cleanup(func() {
		r.closeStreams()
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	if r.base, err = p.ref.revision(); err != nil {
		t.Fatal(err)
	}
	r.current = r.base
	return r
}

func (r *run) must(t *testing.T, ops ...Op) {
	t.Helper()
	for _, o := range ops {
		if err := r.step(o); err != nil {
			t.Fatalf("%v\n%v", short(o.String()), err)
		}
	}
}

// How events are put together is compared only here: one revision larger than a message, with and without fragments.
func TestRevisionsAreSplitOnlyIntoFragments(t *testing.T) {
	r := begin(t, etcdAndNative)
	big := func(c string) Op {
		txn := &TxnOp{}
		for _, key := range []Bin{"a", "b", "c"} {
			txn.Then = append(txn.Then, Op{Put: &PutOp{Key: key, Value: Bin(strings.Repeat(c, 480_000))}})
		}
		return Op{Txn: txn}
	}
	for stream, fragment := range []bool{true, false} {
		r.must(t, Op{Watch: &WatchOp{Stream: stream, Key: "a", End: "\x00", PrevKv: true, Fragment: fragment}})
	}
	for _, c := range []string{"x", "y", "z"} {
		r.must(t, big(c), Op{Sync: &struct{}{}})
	}
	for n, w := range r.streams {
		if ref, own := shape(w.ref), shape(w.own); !slices.Equal(ref, own) {
			t.Errorf("stream %d\n  etcd: %q\nnative: %q", n, ref, own)
		}
	}
}

// shape is how many events are in each response.
func shape(st *stream) []string {
	var out []string
	for _, r := range st.answers() {
		if len(r.Events) > 0 {
			out = append(out, fmt.Sprintf("%d fragment=%v", len(r.Events), r.Fragment))
		}
	}
	return out
}

// A watch that was ended by compaction is still there to be canceled, in etcd, and holds its ID until then.
func TestCompactedWatchBesideOthers(t *testing.T) {
	r := begin(t, etcdAndNative)
	put := Op{Put: &PutOp{Key: "a"}}
	r.must(t, put, put, put, Op{Compact: &CompactOp{Revision: Rev{From: "cur"}}},
		Op{Watch: &WatchOp{Key: "a", ID: 7}})
	w := r.streams[0]
	for _, st := range []*stream{w.ref, w.own} {
		created, err := st.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, WatchId: 3}, 1)
		if err != nil || created.Canceled {
			t.Fatal(created, err)
		}
		if err := st.wait("end of a compacted watch", nil, func(a *pb.WatchResponse) bool { return a.Canceled }); err != nil {
			t.Fatal(err)
		}
		for _, id := range []int64{3, 3, 4} {
			if err := st.send(cancelRequest(id)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := st.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 3}, 2); err != nil {
			t.Fatal(err)
		}
	}
	r.must(t, put, Op{Sync: &struct{}{}})
}
