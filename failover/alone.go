package failover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// aloneAfter is for how long nobody must have led before a node may go on alone: elections take a fraction of it, and whoever has a majority
// does not need to give anybody up.
const aloneAfter = 3 * time.Second

// Loner makes this node the only member of its cluster.
type Loner interface {
	// LastRecord is the newest cluster record that this node has on disk.
	LastRecord() (record.Record, error)
	// GoAlone makes it durable that the node goes on under the record, in which it is the only voter. When it returns nil, the node starts
	// anew by itself; with an error, nothing has changed.
	GoAlone(r record.Record) error
	// Address is where a member's Raft listens.
	Address(member string) string
}

// PreviewAlone says what is known of what would be lost if this node went on alone.
func (s ControlServer) PreviewAlone(context.Context, *pb.PreviewAloneRequest) (*pb.PreviewAloneResponse, error) {
	if s.Loner == nil {
		return nil, status.Error(codes.Unimplemented, "this node cannot go on alone")
	}
	r, _, err := s.Agent.previewAlone(s.Loner)
	return r, err
}

func (a *Agent) previewAlone(loner Loner) (*pb.PreviewAloneResponse, record.Record, error) {
	rec, err := loner.LastRecord()
	if err != nil {
		return nil, rec, status.Error(codes.Internal, err.Error())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.input()
	r := &pb.PreviewAloneResponse{Epoch: rec.Epoch, Primary: rec.Primary, InSync: slices.Clone(rec.InSync), OtherSilentMs: -1}
	r.Safe = a.aloneSafe(&in, &rec)
	for _, m := range rec.Members {
		if m.Name != a.cfg.Self && !m.Lost {
			r.Others = append(r.Others, &pb.LostMember{Name: m.Name, Role: string(m.Role), ServerId: m.ServerID, Address: loner.Address(m.Name)})
		}
	}
	if t := a.local.obs.NewestCommit; !t.IsZero() {
		r.NewestUnixMilli = t.UnixMilli()
	}
	a.aloneLoss(&in, &rec, r)
	r.Reason = a.aloneRefused(&in, &rec)
	r.Possible = r.Reason == ""
	if r.Possible {
		r.Confirm = aloneToken(&rec, a.instance, r.Safe)
	}
	return r, rec, nil
}

// aloneSafe: as far as can be known here, this node holds every acknowledged write. Both records, the one that is known to be committed and the
// newest one here, must count on it; and if they count on another too, this process must have heard of that one: while it was away, the others
// may have gone on without it. a.mu is held.
func (a *Agent) aloneSafe(in *decide.Input, rec *record.Record) bool {
	if !rec.InSyncHas(a.cfg.Self) || in.Record.Initialised() && !in.Record.InSyncHas(a.cfg.Self) {
		return false
	}
	return rec.Solo() || a.peer.state != nil
}

// aloneLoss fills in what this process has heard of the other data node. a.mu is held.
func (a *Agent) aloneLoss(in *decide.Input, rec *record.Record, r *pb.PreviewAloneResponse) {
	p := a.peer.state
	if p == nil {
		return
	}
	r.OtherSilentMs = time.Since(a.peer.at).Milliseconds()
	if rec.Primary == a.cfg.Self || p.Epoch != rec.Epoch || decide.Role(p.Role) != decide.Primary {
		return
	}
	r.LossKnown = true
	if lsn := record.LSN(p.FlushLsn); lsn > in.Local.LSN {
		r.LossBytes = uint64(lsn - in.Local.LSN)
		if !a.peer.caughtUpAt.IsZero() {
			r.LossMs = a.peer.at.Sub(a.peer.caughtUpAt).Milliseconds()
		}
	}
}

// aloneRefused says why this node must not, or need not, go on alone; "" if it may. a.mu is held.
func (a *Agent) aloneRefused(in *decide.Input, rec *record.Record) string {
	s := a.store.Status()
	switch {
	case in.Raft.Void != "":
		return "this node is out of the cluster itself: " + in.Raft.Void
	case !rec.Initialised():
		return "this node has no cluster record: it was never in touch with a cluster that served"
	case len(rec.Voters()) == 1:
		return "this node is the only member already"
	case in.Peer.Age <= in.Timing.Silence && !in.Peer.Refused && a.peer.state.GetGateOpen():
		return fmt.Sprintf("%s is alive and serves", a.cfg.Other)
	case s.Leader || s.LeaderName != "":
		return "there is a majority: nobody has to be given up. To promote this node: shimctl promote " + a.cfg.Self + " --force; to replace a lost member, on the primary: shimctl witness replace, shimctl node replace"
	case time.Since(a.raft.led) < aloneAfter:
		return fmt.Sprintf("somebody led until a moment ago, or this process has just started: wait for %v, then look again", aloneAfter)
	case in.Local.Role == decide.Absent || in.Local.Role == decide.Broken:
		return "there is no whole copy of the data here"
	case in.Local.SystemID != rec.SystemID:
		return "the database here is not the cluster's"
	}
	return ""
}

// aloneToken ties a confirmation to what the operator was shown.
func aloneToken(r *record.Record, instance string, safe bool) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "alone %s %s %d %d %v %s %v", r.ClusterID, r.Primary, r.Epoch, r.Incarnation, r.InSync, instance, safe))
	return hex.EncodeToString(sum[:6])
}

// ServeAlone has this node go on without the others.
func (s ControlServer) ServeAlone(_ context.Context, in *pb.ServeAloneRequest) (*pb.ServeAloneResponse, error) {
	if s.Loner == nil || s.NewServerID == nil {
		return nil, status.Error(codes.Unimplemented, "this node cannot go on alone")
	}
	a := s.Agent
	preview, rec, err := a.previewAlone(s.Loner)
	no := func(why string) (*pb.ServeAloneResponse, error) { return &pb.ServeAloneResponse{Reason: why}, nil }
	switch {
	case err != nil:
		return nil, err
	case !preview.Possible:
		return no(preview.Reason)
	case in.Confirm != preview.Confirm:
		return no("what is known has changed since it was shown: look again")
	case !preview.Safe && !in.Force:
		return no(a.cfg.Self + " may lack acknowledged writes: it goes on alone only with --force")
	}
	why := "by " + in.Operator
	if !preview.Safe {
		why += ", though it may lack acknowledged writes"
	}
	next, err := rec.Apply(record.Command{
		Kind: record.Alone, Epoch: rec.Epoch, By: a.cfg.Self, Node: a.cfg.Self, ServerID: s.NewServerID(a.cfg.Self), Why: why, AtUnixMilli: time.Now().UnixMilli(),
	})
	if err != nil {
		return no(err.Error())
	}
	if err := s.Loner.GoAlone(next); err != nil {
		a.log.Error("the node does not go on alone", "error", err)
		return nil, status.Error(codes.Internal, err.Error())
	}
	a.log.Warn("an operator has this node go on alone", "operator", in.Operator, "safe", preview.Safe, "lossKnown", preview.LossKnown, "lossBytes", preview.LossBytes,
		"epoch", next.Epoch, "server", next.GenerationID)
	a.gate.End("this node starts anew, alone")
	return &pb.ServeAloneResponse{Done: true, Epoch: next.Epoch}, nil
}
