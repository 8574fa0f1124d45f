package oracle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// callBound is for one operation; one that takes longer hangs.
const callBound = 20 * time.Second

// system is an endpoint with an empty store, etcd's or ours. It is used by one goroutine.
type system struct {
	name    string
	conn    *grpc.ClientConn
	kv      pb.KVClient
	lease   pb.LeaseClient
	watch   pb.WatchClient
	restart func(hard bool) error
	close   func() error
	// numbers translates revisions; nil: they are the reference's.
	numbers *numbers
	// chosen are the IDs of leases that the endpoint chose, by the sequence's name for them.
	chosen map[Lease]int64
	// names are the sequence's names of all IDs that the endpoint has ever chosen.
	names map[int64]Lease
}

func dial(name, address string, restart func(hard bool) error, closeServer func() error) (*system, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, errors.Join(err, closeServer())
	}
	return &system{
		name: name, conn: conn, kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn), watch: pb.NewWatchClient(conn),
		restart: restart, close: func() error { return errors.Join(conn.Close(), closeServer()) },
		chosen: map[Lease]int64{}, names: map[int64]Lease{},
	}, nil
}

// etcdName is the name of systems that are etcd.
const etcdName = "etcd"

// newEtcd is a system that is etcd.
func newEtcd() (*system, error) {
	e, err := startEtcd()
	if err != nil {
		return nil, err
	}
	return dial(etcdName, e.address(), func(bool) error { return e.restart() }, e.close)
}

// newEngine is a system that is an endpoint of ours.
func newEngine(server *engineServer, name string, virgin bool) (*system, error) {
	e, err := server.open(virgin)
	if err != nil {
		return nil, err
	}
	return dial(name, "passthrough:///"+e.Addr, e.restart, e.close)
}

// message is what gogo's messages can do.
type message interface {
	Marshal() ([]byte, error)
	String() string
}

// outcome is what an operation came to: an answer or an error.
type outcome struct {
	answer message
	err    error
}

func (o outcome) String() string {
	if o.err == nil {
		return short(o.answer.String())
	}
	s := status.Convert(o.err)
	return fmt.Sprintf("error %v: %s", s.Code(), s.Message())
}

// maxShown bounds what is shown of an answer.
const maxShown = 4000

func short(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:maxShown], len(s))
}

// equal says whether two outcomes are the same in every field that has been left in them.
func (o outcome) equal(other outcome) bool {
	if o.err != nil || other.err != nil {
		a, b := status.Convert(o.err), status.Convert(other.err)
		return a.Code() == b.Code() && a.Message() == b.Message()
	}
	a, err1 := o.answer.Marshal()
	b, err2 := other.answer.Marshal()
	return err1 == nil && err2 == nil && slices.Equal(a, b)
}

// call runs one method with a request for this system.
func call[Q, R any](s *system, method func(context.Context, Q, ...grpc.CallOption) (R, error), request Q) (R, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	return method(ctx, request)
}

// unary is call for what any request comes to.
func unary[Q any, R message](
	s *system, method func(context.Context, Q, ...grpc.CallOption) (R, error), request Q,
) func() outcome {
	return func() outcome {
		answer, err := call(s, method, request)
		return outcome{answer, err}
	}
}

// keepAlive renews once.
func (s *system) keepAlive(id int64) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	stream, err := s.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return outcome{err: err}
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		return outcome{err: err}
	}
	answer, err := stream.Recv()
	return outcome{answer, err}
}

// revision is the current one.
func (s *system) revision() (int64, error) {
	answer, err := call(s, s.kv.Range, &pb.RangeRequest{Key: []byte("no such key"), Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("%s: current revision: %w", s.name, err)
	}
	return answer.Header.Revision, nil
}

// numbers translates revisions of an endpoint that skips some: kine's does when an insert fails.
type numbers struct {
	ref, own []int64 // the revisions of writes, both ascending
}

// add notes that a write got these revisions.
func (n *numbers) add(ref, own int64) {
	if last := len(n.ref) - 1; last >= 0 && n.ref[last] >= ref {
		return
	}
	n.ref, n.own = append(n.ref, ref), append(n.own, own)
}

// toRef is the reference's revision at which everything was as it is here at own.
func (n *numbers) toRef(own int64) int64 {
	if n == nil || own == 0 {
		return own
	}
	i := sort.Search(len(n.own), func(i int) bool { return n.own[i] > own }) - 1
	if i < 0 {
		return own - n.own[0] + n.ref[0]
	}
	return n.ref[i]
}

// fromRef is the other way; a future revision stays one.
func (n *numbers) fromRef(ref int64) int64 {
	if n == nil || ref == 0 {
		return ref
	}
	i := sort.Search(len(n.ref), func(i int) bool { return n.ref[i] > ref }) - 1
	if i < 0 {
		return ref - n.ref[0] + n.own[0]
	}
	return n.own[i] + ref - n.ref[i]
}

// id is the lease ID that this system knows a sequence's lease by.
func (s *system) id(l Lease) int64 {
	if l > chosenByServer {
		return int64(l)
	}
	if id, ok := s.chosen[l]; ok {
		return id
	}
	return 1<<40 - int64(l) // never granted
}

// leaseOf is the other way.
func (s *system) leaseOf(id int64) int64 {
	if l, ok := s.names[id]; ok {
		return int64(l)
	}
	return id
}
