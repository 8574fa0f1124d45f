package native

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"kineshim/statfs"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// spaceEvery is how often the file system is looked at. In that time a fast disk takes a few hundred MiB, a slow one, whose
	// file system may be small, far less than minFree.
	spaceEvery = time.Second
	// minFree is what must be free at least: PostgreSQL needs room for WAL and for temporary files, or it ends.
	minFree = 64 << 20
	// maxFree is what is enough on any disk, and freeShare, one in so many bytes, on those in between.
	maxFree   = 1 << 30
	freeShare = 20
)

// space holds the alarms, and watches the file system that PostgreSQL writes to. The zero value is ready: nothing is known.
type space struct {
	refuses atomic.Bool // some NOSPACE stands

	mu     sync.Mutex // guards the fields below
	alarms map[alarm]bool
	// raised is the alarm that the checker has raised; zero: none. Those of clients only clients lower.
	raised alarm
	// spare is what is free above lowMark, bytes, may be negative; known if it has been looked at.
	spare int64
	known bool
}

// lowMark is how many bytes must be free of total, before NOSPACE is raised.
func lowMark(total int64) int64 { return max(minFree, min(total/freeShare, maxFree)) }

// highMark is how many must be free for it to be lowered: half as much again, so that it does not come and go.
func highMark(total int64) int64 { return lowMark(total) / 2 * 3 }

// spaceChange is what a look at the file system has led to.
type spaceChange int

const (
	spaceSame spaceChange = iota
	spaceRaised
	spaceLowered
)

// look raises or lowers the member's NOSPACE by what is free, in bytes.
func (s *space) look(member uint64, free, total int64) spaceChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare, s.known = free-lowMark(total), true
	switch raised := s.raised != (alarm{}); {
	case !raised && free < lowMark(total):
		s.raised = alarm{member: member, kind: pb.AlarmType_NOSPACE}
		if s.alarms == nil {
			s.alarms = map[alarm]bool{}
		}
		s.alarms[s.raised] = true
		s.decide()
		return spaceRaised
	case raised && free >= highMark(total):
		delete(s.alarms, s.raised)
		s.raised = alarm{}
		s.decide()
		return spaceLowered
	}
	return spaceSame
}

// quota is the size in bytes at which a table of the size would raise NOSPACE if nothing else grew; 0: not known.
func (s *space) quota(size int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		return 0
	}
	return max(size+s.spare, 1)
}

// runSpace looks at the file system of cfg.DataDir until ctx ends.
func (e *Engine) runSpace(ctx context.Context) {
	if e.cfg.DataDir == "" {
		return
	}
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	failing := false
	for {
		free, total, err := statfs.Space(e.cfg.DataDir)
		if err != nil && !failing {
			e.log.Warn("free space is not watched", "dir", e.cfg.DataDir, "error", err)
		}
		if failing = err != nil; !failing {
			switch e.space.look(e.cfg.Cluster.Leader(), free, total) {
			case spaceRaised:
				e.log.Warn("the disk is nearly full: writes are refused (NOSPACE)", "dir", e.cfg.DataDir, "freeBytes", free, "neededBytes", lowMark(total))
			case spaceLowered:
				e.log.Info("there is room on the disk again: writes are accepted", "dir", e.cfg.DataDir, "freeBytes", free)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
