package failover

import (
	"context"
	"fmt"
	"net"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// replaceTimeout bounds the wait until the record says solo, so that a member may be replaced: a proposal and what it may wait for.
const replaceTimeout = 15 * time.Second

// Replace gives a lost member a new identity.
func (s ControlServer) Replace(ctx context.Context, in *pb.ReplaceRequest) (*pb.ReplaceResponse, error) {
	if s.Enrol == nil || s.NewServerID == nil {
		return nil, status.Error(codes.Unimplemented, "this node makes no enrolments")
	}
	r := s.Agent.mayReplace(in)
	if !r.Done || in.Check {
		return r, nil
	}
	r.ServerId = s.NewServerID(in.Node)
	rec, err := s.Agent.replace(ctx, in, r)
	if err != nil || rec == nil {
		r.Done = false
		return r, err
	}
	if r.Enrolment, err = s.Enrol(rec, in.Node); err != nil {
		return nil, status.Errorf(codes.Internal, "%s is %s now, but its enrolment file was not made: %v; run this again", in.Node, r.ServerId, err)
	}
	return r, nil
}

// mayReplace says whether the member may be replaced now, and if not, why.
func (a *Agent) mayReplace(q *pb.ReplaceRequest) *pb.ReplaceResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.input()
	r := &pb.ReplaceResponse{}
	no := func(format string, args ...any) *pb.ReplaceResponse {
		r.Reason = fmt.Sprintf(format, args...)
		return r
	}
	m, ok := in.Record.Member(q.Node)
	r.OldServerId, r.Role = m.ServerID, string(m.Role)
	heard, last := a.alive(&in, q.Node)
	r.Alive = heard
	third := a.cfg.Other
	if q.Node == a.cfg.Other {
		third = a.cfg.Witness
	}
	other, _ := in.Record.Member(third)
	switch {
	case in.Raft.Void != "":
		return no("this node is out of the cluster itself: %s", in.Raft.Void)
	case !in.Record.Initialised():
		return no("the cluster is not initialised yet")
	case !ok:
		return no("there is no member %q", q.Node)
	case q.Node == in.Record.Primary:
		return no("%s is the primary: make the other node the primary first (shimctl promote)", q.Node)
	case in.Record.Primary != a.cfg.Self:
		return no("members are enrolled anew by the primary: run this on %s", in.Record.Primary)
	case !isAddress(q.Address):
		return no("%q is not host:port", q.Address)
	case a.wish.replace != "":
		return no("%s is being enrolled anew at the moment", a.wish.replace)
	case !in.Raft.Leads() || in.Local.Role != decide.Primary:
		return no("%s has no majority, or does not serve: %s must be reachable, because a majority has to record the change. If %s is lost for good too, use shimctl serve --alone",
			a.cfg.Self, third, third)
	case heard && !q.Alive:
		return no("%s is alive (%s): nothing needs to be replaced. To replace it all the same: --yes; it is taken out first", q.Node, last)
	case !other.Lost && !a.votes(third):
		return no("%s does not answer: without %s, %s and %s are all that is left, and both must agree to let the new one in. Bring %s back first; if it is lost for good too, use shimctl serve --alone",
			third, q.Node, a.cfg.Self, third, third)
	}
	r.Done = true
	return r
}

// isAddress is true for none and for host:port.
func isAddress(address string) bool {
	if address == "" {
		return true
	}
	_, _, err := net.SplitHostPort(address)
	return err == nil
}

// votes says whether this leader has lately been answered by the other voter.
func (a *Agent) votes(name string) bool {
	s := a.store.Status()
	age, ok := s.Heard[name]
	return ok && age < witnessReachable && s.Apart[name] == ""
}

// alive says whether the member takes part at the moment. a.mu is held.
func (a *Agent) alive(in *decide.Input, node string) (bool, string) {
	s := a.store.Status()
	if s.Apart[node] != "" {
		return false, s.Apart[node]
	}
	age, ok := s.Heard[node]
	if node == a.cfg.Other && in.Peer.Age <= in.Timing.Silence && a.peer.state != nil && a.peer.state.Void == "" {
		return true, "it answers"
	}
	return ok && age < witnessReachable, fmt.Sprintf("it answered %v ago", age.Round(time.Millisecond))
}

// replace has the record count on nobody else, and names the new server in it. It returns the record in which it stands; nil, with the
// reason in r, if nothing was done.
func (a *Agent) replace(ctx context.Context, q *pb.ReplaceRequest, r *pb.ReplaceResponse) (*record.Record, error) {
	a.mu.Lock()
	a.wish.replace = q.Node
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.wish.replace = ""
		a.mu.Unlock()
		a.wake()
	}()
	a.wake()
	a.log.Warn("an operator has a member enrolled anew", "node", q.Node, "operator", q.Operator, "old", r.OldServerId, "new", r.ServerId, "address", q.Address)
	ctx, cancel := context.WithTimeout(ctx, replaceTimeout)
	defer cancel()
	rec, _ := a.store.Record()
	for ; rec.Paired() || a.pairing.Load(); rec, _ = a.store.Record() {
		if !pause(ctx, wishPoll) {
			r.Reason = "the record still counts on all three members after " + replaceTimeout.String() + "; see shimctl status"
			return nil, nil
		}
	}
	outcome, err := a.store.Propose(ctx, record.Command{
		Kind: record.Replace, Epoch: rec.Epoch, By: a.cfg.Self, Node: q.Node, OldServerID: r.OldServerId, ServerID: r.ServerId, Address: q.Address,
		Why: "by " + q.Operator, AtUnixMilli: time.Now().UnixMilli(),
	})
	switch outcome {
	case Done:
		rec, _ = a.store.Record()
		return rec, nil
	case Unknown:
		return nil, begun("whether %s was enrolled anew is not known (%v): look at shimctl status, and run this again", q.Node, err)
	}
	r.Reason = err.Error()
	return nil, nil
}
