package raftwitness

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// fickle is a store whose disk is full now and then.
type fickle struct {
	raft.StableStore
	full  atomic.Bool
	tried atomic.Int64
}

func (f *fickle) SetUint64(key []byte, value uint64) error {
	f.tried.Add(1)
	if f.full.Load() {
		return syscall.ENOSPC
	}
	return f.StableStore.SetUint64(key, value)
}

func TestVoterWaitsForItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &fickle{StableStore: raft.NewInmemStore()}
		p := &patient{StableStore: disk, log: slog.New(slog.DiscardHandler)}
		disk.full.Store(true)
		stored := make(chan error, 1)
		go func() { stored <- p.SetUint64([]byte("term"), 7) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-stored:
			t.Fatalf("a full disk, and yet: %v", err)
		default:
		}
		if !p.stuck.Load() || disk.tried.Load() < 100 {
			t.Errorf("stuck %v after %d attempts", p.stuck.Load(), disk.tried.Load())
		}
		disk.full.Store(false)
		time.Sleep(2 * retryStore)
		if err := <-stored; err != nil {
			t.Error(err)
		}
		if v, err := p.GetUint64([]byte("term")); v != 7 || err != nil || p.stuck.Load() {
			t.Errorf("stored %d, %v; stuck %v", v, err, p.stuck.Load())
		}
	})
}

// The witness's disk is full: it votes for nobody, and does not die of it. When there is room it votes again.
func TestWitnessWithFullDiskDoesNotVote(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testPromise)
	disk := &fickle{}
	c.nodes["w"].cfg.disk = func(s raft.StableStore) raft.StableStore {
		disk.StableStore = s
		return disk
	}
	for _, name := range voters {
		c.start(name)
	}
	c.lead("a")
	w := c.node("w")
	disk.full.Store(true)
	c.lead("b") // in a new term, which w cannot store
	eventually(t, "w waits for its disk", w.stable.stuck.Load)
	c.stop("a")
	time.Sleep(testPromise)
	steadily(t, "nobody leads without the vote of w", 3*testPromise, func() bool { return c.node("b").LeaseLeft() == 0 })
	disk.full.Store(false)
	if leader := c.leader(); leader != "b" {
		t.Errorf("%s leads", leader)
	}
	c.start("a")
	c.lead("a")
	disk.full.Store(true)
	c.lead("b")
	eventually(t, "w waits for its disk", w.stable.stuck.Load)
	n := c.nodes["w"]
	n.cancel()
	select {
	case <-n.stopped:
		if !errors.Is(n.runError, ErrDisk) {
			t.Errorf("stopped: %v", n.runError)
		}
	case <-time.After(patience):
		t.Error("a voter that waits for its disk cannot be stopped")
	}
	disk.full.Store(false) // Raft ends, and lets go of its files
	n.Node = nil
}
