package storm

import (
	"os"
	"path/filepath"
	"time"

	"kineshim/integration/cluster"
)

// What is left free on a disk of 3 GB: nothing to speak of, and less than the mark at which the role goes elsewhere, which is at 220 MB, but more than that
// below which writes are refused, at 150 MB.
const (
	leaveNone   = 4 << 20
	leaveLittle = 190 << 20
)

func diskFull(x *striker, b Blow) (func() error, error)       { return fill(x, b, leaveNone) }
func diskNearlyFull(x *striker, b Blow) (func() error, error) { return fill(x, b, leaveLittle) }

func fill(x *striker, b Blow, leave int64) (func() error, error) {
	node, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	if x.disks[node] > 0 {
		return nil, skip("the disk of %s is broken already", node)
	}
	x.disks[node]++
	x.lives.End(node) // it may end by itself
	if err := x.rig.Site().Disk(node).Fill(leave); err != nil {
		return nil, err
	}
	return func() error {
		x.disks[node]--
		if x.down[node] == 0 {
			x.lives.Begin(node)
		}
		return x.rig.Site().Disk(node).Empty()
	}, nil
}

func diskReadOnly(x *striker, b Blow) (func() error, error) {
	return breakDisk(x, b, func(node string) error { return x.rig.Site().Disk(node).ReadOnly() })
}

func diskBroken(x *striker, b Blow) (func() error, error) {
	return breakDisk(x, b, func(node string) error { return x.rig.Site().Disk(node).Break() })
}

// breakDisk breaks a disk. Its undoing stops the node, repairs the file system and starts the node, as an operator does.
func breakDisk(x *striker, b Blow, damage func(string) error) (func() error, error) {
	node, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	if x.disks[node] > 0 {
		return nil, skip("the disk of %s is broken already", node)
	}
	x.disks[node]++
	x.lives.End(node) // it may end by itself
	if err := damage(node); err != nil {
		return nil, err
	}
	return func() error {
		x.disks[node]--
		x.keepDown(node)
		if err := x.rig.KillNode(node); err != nil {
			return err
		}
		if err := x.rig.Site().Disk(node).Repair(); err != nil {
			return err
		}
		return x.release(node)
	}, nil
}

// servesBeforeWipe is how long the other node may take to serve before a node's data are spared.
const servesBeforeWipe = 15 * time.Second

// wipe kills a data node and removes its PostgreSQL data, but never those that may be the only copy of acknowledged writes: only when the node is dead and the other
// one serves, which has them all then, and only once in a burst. Nothing of the other's that is flushed is ever removed.
func wipe(x *striker, b Blow) (func() error, error) {
	node, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	switch {
	case x.wiped:
		return nil, skip("data have been removed in this burst before")
	case !x.rig.Running(node):
		return nil, skip("%s does not run", node)
	case x.disks[node] > 0:
		return nil, skip("the disk of %s is broken already", node)
	}
	if s, err := x.rig.Status(x.ctx, node); err != nil || s.GetPrimary() == node && s.GetMode() != "paired" {
		return nil, skip("%s may be the only one that has all writes", node)
	}
	x.keepDown(node)
	if err := x.rig.KillNode(node); err != nil {
		return nil, err
	}
	if !x.serves(cluster.Other(node), servesBeforeWipe) {
		x.tell("     the data of %s may be the only copy, and are spared", node)
		return x.undoing(node), nil
	}
	x.wiped = true
	x.tell("     the data of %s are removed: %s serves", node, cluster.Other(node))
	if err := os.RemoveAll(filepath.Join(x.rig.DataDir(node), "pgdata")); err != nil {
		return nil, err
	}
	return x.undoing(node), nil
}
