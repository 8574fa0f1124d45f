package main

import (
	"errors"
	"time"

	"kineshim/raftwitness/record"
)

// errAgain ends a run that is to begin anew at once, in this process, with what is on disk now.
var errAgain = errors.New("the node starts anew")

// answerFirst lets the answer to the operator leave before the node that gives it stops.
const answerFirst = 200 * time.Millisecond

// loner has the node go on as the only member of its cluster.
type loner struct{ n *node }

func (l loner) LastRecord() (record.Record, error) { return l.n.raft.LastRecord() }

func (l loner) Address(member string) string { return l.n.cfg.Members[member].Raft }

func (l loner) GoAlone(r record.Record) error {
	if err := l.n.raft.BeginAlone(l.n.cfg.DataDir, r, l.Address); err != nil {
		return err
	}
	time.AfterFunc(answerFirst, func() { l.n.fail(errAgain) })
	return nil
}
