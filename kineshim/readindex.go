package kineshim

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "kineshim/proto"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// questionBound ends a question for the primary's revision. A primary that is silent loses its route earlier, as a rule.
const questionBound = 2 * time.Second

// asker asks the primary for its newest durable revision, on behalf of many reads at once. A read joins a question that has not been sent; at
// most one is on its way.
type asker struct {
	endpoint *Endpoint

	mu   sync.Mutex // guards the fields below
	next *question  // not sent yet; nil: none
	busy bool       // a goroutine asks
}

// question is one question. Its answer may be read when done is closed.
type question struct {
	done     chan struct{}
	revision int64
	err      error
}

// revision returns a revision that the primary had made durable at some moment of this call. The error is that of ctx, a refusal, or of code
// Unimplemented if the primary cannot tell.
func (a *asker) revision(ctx context.Context) (int64, error) {
	q := a.join()
	if q == nil {
		return 0, Unavailable(errSessionEnded.Error())
	}
	select {
	case <-q.done:
		return q.revision, q.err
	case <-ctx.Done():
		return 0, contextError(ctx.Err())
	}
}

// join returns a question that has not been sent; nil if the endpoint is closed.
func (a *asker) join() *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = &question{done: make(chan struct{})}
	}
	if !a.busy {
		if !a.endpoint.spawn(a.run) {
			return nil
		}
		a.busy = true
	}
	return a.next
}

// run asks until no question is left.
func (a *asker) run() {
	for {
		a.mu.Lock()
		q := a.next
		a.next = nil
		a.busy = q != nil
		a.mu.Unlock()
		if q == nil {
			return
		}
		q.revision, q.err = a.endpoint.readIndex()
		close(q.done)
	}
}

// readIndex asks once, whoever the primary is now.
func (e *Endpoint) readIndex() (int64, error) {
	route := e.opt.Router.Route()
	if route.Target == "" {
		return 0, Unavailable(noRoute(route))
	}
	conn, err := e.connected(route.Target)
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithTimeout(e.life, questionBound)
	defer stop()
	md := metadata.MD{}
	mark(md, route.Epoch, Attempt{})
	ctx, cancel := e.withRoute(metadata.NewOutgoingContext(ctx, md), route)
	defer cancel(nil)
	answer, err := pb.NewReadsClient(conn).ReadIndex(ctx, &pb.ReadIndexRequest{})
	switch {
	case err == nil:
		return answer.Revision, nil
	case status.Code(err) == codes.Unimplemented:
		return 0, err
	case routeEnded(ctx):
		return 0, Unavailable(errRouteEnded.Error())
	}
	return 0, Unavailable(fmt.Sprintf("asking %s for its revision: %s", route.Target, status.Convert(err).Message()))
}

// reads serves the other node's questions.
type readsServer struct {
	pb.UnimplementedReadsServer
	endpoint *Endpoint
}

// Reads returns the service by which the other node learns this node's revision, while this node is the primary. It is registered on the server
// of the peer address.
func (e *Endpoint) Reads() pb.ReadsServer { return readsServer{endpoint: e} }

// ReadIndex answers with the revision of an engine that has it. Nothing is ever done by it, so any refusal says so.
func (s readsServer) ReadIndex(ctx context.Context, _ *pb.ReadIndexRequest) (*pb.ReadIndexResponse, error) {
	epoch, _, err := marks(ctx)
	if err != nil {
		return nil, err
	}
	token, session, err := s.endpoint.enter()
	if err != nil {
		return nil, err
	}
	if epoch != 0 && epoch != token.Epoch {
		return nil, Unavailable(errOtherEpoch.Error())
	}
	engine, ok := session.engine.(interface{ Revision() int64 })
	if !ok {
		return nil, status.Error(codes.Unimplemented, "the engine does not say its revision")
	}
	revision := engine.Revision()
	if err := s.endpoint.opt.Gate.Check(token); err != nil {
		return nil, Unavailable(errTokenDead.Error() + ": " + err.Error())
	}
	return &pb.ReadIndexResponse{Revision: revision}, nil
}
