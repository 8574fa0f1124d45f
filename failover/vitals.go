package failover

import (
	"context"
	"maps"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/disk"
	"kineshim/failover/postgres"
	pb "kineshim/proto"
)

// Vitals are what monitoring is told of a node. They are never changed once published.
type Vitals struct {
	// At is when the agent decided last. One that has not decided for seconds is not alive, and what it said then is not to be relied on.
	At time.Time
	// Status is the node's view of the cluster.
	Status *pb.StatusResponse
	// LagSeconds is for how long the standby has lacked WAL that the primary was known to have; LagKnown: the two are in touch. On a primary it is
	// its standby's, on a standby its own.
	LagSeconds float64
	LagKnown   bool
	// PeerHeard is the time since the other data node was heard, WitnessHeard on a leader since the witness was, or since it leads; decide.Never: not known here.
	PeerHeard, WitnessHeard time.Duration
	// AcknowledgesItself: this primary lets commits go without a standby.
	AcknowledgesItself bool
	// PostgresUp: it runs. StartFailures counts starts that failed in a row.
	PostgresUp    bool
	StartFailures int
	// DamageFound counts since this process started how often damaged pages have been found in a copy of the data, which is then made anew.
	DamageFound uint64
	// Essentials are PostgreSQL's numbers at EssentialsAt; the zero time: not known.
	Essentials   postgres.Essentials
	EssentialsAt time.Time
	Disk         disk.State
	// Failovers counts the epochs that this node has begun since this process started, by cause; all Causes are there.
	Failovers map[string]uint64
}

// State is the node's own part of Status.
func (v *Vitals) State() *pb.NodeState {
	for _, n := range v.Status.GetNodes() {
		if n.Self {
			return n.State
		}
	}
	return nil
}

// publish makes new Vitals. It is called after each decision.
func (a *Agent) publish() {
	v := &Vitals{At: time.Now(), Status: a.status()}
	a.mu.Lock()
	in := a.input()
	l := &a.local
	v.LagSeconds, v.LagKnown = a.lag(&in, v.At)
	v.PeerHeard, v.WitnessHeard = in.Peer.Age, decide.Never
	if in.Raft.Leader {
		v.WitnessHeard = in.Raft.WitnessSilent
	}
	v.AcknowledgesItself = in.Local.Solo && in.Local.Role == decide.Primary
	v.PostgresUp, v.StartFailures, v.DamageFound = l.up, l.startFailures, l.damageFound
	v.Essentials, v.EssentialsAt = l.essentials, l.essentialsAt
	v.Failovers = maps.Clone(a.failovers.count)
	a.mu.Unlock()
	if a.disk != nil {
		v.Disk = a.disk.State()
	}
	a.vitals.Store(v)
}

// lag is for how long the standby has been behind. a.mu is held.
func (a *Agent) lag(in *decide.Input, now time.Time) (seconds float64, known bool) {
	switch l := &a.local; {
	case in.Local.Role == decide.Primary && in.Local.StandbyStreams:
		s, _ := standbyOf(l.obs)
		return l.standbyLag.behind(s.FlushLSN, now).Seconds(), true
	case in.Local.Role == decide.Standby && in.Local.Streaming && in.Peer.Age <= in.Timing.Silence:
		return a.peer.lag.behind(in.Local.LSN, now).Seconds(), true
	}
	return 0, false
}

// Vitals are the newest ones; nil before the first decision.
func (a *Agent) Vitals() *Vitals { return a.vitals.Load() }

// Started is when this agent was made.
func (a *Agent) Started() time.Time { return a.started }

const (
	// essentialsEvery is how often PostgreSQL is asked for its essentials: as often as Prometheus asks for them as a rule.
	essentialsEvery = 10 * time.Second
	// essentialsLook is how soon after its start it is asked first, and how soon again if it has not answered.
	essentialsLook = time.Second
	// essentialsTimeout ends a question that a frozen PostgreSQL does not answer.
	essentialsTimeout = 5 * time.Second
)

// watchEssentials asks PostgreSQL for its essentials until ctx ends.
func (a *Agent) watchEssentials(ctx context.Context) {
	every(ctx, essentialsLook, func() {
		a.mu.Lock()
		life, due := a.local.life, a.local.up && time.Since(a.local.essentialsAt) >= essentialsEvery
		a.mu.Unlock()
		if !due {
			return
		}
		q, cancel := context.WithTimeout(ctx, essentialsTimeout)
		defer cancel()
		e, err := a.pg.Essentials(q)
		if err != nil {
			a.log.Debug("the essentials of PostgreSQL", "error", err)
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.local.life == life {
			a.local.essentials, a.local.essentialsAt = e, time.Now()
		}
	})
}
