package oracle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"
)

const (
	// watchBound is how long an answer on a watch stream may take.
	watchBound = 10 * time.Second
	// progressEvery is how often a stream is asked for its progress: etcd says nothing while a watch still reads the past.
	progressEvery = 3 * time.Millisecond
	// noWatch is the ID in answers that are about no watch or all.
	noWatch = -1
)

// stream is a watch stream of one system.
type stream struct {
	system *system
	client pb.Watch_WatchClient
	cancel context.CancelFunc
	ended  sync.WaitGroup
	asked  int // how often for progress

	mu      sync.Mutex // guards the fields below
	got     []*pb.WatchResponse
	err     error
	changed chan struct{}
}

func openStream(s *system) (*stream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := s.watch.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	st := &stream{system: s, client: client, cancel: cancel, changed: make(chan struct{})}
	st.ended.Go(st.receive)
	return st, nil
}

func (st *stream) receive() {
	for {
		response, err := st.client.Recv()
		st.mu.Lock()
		if err != nil {
			st.err = err
		} else {
			st.got = append(st.got, response)
		}
		close(st.changed)
		st.changed = make(chan struct{})
		st.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (st *stream) close() {
	st.cancel()
	st.ended.Wait()
}

// answers are all so far.
func (st *stream) answers() []*pb.WatchResponse {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.got
}

// wait returns when one of all the answers so far is what is wanted. again, if not nil, is done again and again until then.
func (st *stream) wait(what string, again func() error, wanted func(*pb.WatchResponse) bool) error {
	deadline := time.NewTimer(watchBound)
	defer deadline.Stop()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	seen := 0
	for {
		st.mu.Lock()
		got, err, changed := st.got, st.err, st.changed
		st.mu.Unlock()
		for ; seen < len(got); seen++ {
			if wanted(got[seen]) {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("%s: watch stream, waiting for %s: %v", st.system.name, what, status.Convert(err))
		}
		select {
		case <-changed:
		case <-tick.C:
			if again != nil {
				if err := again(); err != nil {
					return err
				}
			}
		case <-deadline.C:
			return fmt.Errorf("%s: watch stream: no %s within %v", st.system.name, what, watchBound)
		}
	}
}

func (st *stream) send(r *pb.WatchRequest) error {
	if err := st.client.Send(r); err != nil && !errors.Is(err, io.EOF) { // EOF: wait will find the reason
		return fmt.Errorf("%s: send on a watch stream: %w", st.system.name, err)
	}
	return nil
}

// create sends the request and waits for the answer, of which there has been n before.
func (st *stream) create(request *pb.WatchCreateRequest, n int) (*pb.WatchResponse, error) {
	err := st.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	if err != nil {
		return nil, err
	}
	var answer *pb.WatchResponse
	created := 0
	err = st.wait("created response", nil, func(r *pb.WatchResponse) bool {
		if r.Created {
			answer = r
			created++
		}
		return created > n
	})
	return answer, err
}

// sync waits until everything up to a revision of this system has come. Only an answer to a request of its own says so: when
// more have come than requests were sent before, one is. That etcd leaves some unanswered only makes this ask more often.
func (st *stream) sync(revision int64) error {
	ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	before, answered := st.asked, 0
	count := func() error {
		for range before - answered + 1 {
			st.asked++
			if err := st.send(ask); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range st.answers() {
		if isProgress(r) && r.WatchId == noWatch {
			answered++
		}
	}
	if err := count(); err != nil {
		return err
	}
	answered = 0
	return st.wait(fmt.Sprintf("progress up to %d", revision), count, func(r *pb.WatchResponse) bool {
		if !isProgress(r) || r.WatchId != noWatch {
			return false
		}
		answered++
		return answered > before && r.Header.GetRevision() >= revision
	})
}

func cancelRequest(id int64) *pb.WatchRequest {
	cancel := &pb.WatchCancelRequest{WatchId: id}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: cancel}}
}

// cancelWatch waits for the answer.
func (st *stream) cancelWatch(id int64, n int) error {
	if err := st.send(cancelRequest(id)); err != nil {
		return err
	}
	return st.wait(fmt.Sprintf("canceled response of watch %d", id), nil, func(r *pb.WatchResponse) bool {
		if r.Canceled && !r.Created && r.WatchId == id {
			n--
		}
		return n < 0
	})
}

// isProgress: nothing but a header.
func isProgress(r *pb.WatchResponse) bool { return !r.Created && !r.Canceled && len(r.Events) == 0 }

// item is an event, or the beginning or end of a watch as text, in the sequence's terms.
type item struct {
	event *mvccpb.Event
	raw   *mvccpb.Event // as it came
	text  string
}

func (i item) String() string {
	if i.event != nil {
		return i.event.String()
	}
	return i.text
}

// seen is what a stream has answered so far, by watch, so that it can be compared: events one by one, because how they are put
// together into responses is the endpoint's to choose. loose: watches are numbered in the order of their creation, and only
// events are shown.
func (st *stream) seen(mask func(*mvccpb.Event), loose bool) (map[int64][]item, error) {
	got := st.answers()
	watches, numbers := map[int64][]item{}, map[int64]int64{}
	check := newStreamCheck(st.system.name)
	for _, r := range got {
		if err := check.response(r); err != nil {
			return nil, err
		}
		if isProgress(r) {
			continue
		}
		id := r.WatchId
		if r.Created {
			numbers[id] = int64(len(numbers))
		}
		if loose {
			id = numbers[id]
		} else if r.Created || r.Canceled {
			copied := *r
			copied.Events = nil
			header := *r.Header
			copied.Header = &header
			st.system.top(copied.Header)
			copied.CompactRevision = st.system.numbers.toRef(copied.CompactRevision)
			watches[id] = append(watches[id], item{text: copied.String()})
		}
		for _, e := range r.Events {
			watches[id] = append(watches[id], item{event: st.system.event(e, mask), raw: e})
		}
	}
	return watches, nil
}

func (s *system) event(e *mvccpb.Event, mask func(*mvccpb.Event)) *mvccpb.Event {
	copied := *e
	for _, kv := range []**mvccpb.KeyValue{&copied.Kv, &copied.PrevKv} {
		if *kv != nil {
			c := **kv
			s.kvs(&c)
			*kv = &c
		}
	}
	if mask != nil {
		mask(&copied)
	}
	return &copied
}

// streamCheck looks for what no stream may do whatever others do.
type streamCheck struct {
	name     string
	active   map[int64]bool
	last     map[int64]int64 // the revision of the last event of a watch
	fragment map[int64]bool  // the last response of the watch was a fragment
	position int
}

// progress says that everything up to a revision has been sent, of one watch or of all that there are. etcd's word for all is
// not taken: it sends it and the announcement of new watches through two channels, in any order.
func (c *streamCheck) progress(id, revision int64) {
	if id != noWatch {
		c.last[id] = max(c.last[id], revision)
		return
	}
	if c.name == etcdName {
		return
	}
	for id := range c.last {
		c.last[id] = max(c.last[id], revision)
	}
}

func newStreamCheck(name string) *streamCheck {
	return &streamCheck{name: name, active: map[int64]bool{}, last: map[int64]int64{}, fragment: map[int64]bool{}}
}

func (c *streamCheck) response(r *pb.WatchResponse) error {
	id := r.WatchId
	c.position++
	switch {
	case r.Header == nil:
		return c.wrong(r, "no header")
	case r.Created:
		if !r.Canceled {
			c.active[id] = true
			c.last[id] = 0
			c.fragment[id] = false
		}
		return nil
	case r.Canceled:
		c.active[id] = false
		return nil
	case isProgress(r):
		c.progress(id, r.Header.Revision)
		return nil
	}
	if !c.active[id] {
		return c.wrong(r, "events for a watch that is not there")
	}
	for i, e := range r.Events {
		revision := e.Kv.ModRevision
		switch {
		case i == 0 && revision <= c.last[id] && !c.fragment[id]:
			return c.wrong(r, fmt.Sprintf("begins with revision %d after %d", revision, c.last[id]))
		case revision < c.last[id]:
			return c.wrong(r, "events that are out of order")
		case revision > r.Header.Revision:
			return c.wrong(r, "events above the header's revision")
		}
		c.last[id] = revision
	}
	c.fragment[id] = r.Fragment
	return nil
}

func (c *streamCheck) wrong(r *pb.WatchResponse, what string) error {
	return fmt.Errorf("%s: watch stream, response %d: %s: %s", c.name, c.position, what, short(r.String()))
}

// unlike says where two streams' answers differ; empty if they do not.
func unlike(want, have map[int64][]item, ref, own *system) string {
	for id := range have {
		if _, ok := want[id]; !ok {
			want[id] = nil
		}
	}
	for id := range want {
		w, h := want[id], have[id]
		for i := range max(len(w), len(h)) {
			a, b := "nothing", "nothing"
			if i < len(w) {
				a = w[i].String()
			}
			if i < len(h) {
				b = h[i].String()
			}
			if a == b {
				continue
			}
			if i < len(w) && i < len(h) && (ref.completes(w[i], h[i]) || own.completes(h[i], w[i])) {
				continue
			}
			return fmt.Sprintf("watch %d, item %d (of %d and %d)\n%12s: %s\n%12s: %s", id, i, len(w), len(h),
				ref.name, strings.TrimSpace(short(a)), own.name, strings.TrimSpace(short(b)))
		}
	}
	return ""
}

// completes gives an event of etcd's the previous value that it should have had, and says whether it then is like the other's.
// etcd notes that a watch wants them after it has begun to read the past for it: once in some thousand such watches the first
// events are without.
func (s *system) completes(lacks, has item) bool {
	e := lacks.event
	if s.name != etcdName || e == nil || has.event == nil || e.PrevKv != nil || has.event.PrevKv == nil {
		return false
	}
	if e.Type == mvccpb.PUT && e.Kv.CreateRevision == e.Kv.ModRevision {
		return false
	}
	answer, err := call(s, s.kv.Range, &pb.RangeRequest{Key: e.Kv.Key, Revision: e.Kv.ModRevision - 1})
	if err != nil || len(answer.Kvs) == 0 {
		return false
	}
	lacks.raw.PrevKv = answer.Kvs[0] // it will be looked at again, when its revision may have been compacted
	return s.event(lacks.raw, nil).String() == has.event.String()
}
