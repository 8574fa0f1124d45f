package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kineshim.example/linearizability/watched"
)

const (
	// lateEvery is the first time between two watches of the past that are begun on a stream; the time grows, so that a long run has not
	// too many that all are shown everything.
	lateEvery = 3 * time.Second
	lateGrows = 1.15
	// lateAtMost is how many there are on a stream.
	lateAtMost = 40
)

// kind is a way to watch.
type kind struct {
	name string
	make func(k *Keys) (watched.Watch, *pb.WatchCreateRequest)
}

var kinds = []kind{
	{"everything with previous values", func(k *Keys) (watched.Watch, *pb.WatchCreateRequest) {
		key, end := k.Everything()
		return watched.Watch{Wants: all, PrevKV: true}, &pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: true}
	}},
	{"one family", func(k *Keys) (watched.Watch, *pb.WatchCreateRequest) {
		key, end := k.span(k.family(0))
		return watched.Watch{Wants: below(k.family(0))}, &pb.WatchCreateRequest{Key: key, RangeEnd: end, ProgressNotify: true}
	}},
	{"everything in fragments", func(k *Keys) (watched.Watch, *pb.WatchCreateRequest) {
		key, end := k.Everything()
		return watched.Watch{Wants: all, Fragment: true}, &pb.WatchCreateRequest{Key: key, RangeEnd: end, Fragment: true}
	}},
	{"two families without puts, with previous values", func(k *Keys) (watched.Watch, *pb.WatchCreateRequest) {
		key, _ := k.span(k.family(1))
		_, end := k.span(k.family(2))
		one, two := below(k.family(1)), below(k.family(2))
		return watched.Watch{Wants: func(key string) bool { return one(key) || two(key) }, NoPut: true, PrevKV: true},
			&pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: true, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}
	}},
	{"everything without deletions", func(k *Keys) (watched.Watch, *pb.WatchCreateRequest) {
		key, end := k.Everything()
		return watched.Watch{Wants: all, NoDelete: true},
			&pb.WatchCreateRequest{Key: key, RangeEnd: end, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}}
	}},
}

func all(string) bool { return true }

func below(prefix string) func(string) bool {
	return func(key string) bool { return strings.HasPrefix(key, prefix) }
}

// AddAll begins a watch of each kind on a stream, from a revision, or from now on if that is 0.
func AddAll(s *Stream, k *Keys, from int64) {
	for i := range kinds {
		add(s, k, i, from)
	}
}

// AddOne begins a watch of everything on a stream.
func AddOne(s *Stream, k *Keys, from int64) { add(s, k, 0, from) }

func add(s *Stream, k *Keys, i int, from int64) bool {
	w, create := kinds[i].make(k)
	w.Name = fmt.Sprintf("%s from %d", kinds[i].name, from)
	create.StartRevision = from
	return s.Add(w, create)
}

// AddLate begins watches from old revisions on a stream, not before the first, until ctx ends.
func AddLate(ctx context.Context, s *Stream, k *Keys, first int64, rnd *rand.Rand) {
	every := lateEvery
	for range lateAtMost {
		sleep(ctx, every)
		if ctx.Err() != nil {
			return
		}
		every = time.Duration(float64(every) * lateGrows)
		newest := max(first, s.rec.newest())
		from := first + rnd.Int64N(newest-first+1)
		if rnd.IntN(4) == 0 {
			from = 0
		}
		add(s, k, rnd.IntN(len(kinds)), from)
	}
}
