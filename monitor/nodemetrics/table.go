package nodemetrics

import (
	"time"

	"kineshim/monitor"
)

// Roles are the values of kineshim_role's label.
var Roles = []string{"primary", "standby", "starting", "promoting", "stopping", "stopped", "cloning", "rewinding", "absent", "broken"}

// emit gives one value, with a value for each label.
type emit func(v float64, labels ...string)

// sampled is a metric that is read from a Sample.
type sampled struct {
	monitor.Metric
	read func(*Sample, emit)
}

func gauge(name, help string, read func(*Sample) float64) sampled {
	return sampled{monitor.Metric{Name: name, Type: monitor.Gauge, Help: help}, func(s *Sample, e emit) { e(read(s)) }}
}

func truth(name, help string, read func(*Sample) bool) sampled {
	return gauge(name, help, func(s *Sample) float64 { return monitor.Truth(read(s)) })
}

// partly is a metric that is not always there; read emits nothing then.
func partly(name string, t monitor.Type, help, source string, read func(*Sample, emit), labels ...string) sampled {
	return sampled{monitor.Metric{Name: name, Type: t, Help: help, Labels: labels, Source: source}, read}
}

// known emits a duration in seconds unless it is negative.
func known(read func(*Sample) time.Duration) func(*Sample, emit) {
	return func(s *Sample, e emit) {
		if d := read(s); d >= 0 {
			e(d.Seconds())
		}
	}
}

var table = []sampled{
	// The node.
	partly("kineshim_build_info", monitor.Gauge, "1, with the node's name and version", "", func(s *Sample, e emit) { e(1, s.Node, s.Version) }, "node", "version"),
	truth("kineshim_gate_open", "1 if this node answers as the primary; at most one node does", func(s *Sample) bool { return s.GateOpen }),
	truth("kineshim_endpoint_ready", "1 if the etcd endpoint here can answer, itself or by asking the primary", func(s *Sample) bool { return s.EndpointReady }),
	partly("kineshim_role", monitor.Gauge, "1 for what PostgreSQL does here, 0 for the other roles", "", func(s *Sample, e emit) {
		for _, r := range Roles {
			e(monitor.Truth(r == s.Role), r)
		}
	}, "role"),
	gauge("kineshim_decided_seconds", "time since the node last decided what to do, which it does twenty times a second", func(s *Sample) float64 { return s.Decided.Seconds() }),

	// The cluster record.
	gauge("kineshim_epoch", "epoch of the cluster record as known here: goes up with each change of primary; 0: not initialised", func(s *Sample) float64 { return float64(s.Epoch) }),
	partly("kineshim_primary_info", monitor.Gauge, "1, with the primary that the cluster record names", "once the cluster is initialised", func(s *Sample, e emit) {
		if s.Primary != "" {
			e(1, s.Primary)
		}
	}, "primary"),
	truth("kineshim_armed", "1 if the other node would take over if the primary were lost now", func(s *Sample) bool { return s.Armed }),
	truth("kineshim_paired", "1 if the cluster record says that both data nodes hold every acknowledged write", func(s *Sample) bool { return s.Paired }),
	truth("kineshim_paused", "1 if an operator has paused automatic failover", func(s *Sample) bool { return s.Paused }),
	truth("kineshim_synchronous", "1 if every commit waits for the standby, as far as is known here", func(s *Sample) bool { return s.Synchronous }),
	partly("kineshim_failovers_total", monitor.Counter, "epochs that this node has begun as the primary, by cause: `process_ended` and `silence` of the primary, `postgres`: it does not run or takes no writes, `data_unfit`, `switchover`, `primary_restart`: of the same node, `forced`, `other`",
		"", func(s *Sample, e emit) {
			for cause, n := range s.Failovers {
				e(float64(n), cause)
			}
		}, "cause"),

	// Raft and the lease.
	truth("kineshim_raft_leader", "1 if this node is the Raft leader", func(s *Sample) bool { return s.RaftLeader }),
	truth("kineshim_raft_has_leader", "1 if a Raft leader is known here", func(s *Sample) bool { return s.RaftHasLeader }),
	truth("kineshim_raft_void", "1 if this node votes no more: the others know that it was wiped, restored, copied, replaced or given up", func(s *Sample) bool { return s.RaftVoid }),
	gauge("kineshim_raft_term", "Raft's current term", func(s *Sample) float64 { return float64(s.RaftTerm) }),
	gauge("kineshim_raft_commit_index", "last committed entry of the Raft log", func(s *Sample) float64 { return float64(s.RaftCommitIndex) }),
	gauge("kineshim_raft_applied_index", "last applied entry of the Raft log", func(s *Sample) float64 { return float64(s.RaftApplied) }),
	gauge("kineshim_lease_seconds", "for how long this node may still answer as the primary without hearing from a majority; 0 on a node that does not lead. A solo primary needs none",
		func(s *Sample) float64 { return s.Lease.Seconds() }),
	partly("kineshim_peer_heard_seconds", monitor.Gauge, "time since the other data node was heard", "once it was", known(func(s *Sample) time.Duration { return s.PeerHeard })),
	partly("kineshim_witness_heard_seconds", monitor.Gauge, "time since the witness was heard", "on the Raft leader", known(func(s *Sample) time.Duration { return s.WitnessHeard })),

	// Replication.
	partly("kineshim_replication_streaming", monitor.Gauge, "1 if WAL flows from the primary to the standby", "on a primary and on a standby", func(s *Sample, e emit) {
		if s.Replication != nil {
			e(monitor.Truth(s.Replication.Streaming))
		}
	}),
	partly("kineshim_replication_lag_bytes", monitor.Gauge, "WAL that is on the primary's disk and not on the standby's", "while the two nodes hear each other", func(s *Sample, e emit) {
		if s.Replication != nil && s.Replication.LagBytes >= 0 {
			e(s.Replication.LagBytes)
		}
	}),
	partly("kineshim_replication_lag_seconds", monitor.Gauge, "for how long the standby has lacked WAL that the primary had; right to about 0.2 s", "while the standby streams", func(s *Sample, e emit) {
		if s.Replication != nil && s.Replication.LagSeconds >= 0 {
			e(s.Replication.LagSeconds)
		}
	}),

	// Requests.
	gauge("kineshim_waiting_requests", "clients' requests at this node that wait for a primary", func(s *Sample) float64 { return float64(s.Requests.Waiting) }),
	partly("kineshim_unknown_outcomes_total", monitor.Counter, "clients' writes at this node that ended without an answer that says whether they were done", "", func(s *Sample, e emit) { e(float64(s.Requests.UnknownOutcomes)) }),
	partly("kineshim_connections", monitor.Gauge, "connections that others have open here: `client` etcd clients, `peer` the other data node, `replication` its PostgreSQL, `applications` those of PostgreSQL, `operator` shimctl from afar, `raft` those that have not said yet who they are",
		"", func(s *Sample, e emit) {
			for listener, c := range s.Connections {
				e(float64(c.Open), listener)
			}
		}, "listener"),
	partly("kineshim_connections_refused_total", monitor.Counter, "connections that were closed at once because there were too many, in all or from one address",
		"", func(s *Sample, e emit) {
			for listener, c := range s.Connections {
				e(float64(c.Refused), listener)
			}
		}, "listener"),

	// The store.
	ofStore("kineshim_revision", monitor.Gauge, "newest durable revision of the copy of the keys here", func(s *Store) float64 { return float64(s.Revision) }),
	ofStore("kineshim_compacted_revision", monitor.Gauge, "revision below which reads are refused; -1: none", func(s *Store) float64 { return float64(s.Compacted) }),
	ofStore("kineshim_keys", monitor.Gauge, "keys in the index, with deleted ones that are not compacted yet", func(s *Store) float64 { return float64(s.Keys) }),
	ofStore("kineshim_key_revisions", monitor.Gauge, "versions of keys in the index", func(s *Store) float64 { return float64(s.Revisions) }),
	ofStore("kineshim_cache_bytes", monitor.Gauge, "memory of the cache of values", func(s *Store) float64 { return float64(s.CacheBytes) }),
	ofStore("kineshim_cache_hits_total", monitor.Counter, "values that were found in the cache, since the copy of the keys was made", func(s *Store) float64 { return float64(s.CacheHits) }),
	ofStore("kineshim_cache_misses_total", monitor.Counter, "values that were read from PostgreSQL, since the copy of the keys was made", func(s *Store) float64 { return float64(s.CacheMisses) }),
	ofStore("kineshim_watch_streams", monitor.Gauge, "clients' watch streams at this node", func(s *Store) float64 { return float64(s.Streams) }),
	ofStore("kineshim_watchers", monitor.Gauge, "watches in those streams", func(s *Store) float64 { return float64(s.Watchers) }),
	ofStore("kineshim_watchers_lagging", monitor.Gauge, "watches that are reading on from the past, because they began there or their client is slow", func(s *Store) float64 { return float64(s.LaggingWatchers) }),
	ofEngine("kineshim_queued_operations", "operations that wait for their turn in the sequencer", func(s *Store) float64 { return float64(s.Queued) }),
	ofEngine("kineshim_batches_in_flight", "batches that are sent to PostgreSQL and not durable yet", func(s *Store) float64 { return float64(s.InFlight) }),
	ofEngine("kineshim_leases", "etcd leases", func(s *Store) float64 { return float64(s.Leases) }),

	// Virtual addresses and certificates.
	ofVIPs("kineshim_vip_held", monitor.Gauge, "1 if this node has the virtual address, or, with `hook_only`, its hook has moved it here", func(v VIP) float64 { return monitor.Truth(v.Held) }),
	ofVIPs("kineshim_vip_trouble", monitor.Gauge, "1 if something is wrong with it; shimctl status says what", func(v VIP) float64 { return monitor.Truth(v.Trouble) }),
	ofVIPs("kineshim_vip_conflicts_total", monitor.Counter, "how often another host was found to claim it", func(v VIP) float64 { return float64(v.Conflicts) }),
	ofVIPs("kineshim_vip_takeovers_total", monitor.Counter, "how often this node has taken it", func(v VIP) float64 { return float64(v.Takeovers) }),
	ofVIPs("kineshim_vip_hook_failures_total", monitor.Counter, "runs of its hook that failed", func(v VIP) float64 { return float64(v.HookFailures) }),
	ofCertificates("kineshim_certificate_expiry_timestamp_seconds", "when a certificate that is in use ends, as Unix time", func(c monitor.Certificate) float64 { return float64(c.Ends.Unix()) }),
	ofCertificates("kineshim_certificate_lifetime_seconds", "for how long it is good in all", func(c monitor.Certificate) float64 { return c.Lifetime().Seconds() }),

	// PostgreSQL.
	truth("kineshim_postgres_up", "1 if PostgreSQL runs here", func(s *Sample) bool { return s.Postgres.Up }),
	gauge("kineshim_postgres_start_failures", "starts that have failed in a row", func(s *Sample) float64 { return float64(s.Postgres.StartFailures) }),
	gauge("kineshim_postgres_timeline", "PostgreSQL's timeline: goes up with each promotion; 0: not known", func(s *Sample) float64 { return float64(s.Postgres.Timeline) }),
	partly("kineshim_postgres_wal_flushed_bytes", monitor.Gauge, "position in the WAL that is on this node's disk", "once it is known", func(s *Sample, e emit) {
		if s.Postgres.WALFlushed > 0 {
			e(float64(s.Postgres.WALFlushed))
		}
	}),
	partly("kineshim_postgres_wal_replayed_bytes", monitor.Gauge, "position in the WAL that is replayed", "on a standby", func(s *Sample, e emit) {
		if s.Postgres.WALReplayed > 0 {
			e(float64(s.Postgres.WALReplayed))
		}
	}),
	partly("kineshim_postgres_damage_found_total", monitor.Counter, "how often pages with wrong checksums have been found in a copy of the data; each time it is made anew from the other node", "", func(s *Sample, e emit) { e(float64(s.Postgres.DamageFound)) }),
	truth("kineshim_postgres_data_damaged", "1 if pages with wrong checksums have been found since the copy of the data was made", func(s *Sample) bool { return s.Postgres.Damaged }),
	ofPostgres("kineshim_postgres_sessions", monitor.Gauge, "clients' sessions, kineshim's own included", func(p *Essentials) float64 { return float64(p.Sessions) }),
	ofPostgres("kineshim_postgres_max_sessions", monitor.Gauge, "PostgreSQL's max_connections", func(p *Essentials) float64 { return float64(p.MaxSessions) }),
	ofPostgres("kineshim_postgres_database_bytes", monitor.Gauge, "files of all databases", func(p *Essentials) float64 { return float64(p.DatabaseBytes) }),
	ofPostgres("kineshim_postgres_wal_bytes", monitor.Gauge, "files in pg_wal", func(p *Essentials) float64 { return float64(p.WALBytes) }),
	partly("kineshim_postgres_slot_wal_bytes", monitor.Gauge, "WAL that is kept for the standby", "on a node that has the standby's slot", func(s *Sample, e emit) {
		if p := s.Postgres.Essentials; p != nil && p.SlotWALBytes >= 0 {
			e(float64(p.SlotWALBytes))
		}
	}),
	ofPostgres("kineshim_postgres_xid_age", monitor.Gauge, "age in transactions of the oldest row that is not frozen; PostgreSQL takes no more writes at about 2.1e9", func(p *Essentials) float64 { return float64(p.XIDAge) }),
	ofPostgres("kineshim_postgres_oldest_transaction_seconds", monitor.Gauge, "for how long the oldest transaction has been open", func(p *Essentials) float64 { return p.OldestTransactionSeconds }),
	ofPostgres("kineshim_postgres_commits_total", monitor.Counter, "transactions committed", func(p *Essentials) float64 { return float64(p.Commits) }),
	ofPostgres("kineshim_postgres_rollbacks_total", monitor.Counter, "transactions rolled back", func(p *Essentials) float64 { return float64(p.Rollbacks) }),
	ofPostgres("kineshim_postgres_deadlocks_total", monitor.Counter, "deadlocks", func(p *Essentials) float64 { return float64(p.Deadlocks) }),
	ofPostgres("kineshim_postgres_blocks_read_total", monitor.Counter, "blocks of 8 KiB that were not in PostgreSQL's buffers", func(p *Essentials) float64 { return float64(p.BlocksRead) }),
	ofPostgres("kineshim_postgres_blocks_hit_total", monitor.Counter, "blocks of 8 KiB that were", func(p *Essentials) float64 { return float64(p.BlocksHit) }),
	ofPostgres("kineshim_postgres_checksum_failures_total", monitor.Counter, "pages with wrong checksums that were read", func(p *Essentials) float64 { return float64(p.ChecksumFailures) }),

	// The disk.
	ofDisk("kineshim_disk_free_bytes", "free room for PostgreSQL where the data are", func(d *Disk) float64 { return float64(d.FreeBytes) }),
	ofDisk("kineshim_disk_total_bytes", "size of that file system", func(d *Disk) float64 { return float64(d.TotalBytes) }),
	ofDisk("kineshim_disk_low", "1 if it is nearly full: a primary then hands its role over, if the other node has room", func(d *Disk) float64 { return monitor.Truth(d.Low) }),
	ofDisk("kineshim_disk_failing", "1 if it takes no writes", func(d *Disk) float64 { return monitor.Truth(d.Failing) }),
}

func ofStore(name string, t monitor.Type, help string, read func(*Store) float64) sampled {
	return partly(name, t, help, "native engine, once the keys are loaded", func(s *Sample, e emit) {
		if s.Store != nil {
			e(read(s.Store))
		}
	})
}

func ofEngine(name, help string, read func(*Store) float64) sampled {
	return partly(name, monitor.Gauge, help, "native engine, on the primary", func(s *Sample, e emit) {
		if s.Store != nil && s.Store.Queued >= 0 {
			e(read(s.Store))
		}
	})
}

func ofVIPs(name string, t monitor.Type, help string, read func(VIP) float64) sampled {
	return partly(name, t, help, "for each of `vips`", func(s *Sample, e emit) {
		for _, v := range s.VIPs {
			e(read(v), v.Address)
		}
	}, "address")
}

func ofCertificates(name, help string, read func(monitor.Certificate) float64) sampled {
	return partly(name, monitor.Gauge, help, "", func(s *Sample, e emit) {
		for name, c := range s.Certificates {
			e(read(c), name)
		}
	}, "certificate")
}

func ofPostgres(name string, t monitor.Type, help string, read func(*Essentials) float64) sampled {
	return partly(name, t, help, "asked every 10 s", func(s *Sample, e emit) {
		if s.Postgres.Essentials != nil {
			e(read(s.Postgres.Essentials))
		}
	})
}

func ofDisk(name, help string, read func(*Disk) float64) sampled {
	return partly(name, monitor.Gauge, help, "once it has been looked at", func(s *Sample, e emit) {
		if s.Disk != nil {
			e(read(s.Disk))
		}
	})
}
