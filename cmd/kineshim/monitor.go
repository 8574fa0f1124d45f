package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"kineshim/failover"
	"kineshim/failover/decide"
	"kineshim/kineshim/native"
	"kineshim/monitor"
	"kineshim/monitor/nodemetrics"
	pb "kineshim/proto"
	"kineshim/version"
)

// startMonitor answers load balancers and Prometheus, if that is wanted. It is stopped after the agent, so that a node that is leaving says so.
func (n *node) startMonitor() (stop func() error, err error) {
	if n.cfg.HTTPListen == "" {
		return func() error { return nil }, nil
	}
	ln, err := net.Listen("tcp", n.cfg.HTTPListen)
	if err != nil {
		return nil, fmt.Errorf("http_listen: %w", err)
	}
	pages := monitor.NodePages(n.health, n.metrics.Handler())
	n.log.Info("answers load balancers and Prometheus", "http", ln.Addr().String())
	return n.background(func(ctx context.Context) error { return monitor.Serve(ctx, ln, pages, n.log) }), nil
}

// measures are told how long the engine takes.
func (n *node) measures() native.Measures {
	m := n.metrics
	return native.Measures{Queue: m.Queue, Batch: m.Batch, Commit: m.Commit, BatchOperations: m.BatchOperations, WatchLag: m.WatchLag}
}

// sinceDecided is how long ago the agent decided; before it has, how long ago it was made.
func (n *node) sinceDecided(v *failover.Vitals) time.Duration {
	if n.stopping.Load() { // nothing is decided any more, and nothing hangs
		return 0
	}
	if v == nil {
		return time.Since(n.agent.Started())
	}
	return time.Since(v.At)
}

// health is what load balancers are told. The gate is asked at that moment; the rest is at most as old as the last decision.
func (n *node) health() monitor.Health {
	v, closed, route := n.agent.Vitals(), n.agent.Gate().Closed(), n.agent.Route()
	h := monitor.Health{
		Node: n.cfg.Name, Version: version.Version, Role: "starting", Mode: "unknown",
		GateOpen: closed == "", Gate: closed, Forwards: route.Target != "", Decided: n.sinceDecided(v),
	}
	if v == nil {
		return h
	}
	h.Epoch, h.Primary, h.Mode, h.Armed, h.NotArmed = v.Status.Epoch, v.Status.Primary, v.Status.Mode, v.Status.Armed, v.Status.NotArmed
	if s := v.State(); s != nil {
		h.Role, h.Streaming = s.Role, s.Streaming
	}
	if bytes, ok := lagBytes(v.Status); ok && h.Role == string(decide.Standby) {
		h.LagBytes = &bytes
	}
	return h
}

// lagBytes is the standby's lag, on either node.
func lagBytes(s *pb.StatusResponse) (uint64, bool) {
	i := slices.IndexFunc(s.Nodes, func(x *pb.NodeStatus) bool { return x.LagKnown && x.Reachable })
	if i < 0 {
		return 0, false
	}
	return s.Nodes[i].LagBytes, true
}

// unknownAge is for what is negative in a Sample because it is not known.
const unknownAge = time.Duration(-1)

func age(d time.Duration) time.Duration {
	if d == decide.Never {
		return unknownAge
	}
	return d
}

// sample is what metrics are read from.
func (n *node) sample() nodemetrics.Sample {
	v, route, r := n.agent.Vitals(), n.agent.Route(), n.raft.Status()
	rec, applied := n.raft.Record()
	s := nodemetrics.Sample{
		Node: n.cfg.Name, Version: version.Version, GateOpen: n.agent.Gate().Closed() == "", Decided: n.sinceDecided(v),
		Epoch: rec.Epoch, Primary: rec.Primary, Paired: rec.Paired(), Paused: rec.Paused,
		RaftLeader: r.Leader, RaftVoid: r.Void != "", RaftHasLeader: r.LeaderName != "", RaftTerm: r.Term, RaftCommitIndex: r.CommitIndex, RaftApplied: applied,
		Lease: r.LeaseLeft, PeerHeard: unknownAge, WitnessHeard: unknownAge,
		Requests: nodemetrics.Requests{Waiting: n.endpoint.Waiting(), UnknownOutcomes: n.endpoint.UnknownOutcomes()},
		Store:    n.storeSample(), Connections: n.limits.sample(),
	}
	open, refused := n.listener.Greeting()
	s.Connections["raft"] = nodemetrics.Connections{Open: open, Refused: refused}
	s.EndpointReady = s.GateOpen || route.Target != ""
	s.Certificates = n.certificates()
	for _, a := range n.vipStates() {
		s.VIPs = append(s.VIPs, nodemetrics.VIP{
			Address: a.Address, Held: a.Held || a.HookOnly && a.HookMoved, Trouble: a.Problem != "" || a.HookFailing, Conflicts: a.Conflicts, Takeovers: a.Takeovers, HookFailures: a.HookFailures,
		})
	}
	if v != nil {
		fromVitals(&s, v)
	}
	return s
}

// fromVitals adds what the agent knows.
func fromVitals(s *nodemetrics.Sample, v *failover.Vitals) {
	s.Armed, s.Synchronous = v.Status.Armed, v.Status.Synchronous
	s.PeerHeard, s.WitnessHeard, s.Failovers = age(v.PeerHeard), age(v.WitnessHeard), v.Failovers
	s.Postgres.Up, s.Postgres.StartFailures, s.Postgres.DamageFound = v.PostgresUp, v.StartFailures, v.DamageFound
	if !v.EssentialsAt.IsZero() && v.PostgresUp {
		s.Postgres.Essentials = essentials(v)
	}
	if d := v.Disk; d.Total > 0 {
		s.Disk = &nodemetrics.Disk{FreeBytes: d.Free, TotalBytes: d.Total, Low: d.Low, Failing: d.Failing != ""}
	}
	state := v.State()
	if state == nil {
		return
	}
	s.Role = state.Role
	s.Postgres.Timeline, s.Postgres.WALFlushed, s.Postgres.Damaged = state.Timeline, state.FlushLsn, state.DataDamaged
	standby := state.Role == string(decide.Standby)
	if standby {
		s.Postgres.WALReplayed = state.ReplayLsn
	}
	if standby || state.Role == string(decide.Primary) {
		s.Replication = &nodemetrics.Replication{LagBytes: -1, LagSeconds: -1, Streaming: state.Streaming || v.LagKnown}
		if bytes, ok := lagBytes(v.Status); ok {
			s.Replication.LagBytes = float64(bytes)
		}
		if v.LagKnown {
			s.Replication.LagSeconds = v.LagSeconds
		}
	}
}

func essentials(v *failover.Vitals) *nodemetrics.Essentials {
	e := v.Essentials
	return &nodemetrics.Essentials{
		Sessions: e.Sessions, MaxSessions: e.MaxSessions, DatabaseBytes: e.DatabaseBytes, WALBytes: e.WALBytes, XIDAge: e.XIDAge, SlotWALBytes: e.SlotWALBytes,
		OldestTransactionSeconds: e.OldestTransaction, Commits: e.Commits, Rollbacks: e.Rollbacks, Deadlocks: e.Deadlocks,
		BlocksRead: e.BlocksRead, BlocksHit: e.BlocksHit, ChecksumFailures: e.ChecksumFailures,
	}
}

// storeSample is nil with kine's engine, and before the keys are loaded.
func (n *node) storeSample() *nodemetrics.Store {
	if n.replica == nil {
		return nil
	}
	st := n.replica.Stats()
	if !st.Loaded {
		return nil
	}
	s := &nodemetrics.Store{
		Revision: st.Revision, Compacted: st.Compacted, Keys: st.Keys, Revisions: st.Revisions,
		CacheBytes: st.CacheBytes, CacheHits: st.CacheHits, CacheMisses: st.CacheMisses,
		Queued: -1, InFlight: -1, Leases: -1,
		Streams: st.Watch.Streams, Watchers: st.Watch.Watchers, LaggingWatchers: st.Watch.Lagging,
	}
	if st.Serving {
		s.Queued, s.InFlight, s.Leases = st.Queued, st.InFlight, st.Leases
	}
	return s
}
