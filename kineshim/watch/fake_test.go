package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// store is a keyspace with all its history, and a Source.
type store struct {
	mu        sync.Mutex
	commits   []Commit
	revision  int64
	row       int64 // of the last change
	compacted int64
	live      map[string]*mvccpb.KeyValue
	// bare: published events come without what was there before.
	bare bool
	// historyErr and previousErr are what the Source's methods fail with; pages counts calls of History.
	historyErr, previousErr error
	pages                   int
	// block, if not nil, is received from by every call of History.
	block chan struct{}
}

func newStore() *store {
	return &store{revision: 1, live: make(map[string]*mvccpb.KeyValue)}
}

// op is a change: of a key to a value, or its deletion.
type op struct {
	key, value string
	delete     bool
}

func put(key, value string) op { return op{key: key, value: value} }
func del(key string) op        { return op{key: key, delete: true} }

// commit makes one commit of the operations.
func (s *store) commit(ops ...op) Commit {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	c := Commit{Revision: s.revision}
	for _, o := range ops {
		prev := s.live[o.key]
		s.row += 3
		e := Event{Prev: prev, Deleted: o.delete, ID: s.row}
		if prev != nil {
			e.PrevID = prev.ModRevision
		}
		if o.delete {
			e.Kv = &mvccpb.KeyValue{Key: []byte(o.key), ModRevision: s.revision}
			delete(s.live, o.key)
		} else {
			e.Kv = &mvccpb.KeyValue{
				Key: []byte(o.key), Value: []byte(o.value), CreateRevision: s.revision, ModRevision: s.revision, Version: 1,
			}
			if prev != nil {
				e.Kv.CreateRevision, e.Kv.Version = prev.CreateRevision, prev.Version+1
			}
			s.live[o.key] = e.Kv
		}
		if s.bare {
			e.Prev = nil
		}
		c.Events = append(c.Events, e)
	}
	s.commits = append(s.commits, c)
	return c
}

func (s *store) compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = revision
}

// interrupt has the Source's methods fail with an error from now on; nil: succeed.
func (s *store) interrupt(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.historyErr, s.previousErr = err, err
}

// asked is how often history has been read.
func (s *store) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pages
}

func (s *store) Compacted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compacted
}

func (s *store) History(ctx context.Context, after, upto int64, limit int) ([]Commit, bool, error) {
	if s.block != nil {
		select {
		case <-s.block:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages++
	switch {
	case s.historyErr != nil:
		return nil, false, s.historyErr
	case after+1 < s.compacted:
		return nil, false, fmt.Errorf("read: %w", rpctypes.ErrCompacted)
	}
	i := sort.Search(len(s.commits), func(i int) bool { return s.commits[i].Revision > after })
	var found []Commit
	for ; i < len(s.commits) && s.commits[i].Revision <= upto; i++ {
		if limit <= 0 {
			return found, true, nil
		}
		found = append(found, s.commits[i])
		limit -= len(s.commits[i].Events)
	}
	return found, false, nil
}

func (s *store) Previous(_ context.Context, key string, at int64) (*mvccpb.KeyValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.previousErr != nil {
		return nil, s.previousErr
	}
	return s.at(key, at), nil
}

// at is a key at a revision; nil if that is compacted. The caller holds mu.
func (s *store) at(key string, at int64) *mvccpb.KeyValue {
	if at < s.compacted {
		return nil
	}
	var kv *mvccpb.KeyValue
	for _, c := range s.commits {
		if c.Revision > at {
			break
		}
		for _, e := range c.Events {
			switch {
			case string(e.Kv.Key) != key:
			case e.Deleted:
				kv = nil
			default:
				kv = e.Kv
			}
		}
	}
	return kv
}

// fakeStream is a client's stream in memory. Send blocks when out is full.
type fakeStream struct {
	grpc.ServerStream
	ctx    context.Context
	in     chan *pb.WatchRequest
	out    chan *pb.WatchResponse
	sendMu sync.Mutex
	fail   error
}

func (f *fakeStream) Context() context.Context { return f.ctx }

func (f *fakeStream) Recv() (*pb.WatchRequest, error) {
	select {
	case r, ok := <-f.in:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
}

func (f *fakeStream) Send(r *pb.WatchResponse) error {
	if !f.sendMu.TryLock() {
		panic("two sends at the same time")
	}
	defer f.sendMu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	r.Header.MemberId++ // what is sent belongs to the sender
	if r.Header.MemberId > 1 {
		return errors.New("a header was sent twice")
	}
	r.Header.MemberId = 0
	select {
	case f.out <- r:
		return nil
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
}

// rig is a hub on a store with one stream, within a synctest bubble.
type rig struct {
	t      *testing.T
	store  *store
	hub    *Hub
	stream *fakeStream
	end    context.CancelFunc
	result chan error
	seen   map[int64][]int64 // what revisions has read
}

// within runs f in a bubble, which fails if a goroutine is left.
func within(t *testing.T, c Config, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		if c.Source != nil {
			s = c.Source.(*store)
		}
		c.Source = s
		c.Revision = s.revision
		r := &rig{t: t, store: s, hub: NewHub(c)}
		r.open(1000)
		defer r.check()
		f(r)
	})
}

// check ends the hub, and says what is left of it.
func (r *rig) check() {
	t := r.t
	r.hub.Close()
	r.end()
	synctest.Wait()
	if n := r.hub.pending.Load(); n != 0 || r.hub.watchers != 0 {
		t.Errorf("left in the hub: %d bytes that wait, %d watches are counted", n, r.hub.watchers)
	}
	if len(r.hub.matcher.single) != 0 || r.hub.matcher.ranges != nil || len(r.hub.waiting) != 0 || r.hub.running != 0 {
		t.Errorf("left in the hub: %d keys, ranges %v, %d waiting, %d running",
			len(r.hub.matcher.single), r.hub.matcher.ranges, len(r.hub.waiting), r.hub.running)
	}
}

// open begins a stream, whose client takes that many responses before it reads.
func (r *rig) open(buffer int) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &fakeStream{ctx: ctx, in: make(chan *pb.WatchRequest), out: make(chan *pb.WatchResponse, buffer)}
	result := make(chan error, 1)
	r.stream, r.end, r.result = f, cancel, result
	go func() {
		err := r.hub.Serve(f)
		cancel() // as gRPC does
		result <- err
	}()
}

// publish makes a commit known, and waits until nothing happens any more.
func (r *rig) publish(ops ...op) {
	r.hub.Publish([]Commit{r.store.commit(ops...)}, r.store.revision)
	synctest.Wait()
}

// request sends a request, and waits until nothing happens any more.
func (r *rig) request(q *pb.WatchRequest) {
	r.stream.in <- q
	synctest.Wait()
}

func (r *rig) create(c *pb.WatchCreateRequest) {
	r.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}})
}

func (r *rig) cancel(id int64) {
	r.request(&pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}},
	})
}

func (r *rig) progress() {
	r.request(&pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}},
	})
}

// got is what has been sent so far and was not looked at yet.
func (r *rig) got() []*pb.WatchResponse {
	synctest.Wait()
	var all []*pb.WatchResponse
	for {
		select {
		case w := <-r.stream.out:
			all = append(all, w)
			synctest.Wait()
		default:
			return all
		}
	}
}

// want compares what has been sent with texts as show writes them.
func (r *rig) want(texts ...string) {
	r.t.Helper()
	var shown []string
	for _, w := range r.got() {
		shown = append(shown, show(w))
	}
	if fmt.Sprint(shown) != fmt.Sprint(texts) {
		r.t.Fatalf("sent:\n  %s\nwant:\n  %s", lines(shown), lines(texts))
	}
}

func lines(texts []string) string {
	all := ""
	for _, t := range texts {
		all += t + "\n  "
	}
	return all
}

// show writes a response in one line: "id@revision", then what is set, then the events.
func show(w *pb.WatchResponse) string {
	text := fmt.Sprintf("%d@%d", w.WatchId, w.Header.Revision)
	if w.Created {
		text += " created"
	}
	if w.Canceled {
		text += " canceled"
	}
	if w.CompactRevision != 0 {
		text += fmt.Sprintf(" compacted=%d", w.CompactRevision)
	}
	if w.CancelReason != "" {
		text += fmt.Sprintf(" %q", w.CancelReason)
	}
	if w.Fragment {
		text += " fragment"
	}
	for _, e := range w.Events {
		text += " " + showEvent(e)
	}
	return text
}

// showEvent writes an event: "revision+key=value", or "revision-key", then "(previous value)".
func showEvent(e *mvccpb.Event) string {
	text := fmt.Sprintf("%d+%s=%s", e.Kv.ModRevision, e.Kv.Key, e.Kv.Value)
	if e.Type == mvccpb.DELETE {
		text = fmt.Sprintf("%d-%s", e.Kv.ModRevision, e.Kv.Key)
		only := &mvccpb.KeyValue{Key: e.Kv.Key, ModRevision: e.Kv.ModRevision}
		if !proto.Equal(protoadapt.MessageV2Of(e.Kv), protoadapt.MessageV2Of(only)) {
			text += "!"
		}
	}
	if e.PrevKv != nil {
		text += fmt.Sprintf("(%s)", e.PrevKv.Value)
	}
	return text
}

// prefix is the request for all keys with a prefix.
func prefix(p string, start int64) *pb.WatchCreateRequest {
	end := []byte(p)
	end[len(end)-1]++
	return &pb.WatchCreateRequest{Key: []byte(p), RangeEnd: end, StartRevision: start}
}
