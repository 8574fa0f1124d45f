package main

import (
	"context"
	"strings"
	"testing"

	"kineshim/config"
	pb "kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// standingNode is a node that has an identity and a configuration, and runs nothing.
func standingNode(listen ...string) *node {
	peer := func(name string, role record.Role) raftwitness.Peer {
		return raftwitness.Peer{Member: record.Member{Name: name, ServerID: name + "-1", Role: role}}
	}
	return &node{
		cfg: config.Node{Name: "a", ClientListen: listen, Members: map[string]config.Member{
			"a": {Raft: "192.0.2.10:2380"}, "b": {Raft: "192.0.2.11:2380"}, "w": {Raft: "192.0.2.12:2380"}}},
		id: raftwitness.Identity{ClusterID: "c-1", Name: "a", ServerID: "a-1", Peers: []raftwitness.Peer{
			peer("a", record.Data), peer("b", record.Data), peer("w", record.Witness)}},
	}
}

func TestMembersAreTheThreeVoters(t *testing.T) {
	ms := members{standingNode("127.0.0.1:2379")}.Members()
	if len(ms) != 3 || ms[0].Name != "a" || ms[0].ID != number("a-1") || ms[2].PeerURLs[0] != "https://192.0.2.12:2380" {
		t.Errorf("%+v", ms)
	}
	for _, m := range ms {
		if len(m.ClientURLs) != 0 {
			t.Errorf("a loopback address is told to other machines: %+v", m)
		}
	}
	if ms := (members{standingNode("http://127.0.0.1:2379", "https://192.0.2.10:2379", "https://:2381")}).Members(); len(ms[0].ClientURLs) != 1 || ms[0].ClientURLs[0] != "https://192.0.2.10:2379" {
		t.Errorf("%+v", ms)
	}
	if ms := (members{standingNode("192.0.2.10:2379")}).Members(); len(ms[0].ClientURLs) != 1 || ms[0].ClientURLs[0] != "http://192.0.2.10:2379" || ms[1].ClientURLs != nil {
		t.Errorf("%+v", ms)
	}
}

func TestLeadershipIsNotMovedToAWitness(t *testing.T) {
	m := members{standingNode("127.0.0.1:2379")}
	for _, id := range []uint64{number("w-1"), 7} {
		if err := m.MoveLeader(t.Context(), id); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "bad leader transferee") {
			t.Errorf("%d: %v", id, err)
		}
	}
}

func TestMoveLeaderSaysWhyNot(t *testing.T) {
	err := moveLeader(t.Context(), make(chan struct{}), "b", func(_ context.Context, r *pb.PromoteRequest) (*pb.PromoteResponse, error) {
		return &pb.PromoteResponse{Reason: r.Node + " may lack writes"}, nil
	})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "b may lack writes") {
		t.Error(err)
	}
}

func TestMoveLeaderDoesNotKeepTheEngineThatItEnds(t *testing.T) {
	served := make(chan struct{})
	err := moveLeader(t.Context(), served, "b", func(ctx context.Context, _ *pb.PromoteRequest) (*pb.PromoteResponse, error) {
		close(served) // the gate closes, and the engine is stopped: that waits for this very call
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if err != nil {
		t.Error(err)
	}
}

func TestClientAddressCanBeDialled(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:2379": "127.0.0.1:2379", "0.0.0.0:2379": "127.0.0.1:2379", ":2379": "127.0.0.1:2379", "[::]:2379": "[::1]:2379",
		"localhost:2379": "localhost:2379", "192.0.2.1:1": "192.0.2.1:1",
	} {
		if got := clientAddress(listen); got != want {
			t.Errorf("%s is reached at %s, want %s", listen, got, want)
		}
	}
}
