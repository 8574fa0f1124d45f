package raftwitness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// voter is the transport between this server's Raft and the others'. It sends through hashicorp's NetworkTransport, and adds
// what leases need and hashicorp/raft does not give:
//
//   - it notes when each successful AppendEntries was sent (see lease);
//   - it keeps promises exactly: a vote is refused while the promise to a leader runs, and goes through at once when it has
//     run out. (hashicorp/raft refuses until its own, randomised election timer has fired.) Its own candidacy keeps them too:
//     hashicorp/raft, as a candidate on an offer of leadership, answers the winner of that term with success and yet goes
//     on campaigning;
//   - it gives a promise up, and campaigns at once, on proof that the leader's process has ended (see promised);
//   - it keeps silent for one promise period after start, whatever it hears: an earlier life of this voter may have promised
//     something;
//   - a vote in the name of a leadership transfer overrides promises only in the one term that follows the term whose lease
//     the old leader has forfeited for it. (In hashicorp/raft, a TimeoutNow that arrives late overrides them in any term.)
//
// Requests reach Raft one at a time, each after the last has been answered, heartbeats included: a heartbeat that were
// processed beside an election could confirm the leader of a term that this voter has just left.
type voter struct {
	*raft.NetworkTransport
	lease   *lease
	promise time.Duration
	now     func() time.Duration
	// silentUntil ends the silence after start.
	silentUntil time.Duration
	promised    *promised
	out         chan raft.RPC
	// raft is set before run begins.
	raft raftState
	// transfer is 1 + the term whose leader told this server to campaign; 0: none did.
	transfer atomic.Uint64

	// campaigns: this server wants to lead, and does not wait for its timer if it need not. The three fields are set before run begins.
	campaigns bool
	// memory is told what the others are known to have stored; nil: nobody is. Set before run begins.
	memory *memory
	// isVoid says of a server that it is no voter any more, so that no lease rests on it; nil: of none. Set before run begins.
	isVoid     func(server string) bool
	departures <-chan departure
	// impatience belongs to run, but for others.
	impatience impatience
	log        *slog.Logger
}

// raftState is what the voter needs to know of Raft.
type raftState interface {
	State() raft.RaftState
	CurrentTerm() uint64
	LastIndex() uint64
	CommitIndex() uint64
	lastLogTerm() (uint64, error)
}

func newVoter(t *raft.NetworkTransport, l *lease, promise time.Duration, now func() time.Duration) *voter {
	return &voter{
		NetworkTransport: t, lease: l, promise: promise, now: now, silentUntil: now() + promise, promised: newPromised(promise, now),
		out: make(chan raft.RPC), log: slog.New(slog.DiscardHandler),
	}
}

// Consumer is where Raft takes its requests from.
func (v *voter) Consumer() <-chan raft.RPC { return v.out }

// SetHeartbeatHandler is ignored: heartbeats take their turn.
func (v *voter) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline is not supported: the record changes rarely.
func (v *voter) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (v *voter) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := v.now()
	err := v.NetworkTransport.AppendEntries(id, target, req, resp)
	if err == nil && resp.Success && resp.Term == req.Term && (v.isVoid == nil || !v.isVoid(string(id))) {
		v.lease.contacted(string(id), req.Term, sent)
		v.stored(string(id), req)
	}
	return err
}

// stored notes what a follower has stored when it has answered the request with success. A heartbeat names no entry.
func (v *voter) stored(id string, req *raft.AppendEntriesRequest) {
	if v.memory == nil || v.raft == nil {
		return
	}
	last := req.PrevLogEntry
	if n := len(req.Entries); n > 0 {
		last = req.Entries[n-1].Index
	}
	v.memory.saw(id, req.Term, last, v.raft.CommitIndex())
}

// leads notes what the leader that has sent the request has stored: its term, and all that it calls committed.
func (v *voter) leads(req *raft.AppendEntriesRequest) {
	if v.memory != nil {
		v.memory.saw(string(req.ID), req.Term, req.LeaderCommitIndex, req.LeaderCommitIndex)
	}
}

// The two fields that carry the term of a leadership transfer are not otherwise used: TimeoutNow's RPCHeader.Addr, and
// RequestVote's Candidate, which only Raft protocol versions below 3 read.
var transferMark = []byte("kineshim-transfer:")

func markTransfer(term uint64) []byte { return strconv.AppendUint(bytes.Clone(transferMark), term, 10) }

func readTransfer(b []byte) (term uint64, ok bool) {
	s, ok := bytes.CutPrefix(b, transferMark)
	if !ok {
		return 0, false
	}
	term, err := strconv.ParseUint(string(s), 10, 64)
	return term, err == nil
}

func (v *voter) TimeoutNow(id raft.ServerID, target raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	// Only the leader of a term may offer it. Raft may come here long after it has stepped down, in another's term.
	term := v.raft.CurrentTerm()
	if v.raft.State() != raft.Leader || v.raft.CurrentTerm() != term {
		return errors.New("offer leadership: this server leads no more")
	}
	v.lease.forfeit(term) // before anybody may act on the offer
	r := *req
	r.RPCHeader.Addr = markTransfer(term)
	return v.again(func() error { return v.NetworkTransport.TimeoutNow(id, target, &r, resp) })
}

func (v *voter) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	r := *req
	if t := v.transfer.Load(); r.LeadershipTransfer && r.Term == t {
		//lint:ignore SA1019 a field that Raft itself does not use any more is what is wanted
		r.Candidate = markTransfer(t - 1)
	} else if why := v.promised.forbids(string(v.LocalAddr())); why != "" {
		return fmt.Errorf("campaign in term %d: %s", r.Term, why)
	}
	return v.again(func() error { return v.NetworkTransport.RequestVote(id, target, &r, resp) })
}

func (v *voter) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if why := v.promised.forbids(string(v.LocalAddr())); why != "" {
		return fmt.Errorf("campaign in term %d: %s", req.Term, why)
	}
	return v.again(func() error { return v.NetworkTransport.RequestPreVote(id, target, req, resp) })
}

// again repeats a request that fails at once, over each connection in the pool and then over a new one: if the other voter has
// been restarted since they were used last, all of them are broken, and each would cost an election timeout.
func (v *voter) again(ask func() error) error {
	start := v.now()
	err := ask()
	for i := 0; i < connectionPool && err != nil && v.now() < start+v.promise/4; i++ {
		err = ask()
	}
	return err
}

// run passes requests on to Raft, and acts on departures and on a leader's silence, until ctx ends or done is closed.
func (v *voter) run(ctx context.Context, done <-chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defer v.impatience.wait()
	if !v.campaigns {
		tick.Stop()
	}
	for {
		select {
		case rpc := <-v.NetworkTransport.Consumer():
			v.handle(ctx, done, rpc)
		case d := <-v.departures:
			v.depart(ctx, done, d)
		case <-tick.C:
			v.look(ctx, done)
		case <-ctx.Done():
			return
		case <-done:
			return
		}
	}
}

func (v *voter) handle(ctx context.Context, done <-chan struct{}, rpc raft.RPC) {
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		if req.Term >= v.raft.CurrentTerm() { // before Raft can answer: the leader may count on it from then on
			v.promised.to(string(req.ID), req.Term)
			v.leads(req)
		}
	case *raft.RequestVoteRequest:
		if why := v.refuse(req); why != "" {
			rpc.Respond(&raft.RequestVoteResponse{RPCHeader: v.header(), Term: v.raft.CurrentTerm()}, nil)
			return
		}
		req.LeadershipTransfer = true // the promises are kept here; Raft judges term and log
	case *raft.RequestPreVoteRequest:
		rpc.Respond(v.preVote(req), nil)
		return
	case *raft.TimeoutNowRequest:
		term, ok := readTransfer(req.Addr)
		if !ok || term != v.raft.CurrentTerm() {
			rpc.Respond(nil, fmt.Errorf("offer of leadership in term %d came late, in term %d", term, v.raft.CurrentTerm()))
			return
		}
		v.transfer.Store(term + 1)
	}
	v.pass(ctx, done, rpc)
}

// pass gives the request to Raft and waits until it is answered.
func (v *voter) pass(ctx context.Context, done <-chan struct{}, rpc raft.RPC) {
	answer := make(chan raft.RPCResponse, 1)
	original := rpc.RespChan
	rpc.RespChan = answer
	select {
	case v.out <- rpc:
	case <-ctx.Done():
		original <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
		return
	case <-done:
		original <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
		return
	}
	select {
	case a := <-answer:
		original <- a
	case <-ctx.Done():
		original <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
	case <-done:
		original <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
	}
}

// silent: an earlier life of this voter may have made a promise that this one does not know.
func (v *voter) silent() bool { return v.now() < v.silentUntil }

// refuse says why the vote must not be given, whatever Raft thinks of the candidate's term and log.
func (v *voter) refuse(req *raft.RequestVoteRequest) string {
	if v.silent() {
		return "started less than a promise ago"
	}
	if req.LeadershipTransfer {
		//lint:ignore SA1019 see RequestVote
		if term, ok := readTransfer(req.Candidate); ok && req.Term == term+1 {
			return ""
		}
	}
	return v.bound(string(req.ID))
}

// bound says to whom this server is bound, other than the candidate.
func (v *voter) bound(candidate string) string {
	if v.raft.State() == raft.Leader {
		return "leads itself"
	}
	return v.promised.forbids(candidate)
}

// preVote answers in Raft's stead, which has no way to pass over its election timer. It protects nothing: the vote does.
func (v *voter) preVote(req *raft.RequestPreVoteRequest) *raft.RequestPreVoteResponse {
	resp := &raft.RequestPreVoteResponse{RPCHeader: v.header(), Term: v.raft.CurrentTerm()}
	if req.Term < resp.Term || v.silent() || v.bound(string(req.ID)) != "" {
		return resp
	}
	lastTerm, err := v.raft.lastLogTerm()
	if err != nil || lastTerm > req.LastLogTerm || lastTerm == req.LastLogTerm && v.raft.LastIndex() > req.LastLogIndex {
		return resp
	}
	resp.Term, resp.Granted = req.Term, true
	return resp
}

func (v *voter) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(v.LocalAddr()), Addr: []byte(v.LocalAddr())}
}

// raftWithLog is raft.Raft and the store in which it keeps its log.
type raftWithLog struct {
	*raft.Raft
	store raft.LogStore
}

func (r raftWithLog) lastLogTerm() (uint64, error) {
	i, err := r.store.LastIndex()
	if err != nil {
		return 0, err
	}
	if i == 0 { // all of it is in a snapshot
		term, err := strconv.ParseUint(r.Stats()["last_log_term"], 10, 64)
		return term, err
	}
	var l raft.Log
	if err := r.store.GetLog(i, &l); err != nil {
		if errors.Is(err, raft.ErrLogNotFound) { // truncated in between
			return 0, nil
		}
		return 0, err
	}
	return l.Term, nil
}
