package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const good = `
node: a
data_dir: /var/lib/kineshim
members:
  a: {raft: 192.0.2.10:2384, peer: 192.0.2.10:2383, postgres: 192.0.2.10:5433}
  b: {raft: 192.0.2.11:2384, peer: 192.0.2.11:2383, postgres: 192.0.2.11:5433}
  w: {raft: 192.0.2.12:2384}
`

func load1(t *testing.T, text string) (Node, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadNode(path)
}

func TestDefaults(t *testing.T) {
	n, err := load1(t, good)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(n.ClientListen, n.Engine, n.MaxWait, n.ControlSocket, n.Postgres.SocketDir, n.Postgres.SlotKeep, n.Timing, n.Other(), n.WitnessName(), n.Self().Peer)
	want := "[http://127.0.0.1:2379] native 10s /var/lib/kineshim/control.sock /var/lib/kineshim/sock 2GB {500ms 1s 10s} b w 192.0.2.10:2383\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestUnknownKeysAreRefused(t *testing.T) {
	for _, extra := range []string{"clinet_listen: 127.0.0.1:1", "timing: {heartbeat: 1s}", "postgres: {bindir: /x}", "members2: {}"} {
		_, err := load1(t, good+extra+"\n")
		if err == nil || !strings.Contains(err.Error(), "not found in type") {
			t.Errorf("%s: got %v", extra, err)
		}
	}
}

func TestAllMistakesAreNamedAtOnce(t *testing.T) {
	_, err := load1(t, `
node: A
data_dir: var
client_listen: 0.0.0.0:2379
http_listen: "8008"
engine: etcd
max_wait: 1ms
native: {cache_bytes: 1, max_request_bytes: -1, max_txn_ops: -1, auto_compaction_retention: 1s}
control_socket: /`+strings.Repeat("x", 110)+`
members:
  b: {raft: "192.0.2.11", peer: 192.0.2.11:0, postgres: 192.0.2.11:5433}
  w: {raft: 192.0.2.12:2384}
  v: {raft: 192.0.2.13:2384}
timing: {heartbeat_timeout: 1ms, replication_stall: 10h, witness_lost_after: 1ms}
log: {level: loud, format: xml}
`)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, key := range []string{
		"node:", "data_dir:", "client_listen:", "http_listen:", "engine:", "max_wait:", "native.cache_bytes:", "native.max_request_bytes:", "native.max_txn_ops:", "native.auto_compaction_retention:", "control_socket:", "members.b.raft:", "members.b.peer:", "members: 1 with",
		"members: this node", "timing.heartbeat_timeout:", "timing.replication_stall:", "timing.witness_lost_after:", "log.level:", "log.format:",
	} {
		if !strings.Contains(err.Error(), "  "+key) {
			t.Errorf("%q is not named in:\n%v", key, err)
		}
	}
}

func TestWitness(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.yaml")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("node: w\ndata_dir: /var/lib/raftwitness\nlisten: 0.0.0.0:2384\n")
	if w, err := LoadWitness(path); err != nil || w.Listen != "0.0.0.0:2384" {
		t.Errorf("got %+v, %v", w, err)
	}
	write("node: w\ndata_dir: x\nlisten: nowhere\npeers: []\n")
	if _, err := LoadWitness(path); err == nil || !strings.Contains(err.Error(), "peers") {
		t.Errorf("unknown key: got %v", err)
	}
	write("node: w\ndata_dir: x\nlisten: nowhere\nhttp_listen: 127.0.0.1\n")
	if _, err := LoadWitness(path); err == nil || !strings.Contains(err.Error(), "data_dir") || !strings.Contains(err.Error(), "  listen") || !strings.Contains(err.Error(), "http_listen") {
		t.Errorf("mistakes: got %v", err)
	}
}

func TestDurationsAreRead(t *testing.T) {
	n, err := load1(t, good+"max_wait: 20s\ntiming: {heartbeat_timeout: 300ms}\n")
	if err != nil || n.MaxWait != 20*time.Second || n.Timing.HeartbeatTimeout != 300*time.Millisecond || n.Timing.ReplicationStall != DefaultReplicationStall {
		t.Errorf("got %v, %+v, %v", n.MaxWait, n.Timing, err)
	}
}
