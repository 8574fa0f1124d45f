package native

import (
	"cmp"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// alarm names one alarm, as etcd does: a kind, once for each member.
type alarm struct {
	member uint64
	kind   pb.AlarmType
}

// Alarm lists, raises or lowers alarms. They live as long as the engine; what the checker of the file system finds it finds again.
//
// BUG(alarm): CORRUPT, which only a client can raise here, is listed, but nothing is refused while it stands.
func (e *Engine) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	response := &pb.AlarmResponse{Header: e.header()}
	a := alarm{member: r.MemberID, kind: r.Alarm}
	switch r.Action {
	case pb.AlarmRequest_GET:
		response.Alarms = e.space.list(r.Alarm)
	case pb.AlarmRequest_ACTIVATE:
		if r.Alarm != pb.AlarmType_NONE {
			e.space.activate(a)
			response.Alarms = []*pb.AlarmMember{a.proto()}
			e.log.Warn("a client raises an alarm", "alarm", r.Alarm.String(), "member", r.MemberID)
		}
	case pb.AlarmRequest_DEACTIVATE:
		if e.space.deactivate(a) {
			response.Alarms = []*pb.AlarmMember{a.proto()}
			e.log.Info("a client lowers an alarm", "alarm", r.Alarm.String(), "member", r.MemberID)
		}
	}
	return response, nil
}

// idReserve is how many row IDs of a table with INTEGER ones are kept for deletions.
const idReserve = 100_000

// noSpace says whether puts, transactions with puts, and grants of leases are refused with ErrGRPCNoSpace: because an alarm
// stands, or because an old table's IDs are used up. It takes nanoseconds.
func (e *Engine) noSpace() bool {
	return e.space.refuses.Load() || e.index.HeadID() > e.store.MaxID()-idReserve
}

func (a alarm) proto() *pb.AlarmMember { return &pb.AlarmMember{MemberID: a.member, Alarm: a.kind} }

// list is the alarms of a kind, NONE for all, in a stable order.
func (s *space) list(kind pb.AlarmType) []*pb.AlarmMember {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*pb.AlarmMember
	for a := range s.alarms {
		if kind == pb.AlarmType_NONE || kind == a.kind {
			out = append(out, a.proto())
		}
	}
	slices.SortFunc(out, func(a, b *pb.AlarmMember) int {
		return cmp.Or(cmp.Compare(a.Alarm, b.Alarm), cmp.Compare(a.MemberID, b.MemberID))
	})
	return out
}

// activate raises an alarm until it is lowered.
func (s *space) activate(a alarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alarms == nil {
		s.alarms = map[alarm]bool{}
	}
	s.alarms[a] = true
	s.decide()
}

// deactivate lowers an alarm, and says whether it was raised.
func (s *space) deactivate(a alarm) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.alarms[a] {
		return false
	}
	delete(s.alarms, a)
	if s.raised == a {
		s.raised = alarm{}
	}
	s.decide()
	return true
}

// decide is called with mu held.
func (s *space) decide() {
	refuses := false
	for a := range s.alarms {
		refuses = refuses || a.kind == pb.AlarmType_NOSPACE
	}
	s.refuses.Store(refuses)
}
