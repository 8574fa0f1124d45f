package raftwitness

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// lookEvery is how often a follower looks whether its leader has been silent for long enough: a few per cent of the shortest
	// failover.
	lookEvery = 10 * time.Millisecond
	// eagerly is how often in a row it then asks at that pace: the others may have heard the leader a heartbeat later. After that it
	// asks once in patiently: they hear the leader still.
	eagerly   = 20
	patiently = 200 * time.Millisecond
)

// impatience has a data node campaign as soon as it may, which is when the promises have run out: hashicorp/raft's timer fires
// between one and two promises after the last heartbeat, because among many followers several would campaign at the same time. Here the
// other one is the witness, which is in no hurry. It asks first whether it would be elected, as hashicorp/raft would, so that nothing
// changes while the others hear the leader; and what it asks is judged by promises as ever.
type impatience struct {
	// others are the voters to ask; nil: none.
	others func() []raft.ServerID
	// asked is how often in vain since the leader was last heard; next is when to ask again.
	asked int
	next  time.Duration
	// answer has what became of the question that is on its way; nil: none is.
	answer chan bool
	// led is when this server was last seen to lead; 0: never.
	led time.Duration
}

// look is called by run every lookEvery.
func (v *voter) look(ctx context.Context, done <-chan struct{}) {
	i := &v.impatience
	if v.raft.State() == raft.Leader {
		i.led = v.now()
	}
	if i.answer != nil {
		select {
		case granted := <-i.answer:
			i.answer = nil
			if granted && v.leaderless() {
				v.log.Info("campaigns: the leader is silent", "promise", v.promise)
				v.campaign(ctx, done)
				return
			}
		default:
			return
		}
	}
	if !v.leaderless() {
		i.asked, i.next = 0, 0
		return
	}
	if v.now() < i.next {
		return
	}
	i.asked++
	if i.asked > eagerly {
		i.next = v.now() + patiently
	}
	i.answer = make(chan bool, 1)
	go v.wouldWin(i.answer)
}

// wait waits for the question that is on its way, which ends with the transport's timeout at the latest.
func (i *impatience) wait() {
	if i.answer != nil {
		<-i.answer
	}
}

// leaderless: this server follows nobody who has been heard within the promise, and may campaign. One that has just led itself has heard nobody for long, and gives
// its successor that time to be heard: in a hand-over it would else campaign against it in the very first milliseconds, and both would lose.
func (v *voter) leaderless() bool {
	led := v.impatience.led
	return v.campaigns && !v.silent() && v.raft.State() == raft.Follower && v.promised.over() && (led == 0 || v.now() >= led+v.promise)
}

// wouldWin asks the other voters but the silent leader whether one of them would vote for this server: with its own that is a majority.
func (v *voter) wouldWin(answer chan<- bool) {
	lastTerm, err := v.raft.lastLogTerm()
	if err != nil {
		answer <- false
		return
	}
	request := raft.RequestPreVoteRequest{
		RPCHeader: v.header(), Term: v.raft.CurrentTerm() + 1, LastLogIndex: v.raft.LastIndex(), LastLogTerm: lastTerm,
	}
	if v.impatience.others == nil {
		answer <- false
		return
	}
	for _, id := range v.impatience.others() {
		if v.promised.leads(string(id)) {
			continue
		}
		var response raft.RequestPreVoteResponse
		if err := v.NetworkTransport.RequestPreVote(id, raft.ServerAddress(id), &request, &response); err == nil && response.Granted {
			answer <- true
			return
		}
	}
	answer <- false
}

// campaign makes a follower a candidate. TimeoutNow is hashicorp/raft's one way to be told to: it passes over the pre-vote and calls its
// requests a transfer's; without the mark of a transfer, which RequestVote adds for the term in v.transfer only, no voter takes them for
// one.
func (v *voter) campaign(ctx context.Context, done <-chan struct{}) {
	rpc := raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: v.header()}, RespChan: make(chan raft.RPCResponse, 1)}
	v.pass(ctx, done, rpc)
}
