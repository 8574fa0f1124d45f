package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/raftwitness/record"
)

// observeWithin bounds one Observe, whatever the caller's context, so that a frozen server cannot block the next one.
const observeWithin = 3 * time.Second

// Observation is what one PostgreSQL says about itself at one moment.
type Observation struct {
	InRecovery bool
	// Timeline is the one written (primary), or the latest that was replayed or received since the start (standby).
	Timeline uint32
	// FlushLSN and InsertLSN are a primary's ends of WAL, on disk and in memory; 0 on a standby.
	FlushLSN, InsertLSN record.LSN
	// ReceiveLSN is the end of what a walreceiver has flushed since the start, 0 if none has run; it may lie behind ReplayLSN.
	// ReplayLSN is the end of what was replayed. Both are 0 on a primary.
	ReceiveLSN, ReplayLSN record.LSN
	// NewestCommit is when the newest transaction that a standby has replayed was committed, by the clock of the primary of
	// then; zero if it has replayed none since it started, and on a primary.
	NewestCommit time.Time
	WalReceiver  WalReceiver
	// Standbys are the connected replication clients, this package's acknowledger and a running clone included.
	Standbys []Standby
	// SlotLost: the standby's slot on a primary has lost WAL that it should have kept, because of Config.SlotKeep, and nobody streams from it: it has to be
	// made anew before the standby can use it, from PostgreSQL 18 on. No slot is not a lost one.
	SlotLost bool
	// SyncNames and SynchronousCommit are the settings in force in this session.
	SyncNames, SynchronousCommit string
}

// WalReceiver is a standby's connection to its primary. The zero WalReceiver is none.
type WalReceiver struct {
	PID int
	// Status is pg_stat_wal_receiver's: "streaming" when WAL flows; "" while it connects.
	Status   string
	Timeline uint32
}

// Standby is one replication client of a primary, as in pg_stat_replication.
type Standby struct {
	PID int
	// AppName is StandbyName, SoloName, or somebody else's.
	AppName string
	// State is "streaming" once the client has caught up, "catchup" or "backup" before.
	State string
	// SyncState is "quorum" for a client whose acknowledgement counts, "async" for others.
	SyncState string
	// FlushLSN is what the client says is on its disk.
	FlushLSN record.LSN
	// ReplyAge is how long ago, by this node's monotonic clock, an Observe first saw the client's latest reply; an idle
	// client replies once a second. It is as fine as Observe is frequent. (The reply's own time is by the client's clock.)
	ReplyAge time.Duration
}

// monitor keeps one session for Observe, and what must be remembered between two observations.
type monitor struct {
	// busy serialises the use of conn and of replies.
	busy    sync.Mutex
	conn    *pgconn.PgConn
	replies map[int]reply

	// mu guards latest, which is the highest timeline seen since the start.
	mu     sync.Mutex
	latest uint32
}

// reply is a replication client's latest reply and when it was first seen here.
type reply struct {
	clientTime string
	seen       time.Time
}

// began forgets an earlier postmaster.
func (m *monitor) began(timeline uint32) {
	m.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latest = timeline
}

// sawTimeline remembers a timeline and returns the highest seen.
func (m *monitor) sawTimeline(t uint32) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latest = max(m.latest, t)
	return m.latest
}

// close ends the session; the next Observe opens another.
func (m *monitor) close() {
	m.busy.Lock()
	defer m.busy.Unlock()
	m.drop()
	m.replies = nil
}

// drop is close for a caller that holds busy.
func (m *monitor) drop() {
	if m.conn != nil {
		closeSession(m.conn)
		m.conn = nil
	}
}

// observation is the query's answer.
type observation struct {
	InRecovery           bool
	WalFile              string
	ControlTimeline      uint32
	Flush, Insert        record.LSN
	Receive, Replay      record.LSN
	Newest               float64
	SyncNames, SyncLevel string
	SlotLost             bool
	Receiver             *struct {
		PID      int
		Status   string
		Timeline uint32
	}
	Clients []struct {
		PID                       int
		App, State, Sync, Replied string
		Flush                     record.LSN
	}
}

// observeQuery reads shared memory only, but for pg_control, which is one small cached file. The functions of a primary fail
// on a standby, hence the CASEs.
const observeQuery = `SELECT json_build_object(
	'inRecovery', r.is,
	'walFile', CASE WHEN r.is THEN '' ELSE pg_walfile_name(pg_current_wal_lsn()) END,
	'controlTimeline', greatest(c.timeline_id, v.min_recovery_end_timeline),
	'flush', CASE WHEN r.is THEN '0/0' ELSE pg_current_wal_flush_lsn() END,
	'insert', CASE WHEN r.is THEN '0/0' ELSE pg_current_wal_insert_lsn() END,
	'receive', CASE WHEN r.is THEN coalesce(pg_last_wal_receive_lsn(), '0/0') ELSE '0/0' END,
	'replay', CASE WHEN r.is THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE '0/0' END,
	'newest', CASE WHEN r.is THEN coalesce(extract(epoch FROM pg_last_xact_replay_timestamp()), 0) ELSE 0 END,
	'syncNames', current_setting('synchronous_standby_names'),
	'syncLevel', current_setting('synchronous_commit'),
	'slotLost', CASE WHEN r.is THEN false ELSE EXISTS (SELECT FROM pg_get_replication_slots()
		WHERE slot_name = '` + StandbyName + `' AND NOT active AND ` + slotLost + `) END,
	'receiver', (SELECT json_build_object('pid', a.pid, 'status', coalesce(w.status, ''), 'timeline', coalesce(w.received_tli, 0))
		FROM pg_stat_activity a LEFT JOIN pg_stat_wal_receiver w ON w.pid = a.pid WHERE a.backend_type = 'walreceiver'),
	'clients', (SELECT coalesce(json_agg(json_build_object('pid', pid, 'app', application_name, 'state', coalesce(state, ''),
		'sync', coalesce(sync_state, ''), 'flush', coalesce(flush_lsn, '0/0'), 'replied', coalesce(reply_time::text, ''))), '[]')
		FROM pg_stat_replication))
	FROM (SELECT pg_is_in_recovery() AS is) r, pg_control_checkpoint() c, pg_control_recovery() v`

// Observe asks the server about itself, in one cheap query on a session that is kept. ErrNotRunning if there is none.
func (s *Server) Observe(ctx context.Context) (Observation, error) {
	ctx, cancel := context.WithTimeout(ctx, observeWithin)
	defer cancel()
	s.monitor.busy.Lock()
	defer s.monitor.busy.Unlock()
	o, err := s.observe(ctx)
	if err != nil {
		s.monitor.drop()
		return Observation{}, fmt.Errorf("observe: %w", err)
	}
	return o, nil
}

// observe is Observe for a caller that holds monitor.busy.
func (s *Server) observe(ctx context.Context) (Observation, error) {
	m := &s.monitor
	if m.conn == nil || m.conn.IsClosed() {
		conn, err := s.local(ctx, "postgres", "on")
		if err != nil {
			return Observation{}, err
		}
		m.conn = conn
	}
	var a observation
	if _, err := queryJSON(ctx, m.conn, observeQuery, &a); err != nil {
		return Observation{}, err
	}
	o := Observation{
		InRecovery: a.InRecovery,
		FlushLSN:   a.Flush, InsertLSN: a.Insert,
		ReceiveLSN: a.Receive, ReplayLSN: a.Replay,
		SyncNames: a.SyncNames, SynchronousCommit: a.SyncLevel, SlotLost: a.SlotLost,
	}
	if a.Newest > 0 {
		o.NewestCommit = time.UnixMicro(int64(a.Newest * 1e6))
	}
	seen := a.ControlTimeline
	if a.Receiver != nil {
		o.WalReceiver = WalReceiver(*a.Receiver)
		seen = max(seen, a.Receiver.Timeline)
	}
	if !a.InRecovery {
		t, err := timelineOfFile(a.WalFile)
		if err != nil {
			return Observation{}, err
		}
		seen = max(seen, t)
	}
	o.Timeline = m.sawTimeline(seen)
	o.Standbys = m.standbys(a, time.Now())
	return o, nil
}

// standbys works out how old each client's latest reply is, and forgets clients that have gone.
func (m *monitor) standbys(a observation, now time.Time) []Standby {
	replies := make(map[int]reply, len(a.Clients))
	var list []Standby
	for _, c := range a.Clients {
		r, known := m.replies[c.PID]
		if !known || r.clientTime != c.Replied {
			r = reply{c.Replied, now}
		}
		replies[c.PID] = r
		list = append(list, Standby{c.PID, c.App, c.State, c.Sync, c.Flush, now.Sub(r.seen)})
	}
	m.replies = replies
	return list
}
