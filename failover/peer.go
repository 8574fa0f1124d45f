package failover

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// peer is what the other data node has said of itself. Agent.mu guards it.
type peer struct {
	state *pb.NodeState // nil: nothing yet
	// at is when it was last heard; askedAt when the last question was put that it answered.
	at, askedAt time.Time
	refused     bool
	// notReadySince is since when it has been saying that its PostgreSQL does not run; zero: it runs.
	notReadySince time.Time
	// caughtUpAt is when this standby last had all the WAL that the primary said it had.
	caughtUpAt time.Time
	// lag is this standby's.
	lag lagMark
	// silent: it has been logged that the other node is not heard.
	silent bool
}

const (
	// exchangeEvery is how often the nodes tell each other how they are.
	exchangeEvery = 100 * time.Millisecond
	// exchangeAgain is how soon a question is repeated that has failed in any way but by a refused connection: while a process ends, its
	// connections break first, and only then does its port say that nobody is there.
	exchangeAgain = 20 * time.Millisecond
	// exchangeTimeout gives up one question; the next is put on the same connection.
	exchangeTimeout = 400 * time.Millisecond
)

// exchange asks the other node how it is, and tells how this one is, until ctx ends.
func (a *Agent) exchange(ctx context.Context) {
	t := time.NewTimer(exchangeEvery)
	defer t.Stop()
	for {
		next := time.Now().Add(exchangeEvery)
		if !a.exchangeOnce(ctx) {
			next = time.Now().Add(exchangeAgain)
		}
		t.Reset(max(0, time.Until(next)))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-a.beatCh:
		}
	}
}

// watchLink has the other node asked at once when the connection to it breaks, until ctx ends: a process that has ended closes its
// connections, and its port then refuses new ones.
func (a *Agent) watchLink(ctx context.Context) {
	for {
		was := a.cfg.PeerLink.GetState()
		if !a.cfg.PeerLink.WaitForStateChange(ctx, was) {
			return
		}
		if was == connectivity.Ready {
			a.beat()
		}
	}
}

// exchangeOnce reports whether it is known how the other node is: it has answered, or its process does not run.
func (a *Agent) exchangeOnce(ctx context.Context) bool {
	asked := time.Now()
	call, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	s, err := a.cfg.Peer.Exchange(call, a.nodeState())
	if err == nil {
		if why := a.stranger(s); why != "" {
			a.log.Debug("the other node is not heard", "why", why)
			return true
		}
		a.hear(s, asked)
		return true
	}
	refused := status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "connection refused")
	a.mu.Lock()
	changed := refused && !a.peer.refused
	a.peer.refused = refused
	a.mu.Unlock()
	if changed {
		a.log.Warn("the other node's process does not run", "phase", "detected", "node", a.cfg.Other, "error", err)
		a.wake()
	}
	return refused
}

// hear takes in what the other node says of itself. asked is when it was asked; zero if it spoke by itself.
func (a *Agent) hear(s *pb.NodeState, asked time.Time) {
	now := time.Now()
	a.mu.Lock()
	p := &a.peer
	old := p.state
	p.state, p.at, p.refused = s, now, false
	if !asked.IsZero() {
		p.askedAt = asked
	}
	switch role := decide.Role(s.Role); {
	case role == decide.Standby || role == decide.Primary || s.Role == "promoting":
		p.notReadySince = time.Time{}
	case p.notReadySince.IsZero() || old != nil && old.Instance != s.Instance:
		p.notReadySince = now
	}
	here := max(a.local.obs.ReceiveLSN, a.local.obs.ReplayLSN)
	if s.FlushLsn <= uint64(here) {
		p.caughtUpAt = now
	}
	p.lag.note(record.LSN(s.FlushLsn), here, now)
	if s.WantsRelief && (old == nil || !old.WantsRelief || old.ReliefReason != s.ReliefReason) {
		a.log.Info("the primary asks to be relieved", "node", s.Node, "why", s.ReliefReason, "epoch", s.Epoch)
	}
	if g := a.local.grant; g != (grant{}) && (s.Instance != g.instance || s.Rebuilt == g.nonce) {
		a.local.grant = grant{}
	}
	changed := old == nil || old.Role != s.Role || old.GateOpen != s.GateOpen || old.WantsRelief != s.WantsRelief ||
		old.Epoch != s.Epoch || old.Streaming != s.Streaming || old.Leaving != s.Leaving || old.Instance != s.Instance || !a.raft.leaderSince.IsZero() && asked.Sub(a.raft.leaderSince) < exchangeEvery
	a.mu.Unlock()
	if changed {
		a.wake()
	}
}

// noteSilence logs when the other data node ceases to be heard, and when it is heard again. a.mu is held.
func (a *Agent) noteSilence(in *decide.Input) {
	p := &a.peer
	switch silent := in.Peer.Silent > in.Timing.Silence; {
	case silent == p.silent:
		return
	case silent:
		a.log.Warn("the other node is silent", "node", a.cfg.Other, "for", in.Peer.Silent.Round(time.Millisecond), "primary", in.Record.Primary, "epoch", in.Record.Epoch,
			"mode", in.Record.Mode())
	default:
		a.log.Info("the other node is heard again", "node", a.cfg.Other, "itsRole", p.state.Role, "itsEpoch", p.state.Epoch, "epoch", in.Record.Epoch)
	}
	p.silent = !p.silent
}

func (p *peer) input(now, started, leaderSince time.Time) decide.Peer {
	in := decide.Peer{Age: decide.Never, Silent: now.Sub(started), Refused: p.refused}
	if p.state == nil {
		return in
	}
	s := p.state
	in.Age = now.Sub(p.at)
	in.Silent = in.Age
	in.SinceLeader = !leaderSince.IsZero() && p.askedAt.After(leaderSince)
	in.Epoch, in.Timeline, in.SystemID, in.LSN = s.Epoch, s.Timeline, s.SystemId, record.LSN(s.FlushLsn)
	in.Whole, in.Streaming, in.GateOpen, in.Relief, in.Leaving = s.DataComplete, s.Streaming, s.GateOpen, s.WantsRelief, s.Leaving
	in.NotReadyFor = since(now, p.notReadySince)
	in.Disk = decide.Disk{Low: s.DiskLow, Roomy: s.DiskRoomy, Full: s.DiskFull, Failing: s.DiskFailing, Damaged: s.DataDamaged}
	switch s.Role {
	case "promoting":
		in.Role = decide.Standby
	case "starting", "stopping":
		in.Role = decide.Stopped
	case "cloning", "rewinding", "broken":
		in.Role = decide.Broken
	default:
		in.Role = decide.Role(s.Role)
	}
	return in
}

// stranger says why the node is not the other data node, though it has its name: the record knows another voter under it. "": it is.
func (a *Agent) stranger(s *pb.NodeState) string {
	rec, _ := a.store.Record()
	m, ok := rec.Member(a.cfg.Other)
	switch {
	case !ok || s.ServerId == "" || s.ServerId == m.ServerID && !m.Lost:
		return ""
	case m.Lost:
		return s.ServerId + " was given up: this cluster went on without it"
	}
	return s.ServerId + " is not the voter " + m.ServerID + " of this cluster: one of the two was enrolled anew"
}

// newNonce makes a name that nobody else has.
func newNonce() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// PeerServer is the service that the other data node calls.
type PeerServer struct {
	pb.UnimplementedPeerServer
	Agent *Agent
}

// Exchange hears how the other node is and tells how this one is.
func (s PeerServer) Exchange(_ context.Context, in *pb.NodeState) (*pb.NodeState, error) {
	if in.Node != s.Agent.cfg.Other {
		return nil, status.Errorf(codes.PermissionDenied, "this is %s; its other data node is %s, not %s", s.Agent.cfg.Self, s.Agent.cfg.Other, in.Node)
	}
	if why := s.Agent.stranger(in); why != "" {
		return nil, status.Error(codes.PermissionDenied, why)
	}
	s.Agent.hear(in, time.Time{})
	return s.Agent.nodeState(), nil
}

// BeginRebuild lets the standby destroy its data, or says why not.
func (s PeerServer) BeginRebuild(ctx context.Context, in *pb.BeginRebuildRequest) (*pb.BeginRebuildResponse, error) {
	a := s.Agent
	a.mu.Lock()
	defer a.mu.Unlock()
	rec, _ := a.store.Record()
	switch {
	case in.Node != a.cfg.Other:
		return &pb.BeginRebuildResponse{Reason: "not a node of this cluster"}, nil
	case rec.Primary != a.cfg.Self || rec.Epoch != in.Epoch:
		return &pb.BeginRebuildResponse{Reason: "this node is not the primary of that epoch"}, nil
	case rec.InSyncHas(in.Node) || a.pairing.Load():
		return &pb.BeginRebuildResponse{Reason: "the record counts on that node's data, or may soon"}, nil
	case a.role() != decide.Primary || a.local.promotedEpoch != rec.Epoch:
		return &pb.BeginRebuildResponse{Reason: "PostgreSQL does not serve here"}, nil
	}
	a.local.grant = grant{in.Instance, in.Nonce}
	a.local.proven = false
	a.log.Info("the standby is rebuilt from this node", "node", in.Node)
	return &pb.BeginRebuildResponse{Granted: true}, nil
}

// Switchover takes an operator's request that reached the standby.
func (s PeerServer) Switchover(ctx context.Context, in *pb.PromoteRequest) (*pb.PromoteResponse, error) {
	return s.Agent.switchover(ctx, in.Node)
}

// SetPaused takes an operator's request that reached the other node.
func (s PeerServer) SetPaused(ctx context.Context, in *pb.SetPausedRequest) (*pb.SetPausedResponse, error) {
	return s.Agent.setPaused(ctx, in)
}

// Revoke takes an operator's request that reached the other node.
func (s PeerServer) Revoke(ctx context.Context, in *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	return s.Agent.revoke(ctx, in)
}
