package linearizability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
)

// Crowd are clients as they are in most trials: some that stay with one node and wait long, as API servers do; some impatient ones, which have requests on their way to a
// frozen node at any moment; and some that ask now this node, now the other.
func Crowd() []workload.Habits {
	var out []workload.Habits
	for _, node := range cluster.DataNodes {
		out = append(out,
			workload.Habits{Nodes: []string{node}, Timeout: patience, Think: think, Reads: 40, Pairs: 8},
			workload.Habits{Nodes: []string{node}, Timeout: patience, Think: think, Reads: 40, Pairs: 8},
			workload.Habits{Nodes: []string{node}, Timeout: 250 * time.Millisecond, Think: think, Reads: 90, Pairs: 8},
			workload.Habits{Nodes: []string{node}, Timeout: 400 * time.Millisecond, Think: think, Reads: 60, Pairs: 8},
		)
	}
	return append(out,
		workload.Habits{Nodes: cluster.DataNodes, Timeout: 2 * time.Second, Reads: 50, Pairs: 8},
		workload.Habits{Nodes: cluster.DataNodes, Timeout: 2 * time.Second, Think: think, Reads: 50, Pairs: 8},
	)
}

func (t *trial) address(node string) string { return fmt.Sprintf("127.0.0.1:%d", t.c.ClientPort(node)) }

func (t *Session) dial(node string) (*grpc.ClientConn, error) {
	conn, err := t.Dial(node)
	if err == nil {
		t.conns = append(t.conns, conn)
	}
	return conn, err
}

// conn is a connection to the node that clients and streams do not use.
func (t *Session) conn(node string) (*grpc.ClientConn, error) {
	if conn := t.nodes[node]; conn != nil {
		return conn, nil
	}
	conn, err := t.dial(node)
	t.nodes[node] = conn
	return conn, err
}

func (t *Session) mark(ctx context.Context, node string) (int64, error) {
	conn, err := t.conn(node)
	if err != nil {
		return 0, err
	}
	return workload.Mark(ctx, t.rec, t.keys, node, pb.NewKVClient(conn))
}

// random are the choices of one of the trial's parts.
func (t *Session) random(of uint64) *rand.Rand { return rand.New(rand.NewPCG(t.Seed, of)) }

func (t *Session) makeClients() error {
	for i, habits := range t.Crowd {
		kvs := map[string]pb.KVClient{}
		for _, node := range habits.Nodes {
			conn, err := t.dial(node)
			if err != nil {
				return err
			}
			kvs[node] = pb.NewKVClient(conn)
		}
		t.clients = append(t.clients, workload.NewClient(fmt.Sprintf("c%d", i), habits, t.rec, t.keys, kvs, t.random(uint64(i))))
	}
	return nil
}

// makeStreams makes two streams on each node: one with watches of all kinds that asks for progress, and one that only watches.
func (t *Session) makeStreams() error {
	for _, node := range cluster.DataNodes {
		for _, asks := range []bool{true, false} {
			conn, err := t.dial(node)
			if err != nil {
				return err
			}
			name := "stream on " + node
			if !asks {
				name = "quiet " + name
			}
			s := workload.NewStream(name, node, pb.NewWatchClient(conn), t.lives, t.rec, t.book, t.random(uint64(100+len(t.streams))))
			if s.AsksProgress = asks; asks {
				workload.AddAll(s, t.keys, t.from)
			} else {
				workload.AddOne(s, t.keys, t.from)
			}
			t.streams = append(t.streams, s)
		}
	}
	return nil
}
