package kineshim

import (
	"context"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch runs kine's watches of one stream, and ends the stream on the first failure of the database: the past events of a
// watch may have been read to a part only, and kine does not say so. Clients begin again where they are.
func (e *kineEngine) Watch(ws etcdserverpb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(ws.Context())
	defer cancel()
	before, failed := e.failures.watch()
	stream := &watchStream{Watch_WatchServer: ws, ctx: ctx, engine: e, before: before}
	result := make(chan error, 1)
	// kine's handler may hang in a receive, which ends when this stream has ended.
	err := e.begin(func() {
		err := Unavailable(errEngineBroken.Error())
		defer func() { result <- err }()
		err = e.KVServerBridge.Watch(stream)
	})
	if err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-failed:
		return stream.failed()
	case <-e.failed:
		return Unavailable(errEngineBroken.Error())
	case <-e.closed:
		return Unavailable(errSessionEnded.Error())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchStream is a watch stream on which nothing is sent that a failure may have touched.
type watchStream struct {
	etcdserverpb.Watch_WatchServer
	ctx    context.Context
	engine *kineEngine
	before uint64

	sending sync.Mutex // one message at a time: refusals come from the receiving side
}

// Context ends with the stream.
func (s *watchStream) Context() context.Context { return s.ctx }

func (s *watchStream) failed() error {
	return Unavailable("the database failed during the watch: " + s.engine.failures.why())
}

// Send looks for failures after the events have been gathered: a failure is counted before kine can see it.
func (s *watchStream) Send(r *etcdserverpb.WatchResponse) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := s.ctx.Err(); err != nil {
		return contextError(err)
	}
	if err := s.engine.usable(); err != nil {
		return err
	}
	if s.engine.failures.count() != s.before {
		return s.failed()
	}
	return s.Watch_WatchServer.Send(r)
}

// Recv answers requests that kine must not see by itself, and passes on the others.
func (s *watchStream) Recv() (*etcdserverpb.WatchRequest, error) {
	for {
		r, err := s.Watch_WatchServer.Recv()
		if err != nil {
			return nil, err
		}
		create := r.GetCreateRequest()
		if create == nil {
			return r, nil
		}
		refusal := checkWatch(create)
		if refusal == nil {
			return r, nil
		}
		err = s.Send(&etcdserverpb.WatchResponse{
			Header:  &etcdserverpb.ResponseHeader{Revision: s.engine.acked.Load()},
			WatchId: clientv3.InvalidWatchID, Created: true, Canceled: true, CancelReason: refusal.Error(),
		})
		if err != nil {
			return nil, err
		}
	}
}
