package native

import (
	"cmp"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
		if r.Alarm == pb.AlarmType_NONE {
			break
		}
		news, err := e.space.activate(a)
		if err != nil {
			return nil, err
		}
		response.Alarms = []*pb.AlarmMember{a.proto()}
		if !news {
			break
		}
		if line := e.said.happened("raised"); line.Say {
			e.log.Warn("a client raises an alarm", "alarm", r.Alarm.String(), "member", r.MemberID, "unsaid", line.Unsaid)
		}
	case pb.AlarmRequest_DEACTIVATE:
		if e.space.deactivate(a) {
			response.Alarms = []*pb.AlarmMember{a.proto()}
			if line := e.said.happened("lowered"); line.Say {
				e.log.Info("a client lowers an alarm", "alarm", r.Alarm.String(), "member", r.MemberID, "unsaid", line.Unsaid)
			}
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

// maxAlarms bounds the alarms that stand: there are two kinds, and a client may make up members.
const maxAlarms = 64

// errAlarms refuses one more.
var errAlarms = status.Error(codes.ResourceExhausted, "etcdserver: too many alarms are raised")

// activate raises an alarm until it is lowered, and says whether it was not raised before.
func (s *space) activate(a alarm) (news bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alarms == nil {
		s.alarms = map[alarm]bool{}
	}
	switch {
	case s.alarms[a]:
		return false, nil
	case len(s.alarms) >= maxAlarms:
		return false, errAlarms
	}
	s.alarms[a] = true
	s.decide()
	return true, nil
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
