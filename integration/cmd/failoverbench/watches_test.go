package main

import (
	"context"
	"net"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kineshim/integration/ledger"
)

// fakeWatch answers each stream by the given function, after the create request.
type fakeWatch struct {
	etcdserverpb.UnimplementedWatchServer
	serve func(etcdserverpb.Watch_WatchServer) error
}

func (f *fakeWatch) Watch(s etcdserverpb.Watch_WatchServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	return f.serve(s)
}

// dialFake serves the fake and connects to it.
func dialFake(t *testing.T, f *fakeWatch) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	etcdserverpb.RegisterWatchServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func header(revision int64) *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: revision}
}

func putEvent(revision int64, key string) *etcdserverpb.WatchResponse {
	return &etcdserverpb.WatchResponse{Header: header(revision), Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: revision,
		Value: ledger.Value(key+"'s", 40)}}}}
}

// send sends in order and stops at the first error.
func send(s etcdserverpb.Watch_WatchServer, answers ...*etcdserverpb.WatchResponse) error {
	for _, a := range answers {
		if err := s.Send(a); err != nil {
			return err
		}
	}
	return nil
}

func TestStreamIsNotResumedAndSaysWhyItEnded(t *testing.T) {
	served := 0
	conn := dialFake(t, &fakeWatch{serve: func(s etcdserverpb.Watch_WatchServer) error {
		served++
		return send(s, &etcdserverpb.WatchResponse{Header: header(10), Created: true}, putEvent(11, "a"),
			&etcdserverpb.WatchResponse{Header: header(11)}, putEvent(12, "b"), &etcdserverpb.WatchResponse{Header: header(12), Canceled: true, CancelReason: "because"})
	}})
	w := openWatch(t.Context(), conn, clientSurvivor, "/", 10)
	w.run()
	r := w.check([]ledger.Event{event(11, "a"), event(12, "b"), event(13, "c")}, 10, 13)
	if r.Events != 2 || r.Progress != 1 || r.Cancelled != 1 || r.broken() != "" || served != 1 {
		t.Errorf("%+v, served %d times", r, served)
	}
	if len(r.Reasons) != 1 || r.Reasons[0] != `cancelled: "because", compact revision 0` {
		t.Errorf("reasons %q", r.Reasons)
	}
	if !w.has(99) {
		t.Error("an ended stream is waited for")
	}
}

func TestStreamThatWeStopWasNotCancelled(t *testing.T) {
	asked := make(chan struct{}, 1)
	conn := dialFake(t, &fakeWatch{serve: func(s etcdserverpb.Watch_WatchServer) error {
		if err := send(s, &etcdserverpb.WatchResponse{Header: header(10), Created: true}, putEvent(11, "a")); err != nil {
			return err
		}
		for {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			if r.GetProgressRequest() == nil {
				continue
			}
			if err := s.Send(&etcdserverpb.WatchResponse{Header: header(11), WatchId: -1}); err != nil {
				return err
			}
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}})
	ws := &watches{}
	w := openWatch(t.Context(), conn, clientSurvivor, "/", 10)
	ws.streams = append(ws.streams, w)
	ws.running.Go(w.run)
	<-asked
	ws.await(t.Context(), 11)
	ws.close()
	r := ws.check([]ledger.Event{event(11, "a")}, 10, 11)[clientSurvivor]
	if r.Cancelled != 0 || r.Events != 1 || r.broken() != "" {
		t.Errorf("%+v", r)
	}
}

func TestWatchThatIsNotCreatedCountsAsCancelled(t *testing.T) {
	conn := dialFake(t, &fakeWatch{serve: func(s etcdserverpb.Watch_WatchServer) error { return context.DeadlineExceeded }})
	w := openWatch(t.Context(), conn, clientStruck, "/", 10)
	w.run()
	if r := w.check([]ledger.Event{event(11, "a")}, 10, 11); r.Cancelled != 1 || r.Gaps != 0 {
		t.Errorf("%+v", r)
	}
}
