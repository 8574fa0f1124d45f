package kineshim

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	// line belongs to the goroutine that asks; nil: there is none.
	line *line
}

// question is one question. Its answer may be read when done is closed.
type question struct {
	done     chan struct{}
	revision position
	err      error
}

// position is how much a copy must know: of the keys, and of access control.
type position struct {
	revision int64
	access   AccessPoint
}

// revision returns a revision that the primary had made durable at some moment of this call. The error is that of ctx, a refusal, or of code
// Unimplemented if the primary cannot tell.
func (a *asker) revision(ctx context.Context) (position, error) {
	q := a.join()
	if q == nil {
		return position{}, Unavailable(errSessionEnded.Error())
	}
	select {
	case <-q.done:
		return q.revision, q.err
	case <-ctx.Done():
		return position{}, contextError(ctx.Err())
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
		q.revision, q.err = a.ask()
		close(q.done)
	}
}

// line is a stream of questions to one primary in one epoch. A call for each question would cost more than the reads that share it.
type line struct {
	route  Route
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream pb.Reads_ReadIndexClient
}

// ask asks once, whoever the primary is now.
func (a *asker) ask() (position, error) {
	route := a.endpoint.opt.Router.Route()
	if route.Target == "" {
		a.hangUp()
		return position{}, Unavailable(noRoute(route))
	}
	if l := a.line; l != nil && (l.ctx.Err() != nil || l.route.Done != route.Done && !samePrimary(l.route, route)) {
		a.hangUp()
	}
	if l := a.line; l != nil {
		revision, err := l.ask()
		if err == nil || l.ctx.Err() != nil {
			return revision, err
		}
		a.hangUp() // it may have broken off while nobody asked
	}
	var err error
	if a.line, err = a.endpoint.openLine(route); err != nil {
		return position{}, err
	}
	revision, err := a.line.ask()
	if err != nil {
		a.hangUp()
	}
	return revision, err
}

// hangUp ends the line, if there is one.
func (a *asker) hangUp() {
	if a.line != nil {
		a.line.cancel(nil)
		a.line = nil
	}
}

// openLine begins a stream of questions. It ends when the route leads elsewhere, or with the endpoint.
func (e *Endpoint) openLine(route Route) (*line, error) {
	conn, err := e.connected(route.Target)
	if err != nil {
		return nil, err
	}
	md := metadata.MD{}
	mark(md, route.Epoch, Attempt{})
	ctx, cancel := e.withRoute(metadata.NewOutgoingContext(e.life, md), route)
	stream, err := pb.NewReadsClient(conn).ReadIndex(ctx)
	if err != nil {
		cancel(nil)
		return nil, Unavailable(fmt.Sprintf("asking %s for its revision: %s", route.Target, status.Convert(err).Message()))
	}
	return &line{route, ctx, cancel, stream}, nil
}

// errSilent is the cause of the end of a line whose question was not answered in time.
var errSilent = errors.New("the primary did not tell its revision in time")

// ask sends one question and waits for its answer. After an error the line is of no use.
func (l *line) ask() (position, error) {
	bound := time.AfterFunc(questionBound, func() { l.cancel(errSilent) })
	defer bound.Stop()
	// An error of Send says only that the stream has ended; Recv says why.
	_ = l.stream.Send(&pb.ReadIndexRequest{})
	answer, err := l.stream.Recv()
	switch {
	case err == nil:
		at := position{answer.Revision, AccessPoint{Version: answer.Access}}
		if answer.UnixMilli != 0 {
			at.access.Clock = time.Until(time.UnixMilli(answer.UnixMilli))
		}
		return at, nil
	case status.Code(err) == codes.Unimplemented:
		return position{}, err
	case routeEnded(l.ctx):
		return position{}, Unavailable(errRouteEnded.Error())
	case errors.Is(context.Cause(l.ctx), errSilent):
		return position{}, Unavailable(errSilent.Error())
	}
	return position{}, Unavailable(fmt.Sprintf("asking %s for its revision: %s", l.route.Target, status.Convert(err).Message()))
}

// reads serves the other node's questions.
type readsServer struct {
	pb.UnimplementedReadsServer
	endpoint *Endpoint
}

// Reads returns the service by which the other node learns this node's revision, while this node is the primary. It is registered on the server
// of the peer address.
func (e *Endpoint) Reads() pb.ReadsServer { return readsServer{endpoint: e} }

// ReadIndex answers each question with the revision of an engine that has it. Nothing is ever done by it, so any refusal says so.
func (s readsServer) ReadIndex(stream pb.Reads_ReadIndexServer) error {
	epoch, _, err := marks(stream.Context())
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		at, err := s.revision(epoch)
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.ReadIndexResponse{Revision: at.revision, Access: at.access.Version, UnixMilli: time.Now().UnixMilli()}); err != nil {
			return err
		}
	}
}

// revision is the newest durable one, if this node is the primary of the epoch; 0 stands for any epoch.
func (s readsServer) revision(epoch uint64) (at position, err error) {
	token, session, err := s.endpoint.enter()
	if err != nil {
		return at, err
	}
	if epoch != 0 && epoch != token.Epoch {
		return at, Unavailable(errOtherEpoch.Error())
	}
	engine, ok := session.engine.(interface{ Revision() int64 })
	if !ok {
		return at, status.Error(codes.Unimplemented, "the engine does not say its revision")
	}
	at.revision = engine.Revision()
	if access, ok := session.engine.(interface{ AccessVersion() uint64 }); ok {
		at.access.Version = access.AccessVersion()
	}
	if err := s.endpoint.opt.Gate.Check(token); err != nil {
		return at, Unavailable(errTokenDead.Error() + ": " + err.Error())
	}
	return at, nil
}
