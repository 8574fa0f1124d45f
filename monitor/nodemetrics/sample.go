package nodemetrics

import (
	"time"

	"kineshim/monitor"
)

// Sample is what a data node's metrics are read from at one moment. Nil parts are not known.
type Sample struct {
	Node, Version string
	// Role is what PostgreSQL does, one of Roles or something else.
	Role string
	// GateOpen: the node answers as the primary. EndpointReady: its etcd endpoint can answer, itself or by the primary.
	GateOpen, EndpointReady bool
	// Decided is how long ago the agent last decided what to do.
	Decided time.Duration

	// Of the cluster record.
	Epoch          uint64
	Primary        string
	Paired, Paused bool
	RecordTimeline uint32
	// Armed: an automatic failover would succeed. Synchronous: every commit waits for the standby.
	Armed, Synchronous bool

	// Of Raft. WitnessHeard < 0: not known here.
	RaftLeader, RaftVoid                   bool
	RaftHasLeader                          bool
	RaftTerm, RaftCommitIndex, RaftApplied uint64
	Lease                                  time.Duration
	// PeerHeard and WitnessHeard are the times since they were heard; negative: not known.
	PeerHeard, WitnessHeard time.Duration

	Replication *Replication
	Failovers   map[string]uint64
	Requests    Requests
	// Connections are those of others, by listener: client, peer, raft.
	Connections map[string]Connections
	Store       *Store
	VIPs        []VIP
	// Certificates are those in use, by name.
	Certificates map[string]monitor.Certificate
	Postgres     Postgres
	Disk         *Disk
}

// Replication is how far the standby is behind, on either node.
type Replication struct {
	// LagBytes and LagSeconds; negative: not known.
	LagBytes, LagSeconds float64
	// Streaming: WAL flows.
	Streaming bool
}

// Connections are those that others have open, and how many were refused because there were too many.
type Connections struct {
	Open    int
	Refused uint64
}

// Requests are those of this node's clients.
type Requests struct {
	Waiting         int
	UnknownOutcomes uint64
}

// Store is the native engine's copy of the keys.
type Store struct {
	Revision, Compacted int64
	Keys, Revisions     int
	CacheBytes          int64
	CacheHits           int64
	CacheMisses         int64
	// Of the engine that serves here; negative: none does.
	Queued, InFlight, Leases           int
	Streams, Watchers, LaggingWatchers int
}

// VIP is one virtual address.
type VIP struct {
	Address                            string
	Held, Trouble                      bool
	Conflicts, Takeovers, HookFailures uint64
}

// Postgres is the node's PostgreSQL.
type Postgres struct {
	Up            bool
	StartFailures int
	DamageFound   uint64
	Timeline      uint32
	// WALFlushed and WALReplayed are positions in the WAL, in bytes; 0: not known.
	WALFlushed, WALReplayed uint64
	Damaged                 bool
	// Essentials are what it says of itself; nil: not known.
	Essentials *Essentials
}

// Essentials are what PostgreSQL said of itself last. SlotWALBytes < 0: there is no slot.
type Essentials struct {
	Sessions, MaxSessions, DatabaseBytes, WALBytes, XIDAge, SlotWALBytes   int64
	OldestTransactionSeconds                                               float64
	Commits, Rollbacks, Deadlocks, BlocksRead, BlocksHit, ChecksumFailures int64
}

// Disk is that of the data directory.
type Disk struct {
	FreeBytes, TotalBytes int64
	Low, Failing          bool
}
