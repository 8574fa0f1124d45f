package honesty

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

// operation is one request. It says itself what it asks for.
type operation interface {
	fmt.Stringer
	do(c client) error
}

// Requests as operations: refusals that are a matter of the request are its outcome like any other.
type (
	putting  struct{ *pb.PutRequest }
	deleting struct{ *pb.DeleteRangeRequest }
	txn      struct{ *pb.TxnRequest }
	granting struct{ *pb.LeaseGrantRequest }
	revoking struct{ *pb.LeaseRevokeRequest }
	renewing struct{ *pb.LeaseKeepAliveRequest }
	// compacting goes back from the newest revision.
	compacting struct {
		back     int64
		physical bool
	}
)

func (o putting) do(c client) error {
	_, err := do(c.Put, o.PutRequest)
	return err
}

func (o deleting) do(c client) error {
	_, err := do(c.DeleteRange, o.DeleteRangeRequest)
	return err
}

func (o txn) do(c client) error {
	_, err := do(c.Txn, o.TxnRequest)
	return err
}

func (o granting) do(c client) error {
	_, err := do(c.LeaseGrant, o.LeaseGrantRequest)
	return err
}

func (o revoking) do(c client) error {
	_, err := do(c.LeaseRevoke, o.LeaseRevokeRequest)
	return err
}

func (o renewing) do(c client) error {
	ctx, cancel := call()
	defer cancel()
	stream, err := c.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(o.LeaseKeepAliveRequest); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

func (o compacting) do(c client) error {
	now, err := do(c.Range, get("/no/such/key"))
	if err != nil {
		return err
	}
	_, err = do(c.Compact, &pb.CompactionRequest{Revision: max(1, now.Header.Revision-o.back), Physical: o.physical})
	return err
}

func (o compacting) String() string {
	return fmt.Sprintf("compact to %d before the newest, physical: %v", o.back, o.physical)
}

// matterOfRequest says whether a refusal is the request's own fault.
func matterOfRequest(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.OutOfRange, codes.AlreadyExists:
		return true
	}
	return false
}

// keys are usual ones and such as a text column, or an index of one, cannot hold.
var keys = []string{
	"a", "a/1", "a/2", "b", "é", "\x00", "a\x00", "\xff", "\xc3\x28", "%", "a'b\\c", "compact_rev_key", "compact_rev_key_apiserver", "gap-1",
	"/registry/health", "kineshim-bytes-00", strings.Repeat("l", 631), strings.Repeat("n", 2700), "\xfe" + strings.Repeat("p", 3000),
}

var values = []string{"", "x", "y", "\x00", "\xff\xfe", "10", strings.Repeat("v", 10_000)}

// drawn makes operations from a few keys, and leases of a few IDs.
type drawn struct {
	t    *rapid.T
	keys []string
}

func draw(t *rapid.T) *drawn {
	return &drawn{t: t, keys: rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 2, 6, rapid.ID).Draw(t, "keys")}
}

func (d *drawn) n(most int) int   { return rapid.IntRange(0, most).Draw(d.t, "n") }
func (d *drawn) oneIn(n int) bool { return d.n(n-1) == n-1 }
func (d *drawn) key() []byte      { return []byte(rapid.SampledFrom(d.keys).Draw(d.t, "key")) }
func (d *drawn) leaseID() int64 {
	return rapid.SampledFrom([]int64{1, 2, 1<<63 - 1}).Draw(d.t, "lease")
}

func (d *drawn) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: d.key(), PrevKv: d.oneIn(3)}
	if r.IgnoreValue = d.oneIn(8); !r.IgnoreValue {
		r.Value = []byte(rapid.SampledFrom(values).Draw(d.t, "value"))
	}
	if r.IgnoreLease = d.oneIn(8); !r.IgnoreLease && d.oneIn(3) {
		r.Lease = d.leaseID()
	}
	return r
}

func (d *drawn) delete() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: d.key(), PrevKv: d.oneIn(3)}
	switch d.n(5) {
	case 3:
		r.RangeEnd = []byte{0}
	case 4:
		r.RangeEnd = append(r.Key[:len(r.Key):len(r.Key)], 0xff)
	case 5:
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
	}
	return r
}

func (d *drawn) compare() *pb.Compare {
	c := &pb.Compare{Key: d.key(), Result: pb.Compare_CompareResult(d.n(3))}
	switch d.n(2) {
	case 0:
		c.Target, c.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: int64(d.n(2))}
	case 1:
		c.Target, c.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: []byte("x")}
	case 2:
		c.Target, c.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: d.leaseID()}
	}
	return c
}

func (d *drawn) branch(depth int) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for range d.n(4) {
		switch d.n(6) {
		case 0, 1:
			ops = append(ops, putOp(d.put()))
		case 2:
			ops = append(ops, deleteOp(d.delete()))
		case 3:
			ops = append(ops, rangeOp(everything()))
		case 4, 5: // a key that is changed twice at one revision: etcd does not refuse it
			del := &pb.DeleteRangeRequest{Key: d.key(), RangeEnd: []byte{0}}
			p := putOp(&pb.PutRequest{Key: del.Key, Value: []byte("twice")})
			if d.oneIn(2) {
				ops = append(ops, deleteOp(del), p)
			} else {
				ops = append(ops, p, deleteOp(del))
			}
		case 6:
			if depth < 2 {
				ops = append(ops, txnOp(d.txn(depth+1)))
			}
		}
	}
	return ops
}

func (d *drawn) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	if d.oneIn(2) {
		r.Compare = []*pb.Compare{d.compare()}
	}
	r.Success, r.Failure = d.branch(depth), d.branch(depth)
	return r
}

// operation draws one of any kind.
func (d *drawn) operation() operation {
	switch d.n(15) {
	case 0, 1, 2, 3:
		return putting{d.put()}
	case 4, 5:
		return deleting{d.delete()}
	case 6, 7, 8, 9, 10:
		return txn{d.txn(0)}
	case 11, 12:
		return granting{&pb.LeaseGrantRequest{ID: d.leaseID(), TTL: rapid.SampledFrom([]int64{100, 1000, 100_000}).Draw(d.t, "ttl")}}
	case 13:
		return revoking{&pb.LeaseRevokeRequest{ID: d.leaseID()}}
	case 14:
		return renewing{&pb.LeaseKeepAliveRequest{ID: d.leaseID()}}
	}
	return compacting{back: int64(d.n(6)), physical: d.oneIn(2)}
}
