package watch

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/kineshim/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

// step is one thing that happens in a random history.
type step struct {
	kind    string
	stream  int
	commits [][]op
	create  *pb.WatchCreateRequest
	// offset is the start revision as of now, for creations that do not begin now; of the compacted revision; or how much
	// is read.
	offset int64
	begins bool
	id     int64
}

func drawStep(t *rapid.T) step {
	s := step{
		kind: rapid.SampledFrom([]string{
			"publish", "publish", "publish", "create", "create", "read", "read", "cancel", "progress", "compact", "wait",
		}).Draw(t, "kind"),
		stream: rapid.IntRange(0, 2).Draw(t, "stream"),
		offset: rapid.Int64Range(-8, 3).Draw(t, "offset"),
		id:     rapid.Int64Range(0, 6).Draw(t, "id"),
	}
	key := rapid.SampledFrom([]string{"a", "a1", "a2", "b", "b1", "c"})
	switch s.kind {
	case "publish":
		for range rapid.IntRange(1, 3).Draw(t, "commits") {
			keys := rapid.SliceOfNDistinct(key, 1, 3, rapid.ID).Draw(t, "keys")
			var ops []op
			for _, k := range keys {
				ops = append(ops, op{key: k, value: fmt.Sprint(len(k)), delete: rapid.Bool().Draw(t, "delete")})
			}
			s.commits = append(s.commits, ops)
		}
	case "create":
		s.begins = rapid.Bool().Draw(t, "begins")
		s.create = &pb.WatchCreateRequest{
			Key:      []byte(key.Draw(t, "key")),
			RangeEnd: []byte(rapid.SampledFrom([]string{"", "\x00", "b", "c"}).Draw(t, "end")),
			PrevKv:   rapid.Bool().Draw(t, "prev"), ProgressNotify: rapid.Bool().Draw(t, "notify"),
			Fragment: rapid.Bool().Draw(t, "fragment"), WatchId: s.id / 2,
		}
		if f := rapid.IntRange(0, 5).Draw(t, "filter"); f < 2 {
			s.create.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_FilterType(f)}
		}
	}
	return s
}

func TestEveryWatchGetsItsEventsOnceInOrderAndProgressIsNeverAhead(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := Config{
			PendingBytes:    rapid.SampledFrom([]int{1, 1000, 1 << 20}).Draw(rt, "pending bytes"),
			RingBytes:       rapid.SampledFrom([]int{1, 2000, 1 << 20}).Draw(rt, "ring bytes"),
			MaxRequestBytes: rapid.SampledFrom([]int{1, 1000, 1 << 20}).Draw(rt, "request bytes"),
			Bounds: Bounds{
				StreamPending: rapid.SampledFrom([]int{1, 1000, 1 << 20}).Draw(rt, "bytes pending for a stream"),
				HubPending:    rapid.SampledFrom([]int{1, 2000, 1 << 20}).Draw(rt, "bytes pending for all"),
			},
		}
		bare := rapid.Bool().Draw(rt, "bare")
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 10, 100).Draw(rt, "steps")
		wrong := ""
		synctest.Test(t, func(*testing.T) {
			m := newModel(c, bare)
			for _, s := range steps {
				m.do(s)
			}
			m.finish()
			wrong = m.wrong
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// model runs a hub with three streams, and checks what each is sent against the store's history.
type model struct {
	store   *store
	hub     *Hub
	streams []*modelStream
	wrong   string
}

type modelStream struct {
	*fakeStream
	m       *model
	asked   []*pb.WatchCreateRequest // not answered yet
	watches map[int64]*modelWatch
	told    int64 // the last progress of the whole stream
}

// modelWatch is a watch as its client knows it.
type modelWatch struct {
	request  *pb.WatchCreateRequest
	from     int64 // the first revision that it is to get
	got      []*mvccpb.Event
	fragment bool
	ended    bool
}

func newModel(c Config, bare bool) *model {
	m := &model{store: newStore()}
	m.store.bare = bare
	for range 5 {
		m.store.commit(put("a", "1"), put("b", "1"))
	}
	c.Source, c.Revision = m.store, m.store.revision
	m.hub = NewHub(c)
	for range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		f := &fakeStream{ctx: ctx, in: make(chan *pb.WatchRequest), out: make(chan *pb.WatchResponse)}
		m.streams = append(m.streams, &modelStream{fakeStream: f, m: m, watches: make(map[int64]*modelWatch)})
		go func() {
			_ = m.hub.Serve(f)
			cancel()
		}()
	}
	return m
}

func (m *model) fail(format string, args ...any) {
	if m.wrong == "" {
		m.wrong = fmt.Sprintf(format, args...)
	}
}

func (m *model) do(s step) {
	stream := m.streams[s.stream]
	switch s.kind {
	case "publish":
		var commits []Commit
		for _, ops := range s.commits {
			var real []op
			for _, o := range ops {
				if o.delete && m.store.live[o.key] == nil {
					o.delete = false // what is not there can't be deleted
				}
				real = append(real, o)
			}
			commits = append(commits, m.store.commit(real...))
		}
		m.hub.Publish(commits, m.store.revision)
	case "create":
		if s.begins {
			s.create.StartRevision = max(1, m.store.revision+s.offset)
		}
		stream.asked = append(stream.asked, s.create)
		stream.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: s.create}})
	case "cancel":
		r := &pb.WatchCancelRequest{WatchId: s.id}
		stream.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: r}})
	case "progress":
		r := &pb.WatchProgressRequest{}
		stream.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: r}})
	case "compact":
		m.store.compact(max(m.store.Compacted(), min(m.store.revision, m.store.revision+s.offset)))
	case "wait":
		time.Sleep(3 * time.Second)
	case "read":
		synctest.Wait()
		stream.read(int(s.offset + 9))
	}
}

// send sends a request, which the stream takes in at once or when some of what it has to send has been read.
func (s *modelStream) send(r *pb.WatchRequest) {
	for {
		synctest.Wait()
		select {
		case s.in <- r:
			return
		default:
			s.read(10)
		}
	}
}

// read reads at most n responses.
func (s *modelStream) read(n int) {
	for range n {
		synctest.Wait()
		select {
		case r := <-s.out:
			s.check(r)
		default:
			return
		}
	}
}

// finish reads everything; then all watches must be complete, and progress be told at once.
func (m *model) finish() {
	const all = 1 << 20
	for i, s := range m.streams {
		s.read(all)
		future, live := false, false
		for id, w := range s.watches {
			future = future || w.request.StartRevision > m.store.revision
			live = live || !w.ended
			if want := s.expected(w, m.store.revision); !w.ended && len(w.got) != want {
				m.fail("stream %d: watch %d has %d of %d events in the end", i, id, len(w.got), want)
			}
		}
		s.told = 0
		m.do(step{kind: "progress", stream: i})
		s.read(all)
		if told := s.told == m.store.revision; told != (live && !future) {
			m.fail("stream %d: told of %d at %d; watches: %v, from the future: %v", i, s.told, m.store.revision, live, future)
		}
	}
	m.hub.Close()
	synctest.Wait()
	if m.hub.running != 0 || len(m.hub.matcher.single) != 0 || m.hub.matcher.ranges != nil || len(m.hub.waiting) != 0 {
		m.fail("something is left in the hub")
	}
}

// expected is how many events a watch must have got when it has all up to a revision.
func (s *modelStream) expected(w *modelWatch, upto int64) int {
	return len(s.history(w, upto))
}

func (s *modelStream) history(w *modelWatch, upto int64) (events []Event) {
	span := mvcc.SpanOf(w.request.Key, w.request.RangeEnd)
	for _, c := range s.m.store.commits {
		if c.Revision < w.from || c.Revision > upto {
			continue
		}
		for _, e := range c.Events {
			filtered := false
			for _, f := range w.request.Filters {
				filtered = filtered || e.Deleted == (f == pb.WatchCreateRequest_NODELETE)
			}
			if span.Contains(string(e.Kv.Key)) && !filtered {
				events = append(events, e)
			}
		}
	}
	return events
}

// check looks at a response as the client that has got everything before.
func (s *modelStream) check(r *pb.WatchResponse) {
	m, w := s.m, s.watches[r.WatchId]
	switch {
	case r.Created:
		request := s.asked[0]
		s.asked = s.asked[1:]
		if r.Canceled {
			return
		}
		if w != nil {
			m.fail("the ID of a live watch was given again: %s", show(r))
		}
		w = &modelWatch{request: request, from: request.StartRevision}
		if w.from == 0 {
			w.from = r.Header.Revision + 1
		}
		s.watches[r.WatchId] = w
	case r.WatchId == noID:
		for id, w := range s.watches {
			want, future := s.expected(w, r.Header.Revision), w.request.StartRevision > r.Header.Revision
			if !w.ended && len(w.got) < want || future {
				m.fail("progress %d, but watch %d has %d of %d events", r.Header.Revision, id, len(w.got), want)
			}
			if n := len(w.got); n > 0 && w.got[n-1].Kv.ModRevision > r.Header.Revision {
				m.fail("progress %d after an event of %d", r.Header.Revision, w.got[n-1].Kv.ModRevision)
			}
		}
		s.told = r.Header.Revision
	case w == nil:
		m.fail("a response for no watch: %s", show(r))
	case r.CompactRevision != 0:
		n := len(w.got)
		beyond := n > 0 && w.got[n-1].Kv.ModRevision >= r.CompactRevision
		if w.ended || !r.Canceled || r.CompactRevision > m.store.Compacted() || beyond {
			m.fail("canceled for compaction: %s", show(r))
		}
		w.ended = true
	case r.Canceled:
		delete(s.watches, r.WatchId)
	default:
		s.checkEvents(w, r)
	}
}

// checkEvents looks at events, or at the progress of one watch.
func (s *modelStream) checkEvents(w *modelWatch, r *pb.WatchResponse) {
	m := s.m
	want := s.history(w, m.store.revision)
	if w.ended || len(w.got)+len(r.Events) > len(want) {
		m.fail("too much was sent: %s", show(r))
		return
	}
	if n := len(w.got); n > 0 && len(r.Events) > 0 && !w.fragment {
		if w.got[n-1].Kv.ModRevision == r.Events[0].Kv.ModRevision {
			m.fail("a revision was split: %s", show(r))
		}
	}
	for _, e := range r.Events {
		next := want[len(w.got)]
		if next.Kv != e.Kv || next.Deleted != (e.Type == mvccpb.DELETE) {
			m.fail("sent %s, want the event of revision %d of %s", show(r), next.Kv.ModRevision, next.Kv.Key)
		}
		before := s.m.store.at(string(e.Kv.Key), e.Kv.ModRevision-1)
		if e.PrevKv != nil && (e.PrevKv != before || !w.request.PrevKv) && e.Kv.ModRevision > m.store.compacted {
			m.fail("the previous value is wrong: %s", show(r))
		}
		if w.request.PrevKv && e.PrevKv == nil && before != nil && !m.store.bare {
			m.fail("the previous value is missing: %s", show(r))
		}
		w.got = append(w.got, e)
	}
	w.fragment = r.Fragment
	if !r.Fragment && len(w.got) < s.expected(w, r.Header.Revision) {
		m.fail("the header is ahead of the events: %s", show(r))
	}
}
