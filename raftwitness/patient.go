package raftwitness

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// ErrDisk: the voter's disk takes no writes, so that it could not be stopped in good order.
var ErrDisk = errors.New("the disk of the Raft log takes no writes")

const (
	// retryStore is how often a write is repeated that the disk does not take.
	retryStore = 200 * time.Millisecond
	// stillEvery is how often that is said.
	stillEvery = 30 * time.Second
)

// patient is the store in which Raft keeps its term and its vote. A voter whose disk takes no writes, being full or read-only, must not vote, and
// need not die: hashicorp/raft would panic. A write that fails is repeated until it succeeds, and until then Raft stands still: it answers
// nobody, votes for nobody, and does not campaign, so that the others see a voter that is lost. It goes on by itself when there is room.
//
// Repeating is safe: what is stored is not acted upon before it is on the disk, and requests reach Raft one at a time, so that none that came
// later is answered before.
type patient struct {
	raft.StableStore
	log *slog.Logger
	// stuck: a write is being repeated.
	stuck atomic.Bool
}

// Set stores bytes.
func (p *patient) Set(key, value []byte) error {
	return p.insist(func() error { return p.StableStore.Set(key, value) })
}

// SetUint64 stores a number.
func (p *patient) SetUint64(key []byte, value uint64) error {
	return p.insist(func() error { return p.StableStore.SetUint64(key, value) })
}

func (p *patient) insist(write func() error) error {
	err := write()
	if err == nil {
		return nil
	}
	p.stuck.Store(true)
	began := time.Now()
	p.log.Error("the disk takes no writes: this voter does not vote until it does", "error", err)
	said := began
	for {
		time.Sleep(retryStore)
		if err = write(); err == nil {
			break
		}
		if time.Since(said) >= stillEvery {
			said = time.Now()
			p.log.Error("the disk still takes no writes", "for", time.Since(began).Round(time.Second), "error", err)
		}
	}
	p.stuck.Store(false)
	p.log.Info("the disk takes writes again: this voter votes", "after", time.Since(began).Round(time.Millisecond))
	return nil
}
