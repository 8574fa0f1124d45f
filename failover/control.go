package failover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ControlServer is the service that shimctl calls.
type ControlServer struct {
	pb.UnimplementedControlServer
	Agent *Agent
	// Restorer puts a snapshot in place of all data; nil: this node cannot.
	Restorer Restorer
	// Enrol makes the enrolment file of a member that the record has given a new server ID; nil: this node makes none. NewServerID makes
	// such an ID for the named member.
	Enrol       func(r *record.Record, name string) ([]byte, error)
	NewServerID func(name string) string
	// Loner has this node go on alone; nil: it cannot.
	Loner Loner
	// ClientAddress is the host:port at which clients on this machine reach the etcd API; "": it is not told.
	ClientAddress string
}

// RestoreOptions say how a snapshot is restored.
type RestoreOptions struct {
	// Replace allows it although there are keys, which are lost then. KeepRevision goes on at the snapshot's revision if the
	// store has not reached it.
	Replace, KeepRevision bool
}

// Restorer puts a snapshot in place of all data, on the primary. Its errors are gRPC statuses.
type Restorer interface {
	Restore(ctx context.Context, snapshot io.Reader, o RestoreOptions) (keys, revision int64, err error)
}

// Status is this node's view of the cluster.
func (s ControlServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	r := s.Agent.status()
	r.ClientAddress = s.ClientAddress
	return r, nil
}

// Restore hands a snapshot to this node's Restorer.
func (s ControlServer) Restore(stream pb.Control_RestoreServer) error {
	if s.Restorer == nil {
		return status.Error(codes.Unimplemented, "this node restores no snapshots")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	began := time.Now()
	s.Agent.log.Warn("an operator restores a snapshot", "operator", first.Operator, "replace", first.Replace, "keepRevision", first.KeepRevision)
	keys, revision, err := s.Restorer.Restore(stream.Context(), &uploaded{stream: stream, rest: first.Data},
		RestoreOptions{Replace: first.Replace, KeepRevision: first.KeepRevision})
	if err != nil {
		s.Agent.log.Warn("the snapshot was not restored", "operator", first.Operator, "error", err)
		return err
	}
	return stream.SendAndClose(&pb.RestoreResponse{Keys: keys, Revision: revision, TookMs: time.Since(began).Milliseconds()})
}

// uploaded is the data of a stream as an io.Reader.
type uploaded struct {
	stream pb.Control_RestoreServer
	rest   []byte
}

// Read returns io.EOF when the client has sent all.
func (u *uploaded) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		m, err := u.stream.Recv()
		if err != nil {
			return 0, err
		}
		u.rest = m.Data
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// Promote is a switchover or a forced promotion.
func (s ControlServer) Promote(ctx context.Context, in *pb.PromoteRequest) (*pb.PromoteResponse, error) {
	a := s.Agent
	rec, _ := a.store.Record()
	switch {
	case in.Node != a.cfg.Self && in.Node != a.cfg.Other:
		return nil, status.Errorf(codes.InvalidArgument, "%q is not a data node; the data nodes are %s and %s", in.Node, a.cfg.Self, a.cfg.Other)
	case !rec.Initialised():
		return &pb.PromoteResponse{Reason: "the cluster is not initialised yet; see shimctl status"}, nil
	case in.Force:
		return a.force(ctx, in)
	case rec.Primary == a.cfg.Self || rec.Primary == in.Node:
		return a.switchover(ctx, in.Node)
	}
	r, err := a.cfg.Peer.Switchover(ctx, in)
	if err != nil && !notSent(err) {
		return nil, begun("%s, the primary, was asked to hand its role over, and its answer is missing (%s)", rec.Primary, status.Convert(err).Message())
	}
	if err != nil {
		return &pb.PromoteResponse{Reason: fmt.Sprintf(
			"the primary %s cannot be reached to hand its role over (%s). If it is dead, failover is automatic while the cluster is armed; "+
				"if it was not armed and %s is lost for good, shimctl promote %s --force shows what that would lose",
			rec.Primary, status.Convert(err).Message(), rec.Primary, in.Node)}, nil
	}
	return r, nil
}

// notSent says whether a call never reached the other node.
func notSent(err error) bool {
	return status.Code(err) == codes.Unavailable && strings.Contains(strings.ToLower(err.Error()), "error while dialing")
}

// begun is the error for something that was begun, and may still come about.
func begun(format string, args ...any) error { return status.Errorf(codes.Aborted, format, args...) }

// PreviewForce says what a forced promotion of this node would lose.
func (s ControlServer) PreviewForce(_ context.Context, in *pb.PreviewForceRequest) (*pb.PreviewForceResponse, error) {
	if in.Node != s.Agent.cfg.Self {
		return &pb.PreviewForceResponse{Reason: fmt.Sprintf("a node is forced on the node itself: run this on %s", in.Node)}, nil
	}
	return s.Agent.previewForce(), nil
}

func (a *Agent) previewForce() *pb.PreviewForceResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.input()
	no := func(format string, args ...any) *pb.PreviewForceResponse {
		return &pb.PreviewForceResponse{Reason: fmt.Sprintf(format, args...)}
	}
	p := a.peer.state
	switch {
	case !in.Record.Initialised():
		return no("the cluster is not initialised yet")
	case in.Record.Primary == a.cfg.Self:
		return no("%s is the primary already", a.cfg.Self)
	case in.Peer.Age <= in.Timing.Silence && !in.Peer.Refused && p.GateOpen:
		return no("the primary %s is alive and answers: use shimctl promote %s without --force", a.cfg.Other, a.cfg.Self)
	case in.Local.Role != decide.Standby:
		return no("PostgreSQL here is %s: there is nothing to promote", in.Local.Role)
	case in.Local.SystemID != in.Record.SystemID:
		return no("the database here is not the cluster's")
	case a.store.Status().LeaderName == a.cfg.Other && in.Peer.Age <= in.Timing.Silence && !in.Peer.Refused:
		return no("%s is up and leads, though it does not serve: stop kineshim there (systemctl stop kineshim), then try again", a.cfg.Other)
	case !in.Raft.Leads():
		return no("this node has no majority: %s and the witness %s are both out of reach, or an election is under way. Bring the witness back, then try again", a.cfg.Other, a.cfg.Witness)
	}
	r := &pb.PreviewForceResponse{Possible: true, PrimarySilentMs: -1}
	if t := a.local.obs.NewestCommit; !t.IsZero() {
		r.NewestUnixMilli = t.UnixMilli()
	}
	if p != nil {
		r.PrimarySilentMs = time.Since(a.peer.at).Milliseconds()
		if p.Epoch == in.Record.Epoch && decide.Role(p.Role) == decide.Primary {
			r.LossKnown = true
			if lsn := record.LSN(p.FlushLsn); lsn > in.Local.LSN {
				r.LossBytes = uint64(lsn - in.Local.LSN)
			}
			if !a.peer.caughtUpAt.IsZero() && r.LossBytes > 0 {
				r.LossMs = a.peer.at.Sub(a.peer.caughtUpAt).Milliseconds()
			}
		}
	}
	r.Confirm = confirmToken(in.Record, a.instance, r)
	return r
}

// confirmToken ties a confirmation to what the operator was shown: the loss stands still while the primary is silent.
func confirmToken(r *record.Record, instance string, shown *pb.PreviewForceResponse) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s %t %d", r.ClusterID, r.Primary, r.Epoch, instance, shown.LossKnown, shown.LossBytes))
	return hex.EncodeToString(sum[:6])
}

func (a *Agent) force(ctx context.Context, in *pb.PromoteRequest) (*pb.PromoteResponse, error) {
	began := time.Now()
	if in.Node != a.cfg.Self {
		return &pb.PromoteResponse{Reason: fmt.Sprintf("a node is forced on the node itself: run this on %s", in.Node)}, nil
	}
	preview := a.previewForce()
	if !preview.Possible {
		return &pb.PromoteResponse{Reason: preview.Reason}, nil
	}
	if in.Confirm != preview.Confirm {
		return &pb.PromoteResponse{Reason: "the cluster has changed since the loss was shown: look again"}, nil
	}
	a.mu.Lock()
	a.wish.force = began.Add(forceTimeout)
	a.mu.Unlock()
	a.log.Warn("an operator forces the promotion of this node", "operator", in.Operator, "lossKnown", preview.LossKnown, "lossBytes", preview.LossBytes)
	a.wake()
	for time.Since(began) < forceTimeout {
		if !pause(ctx, wishPoll) {
			return nil, ctx.Err()
		}
		if rec, _ := a.store.Record(); rec.Primary == a.cfg.Self && a.gate.accepting() {
			return &pb.PromoteResponse{Done: true, Epoch: rec.Epoch, TookMs: time.Since(began).Milliseconds()}, nil
		}
	}
	return nil, begun("%s does not serve yet, after %v; shimctl status and the log say what it waits for", in.Node, forceTimeout)
}

// SetPaused suspends automatic failover, or ends that.
func (s ControlServer) SetPaused(ctx context.Context, in *pb.SetPausedRequest) (*pb.SetPausedResponse, error) {
	a := s.Agent
	if a.otherLeads(ctx) {
		r, err := a.cfg.Peer.SetPaused(ctx, in)
		return r, a.saidByLeader(err)
	}
	return a.setPaused(ctx, in)
}

func (a *Agent) setPaused(ctx context.Context, in *pb.SetPausedRequest) (*pb.SetPausedResponse, error) {
	kind := record.Resume
	if in.Paused {
		kind = record.Pause
	}
	err := a.putDown(ctx, record.Command{Kind: kind, Why: "by " + in.Operator}, func(r *record.Record) bool { return r.Paused == in.Paused })
	return &pb.SetPausedResponse{}, err
}

// Revoke voids an operator's certificates.
func (s ControlServer) Revoke(ctx context.Context, in *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	a := s.Agent
	if a.otherLeads(ctx) {
		r, err := a.cfg.Peer.Revoke(ctx, in)
		return r, a.saidByLeader(err)
	}
	return a.revoke(ctx, in)
}

func (a *Agent) revoke(ctx context.Context, in *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	err := a.putDown(ctx, record.Command{Kind: record.Revoke, Node: in.Name, Why: "by " + in.Operator}, func(r *record.Record) bool { return r.IsRevoked(in.Name) })
	return &pb.RevokeResponse{}, err
}

// electionPatience is for how long an operator's word waits for a leader: when links are back, there is one a moment later.
const electionPatience = 4 * time.Second

// otherLeads waits until a data node leads, for electionPatience at most, and says whether it is the other one.
func (a *Agent) otherLeads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, electionPatience)
	defer cancel()
	for {
		switch a.store.Status().LeaderName {
		case a.cfg.Self:
			return false
		case a.cfg.Other:
			return true
		}
		if !pause(ctx, wishPoll) {
			return false
		}
	}
}

// saidByLeader is what the other node's answer to an operator's word means here.
func (a *Agent) saidByLeader(err error) error {
	if status.Code(err) != codes.Unavailable {
		return err
	}
	return begun("%s, which leads, was asked, and its answer is missing (%s): whether it was recorded is not known; look at shimctl history, and repeat it",
		a.cfg.Other, status.Convert(err).Message())
}

// putDown records an operator's word, on the node that leads, unless it is so already. That it is, only a leader with a majority knows: the record of a node that
// is cut off may be an old one.
func (a *Agent) putDown(ctx context.Context, c record.Command, already func(*record.Record) bool) error {
	st := a.store.Status() // before the record
	rec, _ := a.store.Record()
	if rec.Initialised() && already(rec) && st.Leader && st.Barrier && st.LeaseLeft > 0 {
		return nil
	}
	c.Epoch, c.By, c.AtUnixMilli = rec.Epoch, a.cfg.Self, time.Now().UnixMilli()
	outcome, err := a.store.Propose(ctx, c)
	switch outcome {
	case Done:
		return nil
	case Unknown:
		return begun("whether it was recorded is not known (%v): look at shimctl history, and repeat it", err)
	}
	if !a.store.Status().Leader {
		return status.Error(codes.FailedPrecondition, "nobody leads: no majority is reachable, or an election is under way, so nothing can be recorded; see shimctl status")
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// History lists what happened to the cluster.
func (s ControlServer) History(context.Context, *pb.HistoryRequest) (*pb.HistoryResponse, error) {
	rec, _ := s.Agent.store.Record()
	r := &pb.HistoryResponse{}
	for _, e := range rec.History {
		r.Events = append(r.Events, &pb.HistoryEvent{AtUnixMilli: e.AtUnixMilli, Epoch: e.Epoch, Kind: string(e.Kind), Node: e.Node, Why: e.Why})
	}
	return r, nil
}
