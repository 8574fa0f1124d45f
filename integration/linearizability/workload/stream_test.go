package workload

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"kineshim.example/linearizability/watched"
)

// fakeWatch gives each stream to the test.
type fakeWatch struct{ streams chan *fakeStream }

func (f *fakeWatch) Watch(ctx context.Context, _ ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	s := &fakeStream{ctx: ctx, requests: make(chan *pb.WatchRequest, 100), answers: make(chan *pb.WatchResponse), ended: make(chan error)}
	f.streams <- s
	return s, nil
}

// fakeStream is the server's side of a stream.
type fakeStream struct {
	grpc.ClientStream
	ctx      context.Context
	requests chan *pb.WatchRequest
	answers  chan *pb.WatchResponse
	ended    chan error
}

func (s *fakeStream) Send(r *pb.WatchRequest) error { s.requests <- r; return nil }

func (s *fakeStream) Recv() (*pb.WatchResponse, error) {
	select {
	case r := <-s.answers:
		return r, nil
	case err := <-s.ended:
		return nil, err
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func created(id, revision int64) *pb.WatchResponse {
	return &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}, WatchId: id, Created: true}
}

func events(id int64, fragment bool, revisions ...int64) *pb.WatchResponse {
	r := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: slices.Max(revisions)}, WatchId: id, Fragment: fragment}
	for _, revision := range revisions {
		r.Events = append(r.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("v"), ModRevision: revision, CreateRevision: 1, Version: 1}})
	}
	return r
}

func mark(id, revision int64) *pb.WatchResponse {
	return &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}, WatchId: id}
}

// within runs a stream with two watches, from revision 3 and from now on, which are created at revision 5.
func within(t *testing.T, test func(t *testing.T, s *Stream, lives *Lives, first *fakeStream, streams chan *fakeStream)) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeWatch{make(chan *fakeStream)}
		lives := NewLives()
		s := NewStream("stream", "a", server, lives, NewRecorder(), watched.NewBook(), rand.New(rand.NewPCG(1, 2)))
		s.Add(watched.Watch{Name: "old"}, &pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
		s.Add(watched.Watch{Name: "new"}, &pb.WatchCreateRequest{Key: []byte("a")})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		first := <-server.streams
		for id := range int64(2) {
			if r := (<-first.requests).GetCreateRequest(); r.GetWatchId() != id+1 {
				t.Errorf("created %v", r)
			}
			first.answers <- created(id+1, 5)
		}
		synctest.Wait()
		test(t, s, lives, first, server.streams)
		cancel()
		<-done
	})
}

// resumed are the revisions from which the watches of the next stream are begun.
func resumed(t *testing.T, stream *fakeStream, n int) []int64 {
	t.Helper()
	var out []int64
	for range n {
		out = append(out, (<-stream.requests).GetCreateRequest().GetStartRevision())
	}
	return out
}

func TestWatchesAreResumedAfterWhatTheyWereShown(t *testing.T) {
	within(t, func(t *testing.T, s *Stream, lives *Lives, first *fakeStream, streams chan *fakeStream) {
		first.answers <- events(1, false, 3, 4)
		first.answers <- events(1, true, 6) // goes on, but does not come
		lives.End("a")
		first.ended <- errors.New("gone")
		next := <-streams
		if have := resumed(t, next, 2); !slices.Equal(have, []int64{5, 6}) {
			t.Errorf("resumed from %v", have)
		}
		lives.Begin("a")
		next.answers <- created(1, 8)
		next.answers <- mark(everyWatch, 7) // the second is not created yet
		next.answers <- created(2, 8)
		next.answers <- mark(2, 8)
		synctest.Wait()
		if s.behind(7) != nil || s.behind(8) == nil {
			t.Errorf("behind: %v, %v", s.behind(7), s.behind(8))
		}
		if breaks := s.Breaks(); len(breaks) > 0 {
			t.Error(breaks)
		}
		w := s.Watches()
		if w[0].From != 3 || w[1].From != 6 || len(w[0].Items) != 4 || w[0].Items[2].Resumed != 5 || w[0].Items[3].Revision != 7 || len(w[1].Items) != 2 {
			t.Errorf("%+v %+v", w[0], w[1])
		}
	})
}

func TestAStreamThatEndsByItselfIsBroken(t *testing.T) {
	within(t, func(t *testing.T, s *Stream, _ *Lives, first *fakeStream, streams chan *fakeStream) {
		first.ended <- errors.New("no leader")
		<-streams
		if breaks := s.Breaks(); len(breaks) != 1 || breaks[0].Rule != watched.Broken {
			t.Error(breaks)
		}
	})
}

func TestAStreamThatIsRefusedIsNotBroken(t *testing.T) {
	within(t, func(t *testing.T, s *Stream, lives *Lives, first *fakeStream, streams chan *fakeStream) {
		lives.End("a")
		first.ended <- errors.New("gone")
		lives.Begin("a")
		for range 3 {
			refused := <-streams
			resumed(t, refused, 2)
			refused.ended <- errors.New("connection refused")
		}
		<-streams
		if breaks := s.Breaks(); len(breaks) > 0 {
			t.Error(breaks)
		}
	})
}

func TestACanceledWatchIsBroken(t *testing.T) {
	within(t, func(t *testing.T, s *Stream, _ *Lives, first *fakeStream, _ chan *fakeStream) {
		first.answers <- &pb.WatchResponse{Header: &pb.ResponseHeader{}, WatchId: 1, Canceled: true, CompactRevision: 9}
		synctest.Wait()
		if w := s.Watches(); len(w[0].Broken) != 1 || len(w[1].Broken) != 0 {
			t.Errorf("%+v %+v", w[0], w[1])
		}
	})
}

func TestLivesEndAndBegin(t *testing.T) {
	l := NewLives()
	first := l.Of("a")
	l.End("a")
	ending := l.Of("a")
	l.Begin("a")
	if second := l.Of("a"); first == ending || ending.Ending == false || second.Ending || second.Number != 1 || l.Of("b") != (Life{}) {
		t.Errorf("%v %v %v", first, ending, second)
	}
}
