package sim

import (
	"errors"
	"slices"
	"time"

	"kineshim/raftwitness/record"
)

// walEntry is one record of WAL. Entries form a tree: what was written is never changed, a timeline is a branch.
type walEntry struct {
	parent, depth int32
	timeline      uint32
	// id is a client's write, 0 PostgreSQL's or the agent's own. revision counts the clients' writes up to here.
	id, revision int32
}

// fork says where a timeline of the history ended.
type fork struct {
	timeline uint32
	end      int32
}

// dataDir survives the processes.
type dataDir struct {
	exists, whole  bool
	system         uint64
	tip            int32 // of the WAL on the disk
	timeline       uint32
	history        []fork // never changed in place
	markerEpoch    uint64
	markerTimeline uint32
}

// entryBytes is how long a WAL entry is, for those who count bytes.
const entryBytes = 1 << 16

const systemID = 7

var (
	errDown      = errors.New("PostgreSQL does not run")
	errRole      = errors.New("PostgreSQL has not the role")
	errNotFrozen = errors.New("the standby still receives")
	errPeer      = errors.New("the peer cannot be copied")
	errNotNow    = errors.New("not at the moment")
	errTimeout   = errors.New("time is up")
)

// postgres is a node's PostgreSQL: its processes and its data directory.
type postgres struct {
	w    *World
	id   int
	m    *machine
	p    *proc
	dir  dataDir
	kine *kine

	primary, follows bool
	conn             *stream // as a standby: the walreceiver's
	// As a primary: commits up to released are acknowledged.
	released int32
	senders  []*sender
	acker    bool
	slot     bool
	pending  []*write // not flushed yet
	flushing bool
	waiters  []*write
	// sessions is one life of shared memory: it ends with a crash of any backend.
	sessions *sentinel
}

// sentinel implements what the gate asks of a session.
type sentinel struct{ dead bool }

func (s *sentinel) Alive() bool { return !s.dead }

// write is a commit.
type write struct {
	id    int32
	entry int32 // 0 until it is flushed
	done  func(entry int32)
}

// stream is a connection between a walsender and a walreceiver.
type stream struct {
	from, to    *postgres
	sent        int32 // tip of what was sent last
	outstanding bool
	heard       time.Duration // when the standby heard something last, mono
	gone        bool          // the walreceiver has ended
}

// sender is a walsender.
type sender struct {
	pid     int
	conn    *stream
	flush   int32 // depth
	replied time.Duration
	caught  bool
}

func newPostgres(w *World, id int) *postgres {
	pg := &postgres{w: w, id: id, m: w.mach[id]}
	pg.p = &proc{w: w, m: pg.m, what: "postgres"}
	pg.m.procs = append(pg.m.procs, pg.p)
	return pg
}

func (pg *postgres) depth() int32 { return pg.w.wal[pg.dir.tip].depth }

func (d *dataDir) lsn(w *World) record.LSN { return lsnOf(w.wal[d.tip].depth) }

func lsnOf(depth int32) record.LSN { return record.LSN(depth) * entryBytes }

// append makes an entry durable.
func (pg *postgres) append(id int32) int32 {
	w := pg.w
	parent := w.wal[pg.dir.tip]
	e := walEntry{parent: pg.dir.tip, depth: parent.depth + 1, timeline: pg.dir.timeline, id: id, revision: parent.revision}
	if id != 0 {
		e.revision++
	}
	w.wal = append(w.wal, e)
	pg.dir.tip = int32(len(w.wal) - 1)
	return pg.dir.tip
}

// holds: the WAL that ends with tip has the entry.
func (w *World) holds(tip, entry int32) bool {
	d := w.wal[entry].depth
	for w.wal[tip].depth > d {
		tip = w.wal[tip].parent
	}
	return tip == entry
}

func (pg *postgres) initdb() {
	w := pg.w
	pg.dir = dataDir{exists: true, whole: true, system: systemID, timeline: 1}
	if w.check.founded {
		pg.dir.system += uint64(len(w.wal)) // another database
	}
	pg.append(0)
}

// start runs PostgreSQL as a standby of nobody.
func (pg *postgres) start() {
	pg.p.begin()
	pg.primary, pg.follows, pg.conn, pg.acker, pg.slot = false, false, nil, false, false
	pg.senders, pg.pending, pg.waiters, pg.flushing, pg.released = nil, nil, nil, false, 0
	pg.sessions = &sentinel{}
}

// die ends all its processes at once. Whoever waits for a commit never hears of it.
func (pg *postgres) die() {
	if !pg.p.up {
		return
	}
	pg.w.say(pg.id, "PostgreSQL ends", "")
	pg.disconnectAll()
	pg.p.end()
	pg.primary = false
	pg.kine.exited()
}

// disconnectAll ends the sessions and the replication connections.
func (pg *postgres) disconnectAll() {
	if pg.sessions != nil {
		pg.sessions.dead = true
	}
	for _, s := range pg.senders {
		s.conn.closedBySender()
	}
	pg.closeReceiver()
	pg.senders, pg.waiters, pg.pending, pg.flushing = nil, nil, nil, false
	pg.acker = false
}

// crashBackend is a crash-reinit: the postmaster goes on, everything else begins anew. What waited is now visible.
func (pg *postgres) crashBackend() {
	if !pg.p.up || !pg.primary {
		return
	}
	pg.w.say(pg.id, "a backend crashes: PostgreSQL begins anew", "")
	pg.disconnectAll()
	pg.p.life++ // events of the old processes die
	pg.p.backlog = nil
	pg.sessions = &sentinel{}
	pg.kine.sessionEnded()
}

// commit writes an entry and calls done when its commit is acknowledged.
func (pg *postgres) commit(id int32, done func(entry int32)) {
	pg.pending = append(pg.pending, &write{id: id, done: done})
	pg.flush()
}

func (pg *postgres) flush() {
	if pg.flushing || len(pg.pending) == 0 {
		return
	}
	pg.flushing = true
	n := len(pg.pending)
	pg.p.disk(func() {
		pg.flushing = false
		if !pg.primary {
			return
		}
		for _, x := range pg.pending[:n] {
			x.entry = pg.append(x.id)
			if x.done != nil {
				pg.waiters = append(pg.waiters, x)
			}
		}
		pg.pending = pg.pending[n:]
		pg.pump()
		pg.release()
		pg.flush()
	})
}

// release acknowledges what somebody who counts has flushed: the standby, or kineshim itself.
func (pg *postgres) release() {
	to := pg.released
	if pg.acker {
		to = max(to, pg.depth())
	}
	for _, s := range pg.senders {
		to = max(to, s.flush)
	}
	pg.released = to
	for len(pg.waiters) > 0 && pg.w.wal[pg.waiters[0].entry].depth <= to {
		x := pg.waiters[0]
		pg.waiters = pg.waiters[1:]
		x.done(x.entry)
	}
}

// promote makes the frozen standby a primary on the next timeline.
func (pg *postgres) promote(epoch uint64) (uint32, record.LSN, error) {
	switch {
	case pg.primary:
		return 0, 0, errRole
	case pg.follows || pg.conn != nil:
		if !pg.w.mutant("freeze-skipped") {
			return 0, 0, errNotFrozen
		}
		pg.closeReceiver()
		pg.follows = false
	}
	d := &pg.dir
	at := pg.depth()
	d.history = append(slices.Clip(d.history), fork{d.timeline, at})
	d.timeline++
	pg.primary, pg.released = true, 0
	pg.append(0)
	d.markerEpoch, d.markerTimeline = epoch, d.timeline
	return d.timeline, lsnOf(at), nil
}
