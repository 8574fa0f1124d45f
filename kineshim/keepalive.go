package kineshim

import (
	"context"
	"io"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	keepAliveMethod = "/etcdserverpb.Lease/LeaseKeepAlive"
	// maxUnanswered bounds the keep-alives of one stream that have no answer yet: as many as the native engine has under way for one. More are
	// not received until then.
	maxUnanswered = 256
)

// keepAlive serves a stream of keep-alives for as long as the client wants, whoever the primary is: each message goes to the one there is, and
// once more if that ends before it has answered. Renewing a lease twice does no harm. A message that has no answer after MaxWait ends the stream.
func (e *Endpoint) keepAlive(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	k := &keepAlives{
		endpoint: e, ctx: ctx, client: ss, received: make(chan receivedKeepAlive),
		run: func(p *pipe) error {
			_, err := e.tryStream(srv, p, info, handler)
			return err
		},
	}
	go k.receive() // ends with the stream: gRPC ends the receive of a server stream when its handler has returned
	err := k.serve()
	k.hangUp()
	return err
}

// keepAlives is one client's stream. It belongs to the goroutine of serve.
type keepAlives struct {
	endpoint *Endpoint
	ctx      context.Context
	client   grpc.ServerStream
	received chan receivedKeepAlive
	// run serves a pipe where the route leads, until that ends.
	run func(*pipe) error

	unanswered []unanswered // oldest first
	closed     bool         // the client sends no more
	// upstream leads to the primary; nil: it is made when there is something to send.
	upstream *pipe
	// patience ends when the oldest message has waited for too long.
	patience *time.Timer
}

type receivedKeepAlive struct {
	request *etcdserverpb.LeaseKeepAliveRequest
	err     error
}

type unanswered struct {
	request *etcdserverpb.LeaseKeepAliveRequest
	visit   visit
}

// receive passes on what the client sends.
func (k *keepAlives) receive() {
	for {
		r := new(etcdserverpb.LeaseKeepAliveRequest)
		err := k.client.RecvMsg(r)
		select {
		case k.received <- receivedKeepAlive{r, err}:
		case <-k.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// serve returns when the client has closed its side and has all answers, when it has gone, or when a message has had no answer for too long.
func (k *keepAlives) serve() error {
	k.patience = time.NewTimer(time.Hour)
	defer k.patience.Stop()
	for {
		if k.closed && len(k.unanswered) == 0 {
			return nil
		}
		if k.upstream == nil && len(k.unanswered) > 0 {
			k.connect()
		}
		if err := k.step(); err != nil {
			return err
		}
	}
}

// step waits for whatever is next, and does it.
func (k *keepAlives) step() error {
	received := k.received
	if k.closed || len(k.unanswered) == maxUnanswered {
		received = nil
	}
	var responses chan *etcdserverpb.LeaseKeepAliveResponse
	var ended chan error
	if k.upstream != nil {
		responses, ended = k.upstream.responses, k.upstream.ended
	}
	var late <-chan time.Time
	if len(k.unanswered) > 0 {
		late = k.patience.C
	}
	select {
	case r := <-received:
		return k.take(r)
	case r := <-responses:
		return k.answer(r)
	case err := <-ended:
		k.upstream = nil
		return k.reconnect(err)
	case <-late:
		v := k.unanswered[0].visit
		return v.timeIsUp(Unavailable("the keep-alive was not answered"), false, "a primary")
	case <-k.ctx.Done():
		return contextError(k.ctx.Err())
	case <-k.endpoint.closing:
		return Unavailable(errSessionEnded.Error())
	}
}

// take sends a message of the client's on.
func (k *keepAlives) take(r receivedKeepAlive) error {
	switch {
	case r.err == io.EOF:
		k.closed = true
		return nil
	case k.ctx.Err() != nil:
		return contextError(k.ctx.Err())
	case r.err != nil:
		return r.err
	}
	k.unanswered = append(k.unanswered, unanswered{r.request, k.endpoint.visit(nil)})
	if len(k.unanswered) == 1 {
		k.bePatient()
	}
	if k.upstream != nil {
		k.upstream.requests <- r.request // has room for all that are unanswered
	}
	return nil
}

// answer gives the client an answer. It belongs to the oldest message about its lease.
func (k *keepAlives) answer(r *etcdserverpb.LeaseKeepAliveResponse) error {
	n := slices.IndexFunc(k.unanswered, func(u unanswered) bool { return u.request.ID == r.ID })
	if n < 0 {
		return status.Errorf(codes.Internal, "an answer about lease %x, of which nothing was asked", r.ID)
	}
	k.unanswered = slices.Delete(k.unanswered, n, n+1)
	if n == 0 {
		k.bePatient()
	}
	return k.client.SendMsg(r)
}

// bePatient gives the oldest message its time.
func (k *keepAlives) bePatient() {
	if len(k.unanswered) > 0 {
		k.patience.Reset(time.Until(k.unanswered[0].visit.deadline))
	}
}

// connect leads the stream to whoever is the primary, with what has no answer.
func (k *keepAlives) connect() {
	p := newPipe(k.ctx)
	for _, u := range k.unanswered {
		p.requests <- u.request
	}
	k.upstream = p
	go func() { // hangUp waits for it
		err := k.run(p)
		p.cancel() // ends a receive that an engine still hangs in, for which the end of its session waits
		p.ended <- err
	}()
}

// reconnect returns when another try may succeed. err is what ended the one before.
func (k *keepAlives) reconnect(err error) error {
	switch {
	case k.ctx.Err() != nil:
		return contextError(k.ctx.Err())
	case err != nil && status.Code(err) != codes.Unavailable:
		return err
	case len(k.unanswered) == 0:
		return nil
	}
	v := k.unanswered[0].visit
	defer k.endpoint.room.leave(&v)
	if gaveUp := k.endpoint.room.wait(k.ctx, &v, nil); gaveUp != nil {
		if err == nil {
			err = Unavailable("the stream ended")
		}
		return v.refuse(err, false, gaveUp)
	}
	return nil
}

// hangUp ends the way to the primary.
func (k *keepAlives) hangUp() {
	if k.upstream != nil {
		k.upstream.cancel()
		<-k.upstream.ended
	}
}
