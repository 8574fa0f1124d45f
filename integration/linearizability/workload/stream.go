package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/watched"
)

const (
	// askEvery is the average time between two requests for progress on a stream that asks.
	askEvery = 100 * time.Millisecond
	// reopenAfter is the pause before a stream to a node that is away is opened again.
	reopenAfter = 50 * time.Millisecond
	// wishes bounds the watches that wait to be begun on a stream.
	wishes = 16
)

// Stream is a stream of watches at one node. It is opened once in each life of the node's process, and its watches are resumed then.
type Stream struct {
	Node string
	// AsksProgress makes the stream ask for progress all the time.
	AsksProgress bool

	name   string
	client pb.WatchClient
	lives  *Lives
	rec    *Recorder
	book   *watched.Book
	rnd    *rand.Rand
	added  chan *tracked

	mu      sync.Mutex // guards what follows and what they point to
	watches []*tracked
	opened  int
	marks   int // bookmarks received
	// breaks are ends of the stream for which no process was ended, and answers that make no sense.
	breaks []string
}

// tracked is a watch on a stream. Its ID on the stream is its place among the stream's watches, counted from 1: 0 would let the server choose.
type tracked struct {
	watched.Watch
	create pb.WatchCreateRequest
	// next is the revision from which it is to be resumed; 0: from now on.
	next     int64
	created  bool // on the present stream
	begun    bool // ever
	canceled bool
}

// NewStream makes a stream that has no watches yet.
func NewStream(name, node string, client pb.WatchClient, lives *Lives, rec *Recorder, book *watched.Book, rnd *rand.Rand) *Stream {
	return &Stream{Node: node, name: name, client: client, lives: lives, rec: rec, book: book, rnd: rnd, added: make(chan *tracked, wishes)}
}

// Add begins a watch, from its next revision on, or from now on if that is 0. It says whether there was room.
func (s *Stream) Add(w watched.Watch, create *pb.WatchCreateRequest) bool {
	t := &tracked{Watch: w, next: create.StartRevision}
	t.create = pb.WatchCreateRequest{Key: create.Key, RangeEnd: create.RangeEnd, ProgressNotify: create.ProgressNotify,
		Filters: create.Filters, PrevKv: create.PrevKv, Fragment: create.Fragment}
	t.From = create.StartRevision
	t.Name = s.name + ", " + w.Name
	select {
	case s.added <- t:
		return true
	default:
		return false
	}
}

// Run keeps the stream open until ctx ends.
func (s *Stream) Run(ctx context.Context) {
	for ctx.Err() == nil {
		life := s.lives.Of(s.Node)
		established, err := s.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if now := s.lives.Of(s.Node); established && now == life && !now.Ending {
			s.broken(fmt.Sprintf("[%.3f ms] the stream ended: %v", float64(s.rec.Now())/1e6, err))
		}
		sleep(ctx, reopenAfter)
	}
}

func (s *Stream) broken(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaks = append(s.breaks, why)
}

// serve opens the stream and receives until it ends. established: the server had answered.
func (s *Stream) serve(ctx context.Context) (established bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel()
	g, err := s.client.Watch(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range s.resume() {
		if err := g.Send(t); err != nil {
			return false, err
		}
	}
	sender.Go(func() { s.send(ctx, g) })
	for {
		r, err := g.Recv()
		if err != nil {
			return established, err
		}
		if !established {
			established = true
			s.established()
		}
		s.receive(r)
	}
}

func (s *Stream) established() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
}

// resume are the requests for all watches that there were before.
func (s *Stream) resume() []*pb.WatchRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*pb.WatchRequest
	for id, t := range s.watches {
		if t.canceled {
			continue
		}
		if t.begun {
			t.Items = append(t.Items, watched.Item{Resumed: t.next})
		}
		t.created = false
		out = append(out, t.request(int64(id+1)))
	}
	return out
}

func (t *tracked) request(id int64) *pb.WatchRequest {
	create := t.create
	create.WatchId, create.StartRevision = id, t.next
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &create}}
}

// send begins the watches that are added, and asks for progress, until ctx ends.
func (s *Stream) send(ctx context.Context, g pb.Watch_WatchClient) {
	ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	for {
		var request *pb.WatchRequest
		t := time.NewTimer(time.Duration(s.rnd.Float64() * 2 * float64(askEvery)))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case w := <-s.added:
			request = s.begin(w)
		case <-t.C:
			request = ask
		}
		t.Stop()
		if request == ask && !s.AsksProgress {
			continue
		}
		if g.Send(request) != nil {
			return // receiving says why
		}
	}
}

func (s *Stream) begin(w *tracked) *pb.WatchRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches = append(s.watches, w)
	return w.request(int64(len(s.watches)))
}

// everyWatch is the ID in responses that are about all watches of a stream.
const everyWatch = -1

// receive takes in a response.
func (s *Stream) receive(r *pb.WatchResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	revision := r.GetHeader().GetRevision()
	if r.WatchId == everyWatch && !r.Canceled && !r.Created {
		s.marks++
		for _, t := range s.watches {
			if t.created {
				t.mark(revision)
			}
		}
		s.rec.Saw(revision, s.name)
		return
	}
	if r.WatchId < 1 || r.WatchId > int64(len(s.watches)) {
		s.breaks = append(s.breaks, fmt.Sprintf("a response to watch %d, which is not there: %v", r.WatchId, r))
		return
	}
	t := s.watches[r.WatchId-1]
	switch {
	case r.Canceled:
		t.canceled = true
		t.Broken = append(t.Broken, fmt.Sprintf("[%.3f ms] canceled: %s, compacted revision %d", float64(s.rec.Now())/1e6, r.CancelReason, r.CompactRevision))
	case r.Created:
		t.begin(revision)
	case len(r.Events) == 0:
		s.marks++
		t.mark(revision)
		s.rec.Saw(revision, t.Name)
	default:
		s.events(t, r)
	}
}

// begin notes that the watch has been created. One from now on begins after the revision of the header.
func (t *tracked) begin(revision int64) {
	t.created = true
	if t.next == 0 {
		t.next = revision + 1
		t.From = t.next
	}
	t.begun = true
}

func (t *tracked) mark(revision int64) {
	t.Items = append(t.Items, watched.Item{Revision: revision})
	t.next = max(t.next, revision+1)
}

func (s *Stream) events(t *tracked, r *pb.WatchResponse) {
	item := watched.Item{Revision: r.GetHeader().GetRevision(), Fragment: r.Fragment}
	for _, e := range r.Events {
		item.Events = append(item.Events, s.book.Of(changeOf(e)))
	}
	t.Items = append(t.Items, item)
	last := item.Events[len(item.Events)-1].Revision
	if !r.Fragment {
		t.next = max(t.next, last+1)
	}
	s.rec.Saw(last, t.Name)
}

func changeOf(e *mvccpb.Event) watched.Change {
	c := watched.Change{Event: history.Event{Revision: e.Kv.ModRevision, Key: string(e.Kv.Key)}, Prev: StateOf(e.PrevKv)}
	if e.Type == mvccpb.PUT {
		c.KV = StateOf(e.Kv)
	}
	return c
}

// errBehind says which watch has not got as far as it should.
var errBehind = errors.New("the watch has not been brought to the end")

// Reached waits until every watch has been shown, or told of, everything up to the revision. An error names the watches that were not.
func (s *Stream) Reached(ctx context.Context, revision int64) error {
	for {
		err := s.behind(revision)
		if err == nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, reopenAfter)
	}
}

func (s *Stream) behind(revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, t := range s.watches {
		if !t.canceled && t.next <= revision {
			errs = append(errs, fmt.Errorf("%s: at revision %d, not %d: %w", t.Name, t.next-1, revision, errBehind))
		}
	}
	return errors.Join(errs...)
}

// Watches are the stream's, with all that they were shown. To be called when Run has returned.
func (s *Stream) Watches() []*watched.Watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*watched.Watch
	for _, t := range s.watches {
		if t.begun {
			out = append(out, &t.Watch)
		}
	}
	return out
}

// Breaks are ends of the stream for which no process was ended.
func (s *Stream) Breaks() []history.Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []history.Violation
	for _, why := range s.breaks {
		out = append(out, history.Violation{Rule: watched.Broken, Message: s.name + ": " + why})
	}
	return out
}

// Opened is how often the stream was opened, and how many bookmarks it was sent.
func (s *Stream) Opened() (times, bookmarks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened, s.marks
}
