package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"kineshim/failover/disk"
)

const diskCheck = "disk"

// Disk is the file system of a directory.
type Disk interface {
	// Sync writes syncBytes to a file in dir and waits until they are on the disk, syncTimes times or until ctx ends, and removes the file. It returns
	// how long each took, and what it could not do.
	Sync(ctx context.Context, dir string) ([]time.Duration, error)
	Space(dir string) (Space, error)
}

// Space is how much room a file system has.
type Space struct {
	disk.State
	// Inodes of it, and how many of them are free; 0 of 0 where they are not counted.
	Inodes, FreeInodes uint64
	// InMemory: it is lost when the machine is switched off.
	InMemory bool
}

const (
	syncBytes = 8 << 10 // PostgreSQL's block
	syncTimes = 100
	// syncFor is how long the writes may take in all: a slow disk has shown by then that it is.
	syncFor = 3 * time.Second
	// slowSync is what a commit can bear: it waits for this on both nodes, and k3s writes a hundred times a second at its busiest.
	slowSync = 50 * time.Millisecond
	// fewInodes and noInodes: PostgreSQL has a file for each table and each 16 MiB of WAL, some thousands in all.
	fewInodes, noInodes = 10_000, 500
)

// checkDisk judges the data directory's file system, and that of PostgreSQL's data if it is another one.
func (n *node) checkDisk(ctx context.Context, d Disk) []Finding {
	f := notes{check: diskCheck}
	dir := n.cfg.DataDir
	space, err := d.Space(dir)
	if errors.Is(err, fs.ErrNotExist) {
		f.warn("make it, and run this again", "not measured: there is no %s yet", dir)
		return f.all
	}
	f.judgeSpace(dir, space, err)
	if data, derr := d.Space(filepath.Join(dir, "pgdata")); derr == nil && data.Total != space.Total {
		f.judgeSpace(filepath.Join(dir, "pgdata"), data, nil)
	}
	bounded, cancel := context.WithTimeout(ctx, syncFor)
	defer cancel()
	took, err := d.Sync(bounded, dir)
	f.judgeSync(dir, took, err)
	return f.all
}

func (f *notes) judgeSpace(dir string, s Space, err error) {
	if err != nil {
		f.fail("dmesg; mount", "%v", err)
		return
	}
	room := fmt.Sprintf("%s: %s free of %s", dir, size(s.Free), size(s.Total))
	find := "make room: du -xsh " + dir + "/* ; what else is on this disk?"
	switch {
	case s.Full:
		f.fail(find, "%s: full, PostgreSQL may end at any moment for want of room", room)
	case s.Refused():
		f.fail(find, "%s: below %s writes are refused (NOSPACE)", room, size(s.RefusedMark()))
	case s.Low:
		f.warn(find, "%s: nearly full, below %s a primary hands its role over if the other node has room; below %s writes are refused",
			room, size(s.LowMark()), size(s.RefusedMark()))
	default:
		f.ok("%s; nearly full below %s", room, size(s.LowMark()))
	}
	switch {
	case s.Inodes == 0:
	case s.FreeInodes < noInodes:
		f.fail("remove files, or make the file system anew with more inodes", "%s: %d inodes free of %d: no new files, whatever room there is", dir, s.FreeInodes, s.Inodes)
	case s.FreeInodes < fewInodes:
		f.warn("remove files: df -i "+dir, "%s: %d inodes free of %d", dir, s.FreeInodes, s.Inodes)
	}
	if s.InMemory {
		f.warn("set data_dir to a directory on a disk", "%s is in memory: a machine that is switched off has lost its data", dir)
	}
}

// judgeSync judges how long writes took to reach the disk.
func (f *notes) judgeSync(dir string, took []time.Duration, err error) {
	if errors.Is(err, fs.ErrPermission) {
		f.warn("run it as root: sudo shimctl doctor", "not measured how fast %s is: %v", dir, err)
		return
	}
	if err != nil {
		f.fail("dmesg; mount | grep ' / '; smartctl -a on the disk: kineshim gives the primary's role up with such a disk", "%s takes no writes: %v", dir, err)
		return
	}
	if len(took) == 0 {
		f.fail("dmesg; what else writes to this disk? iostat -x 1", "%s: not one write of 8 KiB has reached the disk within %v", dir, syncFor)
		return
	}
	slices.Sort(took)
	p50, p99 := percentile(took, 50), percentile(took, 99)
	said := fmt.Sprintf("%s: fdatasync of 8 KiB, %d times: half of them within %s, 99 %% within %s", dir, len(took), short(p50), short(p99))
	if p99 > slowSync {
		f.warn("what else writes to this disk (iostat -x 1)? SD cards and disks without a cache that survives power loss are too slow",
			"%s: more than %v, and each write of a client waits for this on both nodes", said, slowSync)
		return
	}
	f.ok("%s", said)
}

// percentile of what is sorted: the smallest that so many per cent do not exceed.
func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)*percent+99)/100-1]
}

// size is so many bytes for people.
func size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
