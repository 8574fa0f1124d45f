package honesty

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// leaseSlack is what a lease may gain or lose when its engine is replaced.
const leaseSlack = 1500 * time.Millisecond

// everything is all keys.
func everything() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}} }

// state is all that clients can learn of a keyspace.
type state struct {
	revision, compacted int64
	hash                uint32
	at                  map[int64][]*mvccpb.KeyValue // by revision, from the compacted one on
	events              []*mvccpb.Event              // after the compacted revision, with what was there before
	leases              map[int64]leaseState
	taken               time.Time
}

type leaseState struct {
	granted, remaining int64 // seconds; remaining is rounded down
	keys               [][]byte
}

// look takes down the state. Nothing may be written meanwhile.
func look(ctx context.Context, c client) (*state, error) {
	s := &state{at: map[int64][]*mvccpb.KeyValue{}, leases: map[int64]leaseState{}}
	hash, err := do(c.HashKV, &pb.HashKVRequest{})
	if err != nil {
		return nil, fmt.Errorf("hash: %w", err)
	}
	s.revision, s.compacted, s.hash = hash.Header.Revision, hash.CompactRevision, hash.Hash
	from := max(1, s.compacted)
	for revision := from; revision <= s.revision; revision++ {
		request := everything()
		request.Revision = revision
		answer, err := do(c.Range, request)
		if err != nil {
			return nil, fmt.Errorf("range at revision %d of %d: %w", revision, s.revision, err)
		}
		if answer.Header.Revision != s.revision || answer.Count != int64(len(answer.Kvs)) {
			return nil, fmt.Errorf("range at revision %d of %d: header %v, count %d of %d", revision, s.revision, answer.Header, answer.Count, len(answer.Kvs))
		}
		s.at[revision] = answer.Kvs
	}
	if err := s.lookOutside(c, from); err != nil {
		return nil, err
	}
	if from < s.revision { // a watch that begins in the future says nothing
		watch := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from + 1, PrevKv: true}
		if s.events, err = follow(ctx, c, watch, upTo(s.revision)); err != nil {
			return nil, fmt.Errorf("watch from revision %d: %w", from+1, err)
		}
	}
	return s, s.lookAtLeases(c)
}

// lookOutside reads where nothing may be read.
func (s *state) lookOutside(c client, from int64) error {
	for revision, want := range map[int64]error{from - 1: rpctypes.ErrGRPCCompacted, s.revision + 1: rpctypes.ErrGRPCFutureRev} {
		if revision <= 0 || want == rpctypes.ErrGRPCCompacted && s.compacted <= 0 {
			continue
		}
		request := everything()
		request.Revision = revision
		if answer, err := do(c.Range, request); err == nil || err.Error() != want.Error() {
			return fmt.Errorf("range at revision %d, with %d compacted and %d the newest: %v, %v", revision, s.compacted, s.revision, answer, err)
		}
	}
	return nil
}

func (s *state) lookAtLeases(c client) error {
	leases, err := do(c.LeaseLeases, &pb.LeaseLeasesRequest{})
	if err != nil {
		return fmt.Errorf("list the leases: %w", err)
	}
	s.taken = time.Now()
	for _, l := range leases.Leases {
		answer, err := do(c.LeaseTimeToLive, &pb.LeaseTimeToLiveRequest{ID: l.ID, Keys: true})
		if err != nil {
			return fmt.Errorf("lease %d: %w", l.ID, err)
		}
		slices.SortFunc(answer.Keys, bytes.Compare)
		s.leases[l.ID] = leaseState{granted: answer.GrantedTTL, remaining: answer.TTL, keys: answer.Keys}
	}
	return nil
}

// since says what has changed from one state to a later one between which nothing was written.
func (s *state) since(before *state) error {
	if s.revision != before.revision || s.compacted != before.compacted {
		return fmt.Errorf("the revision was %d and is %d, the compacted one was %d and is %d", before.revision, s.revision, before.compacted, s.compacted)
	}
	var errs []error
	for revision := max(1, s.compacted); revision <= s.revision; revision++ {
		if err := sameKVs(s.at[revision], before.at[revision]); err != nil {
			errs = append(errs, fmt.Errorf("at revision %d: %w", revision, err))
		}
	}
	errs = append(errs, sameEvents(s.events, before.events))
	if s.hash != before.hash {
		errs = append(errs, errors.New("the hash has changed"))
	}
	elapsed := s.taken.Sub(before.taken)
	for id, was := range before.leases {
		is, ok := s.leases[id]
		if !ok {
			errs = append(errs, fmt.Errorf("lease %d is gone", id))
			continue
		}
		if is.granted != was.granted || !slices.EqualFunc(is.keys, was.keys, bytes.Equal) {
			errs = append(errs, fmt.Errorf("lease %d was %v and is %v", id, was, is))
		}
		// Both are rounded down: the truth is within a second of their difference.
		lost := time.Duration(was.remaining-is.remaining) * time.Second
		if lost-time.Second > elapsed+leaseSlack || lost+time.Second < -leaseSlack {
			errs = append(errs, fmt.Errorf("lease %d had %d s left and has %d s, %v later", id, was.remaining, is.remaining, elapsed))
		}
	}
	if len(s.leases) != len(before.leases) {
		errs = append(errs, fmt.Errorf("%d leases, and there were %d", len(s.leases), len(before.leases)))
	}
	return errors.Join(errs...)
}

func sameEvents(got, want []*mvccpb.Event) error {
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		if g.Type != w.Type || !same(g.Kv, w.Kv) || !same(g.PrevKv, w.PrevKv) {
			return fmt.Errorf("event %d is %v, and was %v", i, g, w)
		}
	}
	return errorIf(cmp.Compare(len(got), len(want)) != 0, "%d events, and there were %d", len(got), len(want))
}

func errorIf(bad bool, format string, args ...any) error {
	if !bad {
		return nil
	}
	return fmt.Errorf(format, args...)
}
