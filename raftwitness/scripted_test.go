package raftwitness

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// scripted is a voter whose every move a test makes, on the same wire as a real one.
type scripted struct {
	t    *testing.T
	id   Identity
	wire *raft.NetworkTransport
	// listener is its port.
	listener *Listener
	// asked gets each request that the voter is sent; the test, or answer, must answer it.
	asked <-chan raft.RPC
}

func newScripted(t *testing.T, id Identity, l *Listener) *scripted {
	t.Helper()
	g := newTestGroup(t, id, l)
	wire := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: g, MaxPool: 3, Timeout: time.Second, Logger: newLogger(testLog(id.Name))})
	t.Cleanup(func() { wire.Close() })
	return &scripted{t, id, wire, l, wire.Consumer()}
}

func newTestGroup(t *testing.T, id Identity, l *Listener) *group {
	t.Helper()
	dial := func(address string, timeout time.Duration) (net.Conn, error) {
		return net.DialTimeout("tcp", address, timeout)
	}
	g := newGroup(id, l, dial, func(server string) (string, bool) {
		for _, p := range id.Peers {
			if p.ServerID == server {
				return p.Raft, true
			}
		}
		return "", false
	})
	if err := l.register(g); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func (s *scripted) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.id.ServerID), Addr: []byte(s.id.ServerID)}
}

// heartbeat tells to that s leads the term.
func (s *scripted) heartbeat(to string, term uint64) (raft.AppendEntriesResponse, error) {
	var resp raft.AppendEntriesResponse
	err := s.wire.AppendEntries(raft.ServerID(to), raft.ServerAddress(to), &raft.AppendEntriesRequest{RPCHeader: s.header(), Term: term}, &resp)
	return resp, err
}

// offer offers to the leadership of the term.
func (s *scripted) offer(to string, term uint64) error {
	h := s.header()
	h.Addr = markTransfer(term)
	return s.wire.TimeoutNow(raft.ServerID(to), raft.ServerAddress(to), &raft.TimeoutNowRequest{RPCHeader: h}, &raft.TimeoutNowResponse{})
}

// answerVotes grants or refuses each vote and pre-vote until ctx ends, and reports the requests.
func (s *scripted) answerVotes(ctx context.Context, grant func(raft.RPC) bool, seen func(at time.Duration, rpc raft.RPC)) {
	for {
		select {
		case rpc := <-s.asked:
			seen(bootTime(), rpc)
			g := grant(rpc)
			switch req := rpc.Command.(type) {
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{RPCHeader: s.header(), Term: req.Term, Granted: g}, nil)
			case *raft.RequestPreVoteRequest:
				rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: s.header(), Term: req.Term, Granted: g}, nil)
			case *raft.AppendEntriesRequest:
				rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: s.header(), Term: req.Term, Success: g}, nil)
			default:
				rpc.Respond(nil, nil)
			}
		case <-ctx.Done():
			return
		}
	}
}

// oneAmongScripted is a real voter whose two peers are scripted.
func oneAmongScripted(t *testing.T, real string, promise time.Duration) (*testCluster, map[string]*scripted) {
	t.Helper()
	c, peers := newTestCluster(t, promise), map[string]*scripted{}
	for _, name := range voters {
		if name != real {
			peers[name] = newScripted(t, c.ids[name], c.nodes[name].cfg.Listener)
		}
	}
	c.start(real)
	return c, peers
}
