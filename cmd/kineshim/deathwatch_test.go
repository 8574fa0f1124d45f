package main

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"kineshim/config"
	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

func TestDeathwatchTellsTheWitnessFirstAtItsConfiguredAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ids := raftwitness.Found("a", time.Second, []raftwitness.Peer{
		{Member: record.Member{Name: "a", Role: record.Data}, Raft: "127.0.0.1:1"},
		{Member: record.Member{Name: "w", Role: record.Witness}, Raft: "127.0.0.1:1"},
		{Member: record.Member{Name: "b", Role: record.Data}, Raft: "127.0.0.1:1"},
	})
	authority, err := pki.NewAuthority(ids[0].ClusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e, err := ids[0].Enrolment(authority, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := e.Save(dir); err != nil {
		t.Fatal(err)
	}
	cfg := config.Node{Name: "a", DataDir: dir, Members: map[string]config.Member{"a": {}, "b": {}, "w": {Raft: ln.Addr().String()}}}
	b, err := json.Marshal(newOrders(cfg, ids[0]))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(ids[0].Peers[1].Raft, ln.Addr().String()) {
		t.Error("the node's own identity has been changed")
	}
	m, err := departureMessage(b)
	if err != nil || m.First != "w" || m.Second != "b" {
		t.Fatalf("%+v, %v", m, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- m.Tell(ctx, "w", 7) }()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-result; err == nil || !strings.Contains(err.Error(), "tell w") {
		t.Error(err)
	}
}

// What does not fit into an empty pipe would have no deathwatch.
func TestOrdersWithLongNamesFit(t *testing.T) {
	name := func(c string) string { return strings.Repeat(c, 63) }
	address := strings.Repeat("x", 253) + ":65535"
	var peers []raftwitness.Peer
	cfg := config.Node{Name: name("a"), Members: map[string]config.Member{}, Log: config.Log{Level: "debug", Format: "json"}}
	for _, c := range []string{"a", "b", "w"} {
		peers = append(peers, raftwitness.Peer{Member: record.Member{Name: name(c), Role: record.Witness}, Raft: address})
		cfg.Members[name(c)] = config.Member{Raft: address}
	}
	b, err := json.Marshal(newOrders(cfg, raftwitness.Found(name("a"), time.Second, peers)[0]))
	if err != nil || len(b) > 3900 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
