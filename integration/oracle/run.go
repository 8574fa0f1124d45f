package oracle

import (
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// pair is the reference and the endpoint under test, in the same state.
type pair struct {
	ref, own *system
	// compacted is the revision that was compacted last; 0: none.
	compacted int64
	restarted bool // at any time
	// history is every sequence that ran, the last included: what brings another pair to this one's state.
	history []Op
	// mask takes out of answers, and maskEvent out of events, what the endpoint under test is known to do otherwise.
	mask      func(message)
	maskEvent func(*mvccpb.Event)
	// loose: what a watch says besides events is not compared, and progress on request not relied on.
	loose bool
	// renews: a restart gives leases their whole TTL again, as etcd does.
	renews bool
}

func (p *pair) close() error { return errors.Join(p.ref.close(), p.own.close()) }

// difference is what the two did not do alike.
type difference struct {
	op   Op
	what string
}

func (d *difference) Error() string { return d.op.String() + "\n" + d.what }

// run is one sequence on a pair.
type run struct {
	pair          *pair
	base, current int64 // revisions before the sequence and now, the reference's
	streams       map[int]*watched
	private       int // how many watches have streams of their own
}

// watched is a watch stream of both.
type watched struct {
	ref, own *stream
	created  int
	active   map[int64]bool
	canceled map[int64]int
	future   int64 // etcd does not report progress before this revision
}

// execute runs a sequence on a pair and says how the two differ; nil if they do not. At the end no watch is left.
func (p *pair) execute(ops []Op) (err error) {
	r := &run{pair: p, streams: map[int]*watched{}}
	p.history = append(p.history, ops...)
	defer r.closeStreams()
	if r.base, err = p.ref.revision(); err != nil {
		return err
	}
	r.current = r.base
	if p.own.numbers != nil && len(p.own.numbers.ref) == 0 {
		own, err := p.own.revision()
		if err != nil {
			return err
		}
		p.own.numbers.add(r.base, own)
	}
	for _, o := range ops {
		if err := r.step(o); err != nil {
			return fmt.Errorf("%w", &difference{o, err.Error()})
		}
	}
	if err := r.sync(); err != nil {
		return &difference{Op{Sync: &struct{}{}}, err.Error()}
	}
	return nil
}

// step runs one operation on both.
func (r *run) step(o Op) error {
	switch {
	case o.Watch != nil:
		return r.watch(o.Watch)
	case o.Cancel != nil:
		return r.cancel(o.Cancel)
	case o.Sync != nil:
		return r.sync()
	case o.Restart != nil:
		return r.restart(o.Restart)
	case o.Dump != nil:
		return r.dump()
	case o.Gone != nil:
		return r.gone(o.Gone)
	case o.Compact != nil:
		// A watch that still reads the past would get its events or not.
		if err := r.sync(); err != nil {
			return err
		}
	}
	return r.unary(o)
}

func (r *run) unary(o Op) error {
	ref, own := &builder{run: r, to: r.pair.ref}, &builder{run: r, to: r.pair.own}
	askRef, askOwn := ref.unary(o), own.unary(o)
	if err := errors.Join(ref.err, own.err); err != nil || askRef == nil {
		return err
	}
	result := make(chan outcome, 1)
	go func() { result <- askOwn() }()
	want := askRef()
	have := <-result
	r.note(o, want, have)
	r.pair.ref.normal(want)
	r.pair.own.normal(have)
	r.alike(want, have)
	if !want.equal(have) {
		return fmt.Errorf("%12s: %v\n%12s: %v", r.pair.ref.name, want, r.pair.own.name, have)
	}
	return nil
}

// note keeps track of the revisions.
func (r *run) note(o Op, want, have outcome) {
	if want.err != nil {
		return
	}
	a, ok := want.answer.(interface{ GetHeader() *pb.ResponseHeader })
	if !ok {
		return
	}
	revision := a.GetHeader().GetRevision()
	if revision > r.current {
		r.current = revision
		if b, ok := have.answer.(interface{ GetHeader() *pb.ResponseHeader }); ok && have.err == nil && r.pair.own.numbers != nil {
			r.pair.own.numbers.add(revision, b.GetHeader().GetRevision())
		}
	}
	if o.Compact != nil {
		if compacted, err := r.resolve(o.Compact.Revision); err == nil {
			r.pair.compacted = compacted
		}
	}
}

// restart ends the streams, which clients would open again, and starts the engine under test anew.
func (r *run) restart(o *RestartOp) error {
	if err := r.sync(); err != nil {
		return err
	}
	r.closeStreams()
	r.pair.restarted = true
	if err := r.pair.own.restart(o.Hard); err != nil {
		return fmt.Errorf("restart %s: %w", r.pair.own.name, err)
	}
	return nil
}

func (r *run) closeStreams() {
	for n, w := range r.streams {
		w.ref.close()
		w.own.close()
		delete(r.streams, n)
	}
}

// openStream returns the sequence's stream of that number.
func (r *run) openStream(n int) (*watched, error) {
	if w := r.streams[n]; w != nil {
		return w, nil
	}
	ref, err := openStream(r.pair.ref)
	if err != nil {
		return nil, err
	}
	own, err := openStream(r.pair.own)
	if err != nil {
		ref.close()
		return nil, err
	}
	w := &watched{ref: ref, own: own, active: map[int64]bool{}, canceled: map[int64]int{}}
	r.streams[n] = w
	return w, nil
}

// privateStream is the number from which on streams belong to one watch.
const privateStream = 1000

// watch creates a watch on both. etcd reports no progress on a stream that has a watch that starts in the future or that was
// compacted: such watches have streams of their own.
func (r *run) watch(o *WatchOp) error {
	start, err := r.resolve(o.Start)
	if err != nil {
		return err
	}
	n := o.Stream
	future, compacted := start > r.current, start > 0 && start < r.pair.compacted
	if future || compacted {
		r.private++
		n = privateStream + r.private
	}
	w, err := r.openStream(n)
	if err != nil {
		return err
	}
	request := func(s *system) *pb.WatchCreateRequest {
		c := &pb.WatchCreateRequest{
			Key: []byte(o.Key), RangeEnd: []byte(o.End), StartRevision: (&builder{run: r, to: s}).revision(o.Start),
			WatchId: o.ID, PrevKv: o.PrevKv, ProgressNotify: o.Progress, Fragment: o.Fragment,
		}
		for _, f := range o.Filters {
			c.Filters = append(c.Filters, pb.WatchCreateRequest_FilterType(f))
		}
		return c
	}
	created, err1 := w.ref.create(request(r.pair.ref), w.created)
	_, err2 := w.own.create(request(r.pair.own), w.created)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	w.created++
	if created.Canceled {
		return nil
	}
	w.active[created.WatchId] = true
	if future {
		w.future = start
	}
	if !compacted {
		return nil
	}
	delete(w.active, created.WatchId)
	for _, st := range []*stream{w.ref, w.own} {
		err := st.wait("end of a compacted watch", nil, func(a *pb.WatchResponse) bool { return a.Canceled })
		if err != nil {
			return err
		}
	}
	return nil
}

// cancel ends a watch of both, or asks for the end of one that is not there, which is not answered.
func (r *run) cancel(o *CancelOp) error {
	w := r.streams[o.Stream]
	if w == nil {
		return nil
	}
	if err := r.syncOne(w); err != nil {
		return err
	}
	if !w.active[o.ID] {
		return errors.Join(w.ref.send(cancelRequest(o.ID)), w.own.send(cancelRequest(o.ID)))
	}
	n := w.canceled[o.ID]
	if err := errors.Join(w.ref.cancelWatch(o.ID, n), w.own.cancelWatch(o.ID, n)); err != nil {
		return err
	}
	w.canceled[o.ID]++
	delete(w.active, o.ID)
	return nil
}

// sync compares what all watches have seen of everything until now.
func (r *run) sync() error {
	for n, w := range r.streams {
		if err := r.syncOne(w); err != nil {
			return fmt.Errorf("stream %d: %w", n, err)
		}
	}
	return nil
}

func (r *run) syncOne(w *watched) error {
	if len(w.active) > 0 && r.current >= w.future {
		if err := w.ref.sync(w.ref.system.numbers.fromRef(r.current)); err != nil {
			return err
		}
		if err := r.syncOwn(w); err != nil {
			return err
		}
	}
	want, err1 := w.ref.seen(r.pair.maskEvent, r.pair.loose)
	have, err2 := w.own.seen(r.pair.maskEvent, r.pair.loose)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if different := unlike(want, have, r.pair.ref, r.pair.own); different != "" {
		return errors.New(different)
	}
	return nil
}

// syncOwn is sync of the endpoint under test. kine answers requests for progress when it likes to: of it as many events are
// awaited as the reference has sent.
func (r *run) syncOwn(w *watched) error {
	if !r.pair.loose {
		return w.own.sync(w.own.system.numbers.fromRef(r.current))
	}
	left := 0
	for _, response := range w.ref.answers() {
		left += len(response.Events)
	}
	if left == 0 {
		return nil
	}
	return w.own.wait(fmt.Sprintf("%d events", left), nil, func(response *pb.WatchResponse) bool {
		left -= len(response.Events)
		return left <= 0
	})
}

// maxDumpRevisions bounds how many revisions a dump reads one by one.
const maxDumpRevisions = 120

// dump compares everything at every revision of the sequence that is not compacted, all leases, and the whole history as a
// watch shows it.
func (r *run) dump() error {
	everything := func(revision Rev) Op { return Op{Range: &RangeOp{Key: "\x00", End: "\x00", Revision: revision}} }
	first := max(r.base, r.pair.compacted, r.current-maxDumpRevisions)
	for revision := first; revision <= r.current; revision++ {
		if err := r.unary(everything(Rev{From: "cur", Plus: revision - r.current})); err != nil {
			return fmt.Errorf("at revision %d of %d: %w", revision, r.current, err)
		}
	}
	if err := r.unary(everything(Rev{})); err != nil {
		return err
	}
	if err := r.unary(Op{Leases: &struct{}{}}); err != nil {
		return err
	}
	from := max(r.base+1, r.pair.compacted)
	if from > r.current {
		return nil
	}
	r.private++
	start := Rev{From: "cur", Plus: from - r.current}
	all := &WatchOp{Stream: privateStream + r.private, Key: "\x00", End: "\x00", Start: start, PrevKv: true}
	if err := r.watch(all); err != nil {
		return err
	}
	return r.sync()
}

const (
	// goneBound is how long a key may stay that is to go, and goneApart by how much the two may disagree: etcd looks for leases
	// that have expired every half second, and may begin to count a little later than their grant.
	goneBound = 40 * time.Second
	goneApart = 1500 * time.Millisecond
	goneEvery = 20 * time.Millisecond
)

// gone waits until a key has gone, with its lease, on both.
func (r *run) gone(o *GoneOp) error {
	var when [2]time.Time
	for deadline := time.Now().Add(goneBound); when[0].IsZero() || when[1].IsZero(); time.Sleep(goneEvery) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not gone within %v: gone at %v", goneBound, when)
		}
		for i, s := range []*system{r.pair.ref, r.pair.own} {
			if !when[i].IsZero() {
				continue
			}
			answer, err := call(s, s.kv.Range, &pb.RangeRequest{Key: []byte(o.Key)})
			if err != nil {
				return err
			}
			if len(answer.Kvs) == 0 {
				when[i] = time.Now()
			}
		}
	}
	if apart := when[1].Sub(when[0]); apart.Abs() > goneApart && !(r.pair.renews && r.pair.restarted) {
		return fmt.Errorf("%s has lost it %v after %s", r.pair.own.name, apart, r.pair.ref.name)
	}
	var err error
	r.current, err = r.pair.ref.revision()
	return err
}
