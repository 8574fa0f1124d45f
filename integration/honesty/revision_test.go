package honesty

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// greatest is the greatest revision that anybody has been shown.
type greatest struct{ atomic.Int64 }

func (g *greatest) show(revision int64) {
	for old := g.Load(); old < revision && !g.CompareAndSwap(old, revision); old = g.Load() {
	}
}

// emptyReads are ways to ask for what is not there, by which clients learn the revision.
var emptyReads = []func(c client, n int) (*pb.ResponseHeader, error){
	func(c client, n int) (*pb.ResponseHeader, error) {
		return c.empty(&pb.RangeRequest{Key: fmt.Appendf(nil, "/missing/%d", n), Limit: 1})
	},
	func(c client, _ int) (*pb.ResponseHeader, error) {
		r := list("/missing/")
		r.Limit = 1
		return c.empty(r)
	},
	func(c client, _ int) (*pb.ResponseHeader, error) {
		r := list("/missing/")
		r.CountOnly = true
		return c.empty(r)
	},
	func(c client, n int) (*pb.ResponseHeader, error) {
		if kine() {
			return c.empty(get("/missing/"))
		}
		answer, err := do(c.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(get(fmt.Sprintf("/missing/%d", n)))}})
		return answer.GetHeader(), err
	},
	func(c client, n int) (*pb.ResponseHeader, error) { // a compare that fails
		answer, err := do(c.Txn, update(fmt.Sprintf("/missing/%d", n), "x", 1))
		if err == nil && answer.Succeeded {
			err = fmt.Errorf("a key that is not there was updated: %v", answer)
		}
		return answer.GetHeader(), err
	},
}

func (c client) empty(r *pb.RangeRequest) (*pb.ResponseHeader, error) {
	answer, err := do(c.Range, r)
	if err == nil && (len(answer.Kvs) > 0 || answer.Count > 0 || answer.More) {
		err = fmt.Errorf("%v found what is not there: %v", r, answer)
	}
	return answer.GetHeader(), err
}

// Whoever reads, on whatever connection, reads at a revision that is not older than any that an answer had before.
func TestEmptyReadIsNeverOlderThanAnAcknowledgedWrite(t *testing.T) {
	const pairs = 8
	rng := random(t)
	r := start(t, options{})
	k := r.keep()
	var shown greatest
	var writes, reads tally
	var running sync.WaitGroup
	stop := make(chan struct{})
	each := func(f func(c client, rng *rand.Rand, n int)) {
		c, own := r.client(), rand.New(rand.NewPCG(rng.Uint64(), 0))
		running.Go(func() {
			for n := 0; !t.Failed(); n++ {
				select {
				case <-stop:
					return
				default:
				}
				k.wait()
				f(c, own, n)
			}
		})
	}
	for i := range pairs {
		each(func(c client, rng *rand.Rand, n int) {
			answer, err := do(c.Put, put(fmt.Sprintf("/written/%d", i), fmt.Sprint(n)))
			if writes.add(t, "a put", err) {
				shown.show(answer.Header.Revision)
			}
		})
		each(func(c client, rng *rand.Rand, n int) {
			before, way := shown.Load(), rng.IntN(len(emptyReads))
			header, err := emptyReads[way](c, n)
			if !reads.add(t, "an empty read", err) {
				return
			}
			if header.Revision < before {
				t.Errorf("a read of kind %d was at revision %d when %d had been shown", way, header.Revision, before)
			}
			shown.show(header.Revision)
		})
	}
	// Engines that are started anew must not forget what the one before has shown.
	for deadline := time.Now().Add(seconds(3)); time.Now().Before(deadline); {
		time.Sleep(between(rng, 100*time.Millisecond, 700*time.Millisecond))
		r.terminate()
	}
	close(stop)
	running.Wait()
	k.stop()
	t.Logf("%d empty reads by %d readers (%d refused) beside %d acknowledged writes by %d writers; %d engines started",
		reads.answered.Load(), pairs, reads.refused.Load(), writes.answered.Load(), pairs, k.starts.Load())
	if reads.answered.Load() < 100 || writes.answered.Load() < 30 {
		t.Error("that tries too little")
	}
}
