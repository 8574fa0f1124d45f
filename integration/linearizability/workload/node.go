package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/watched"
)

// reconnectAtMost bounds the wait between attempts to connect: what is looked for happens soon after a node is back.
const reconnectAtMost = 100 * time.Millisecond

// Dial makes a connection to a node's address. It connects when first used, and pings nobody: a frozen node keeps its connections.
func Dial(address string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: reconnectAtMost},
			MinConnectTimeout: time.Second,
		}))...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}

// markWithin bounds one attempt to write a mark.
const markWithin = 5 * time.Second

// Mark writes a key of its own through a node, again until it is acknowledged or ctx ends, and returns its revision. All attempts are recorded.
func Mark(ctx context.Context, rec *Recorder, keys *Keys, node string, kv pb.KVClient) (int64, error) {
	for {
		number := rec.sequence()
		name := fmt.Sprintf("mark-%d", number)
		o := history.Op{Client: number, Node: node, Kind: history.Put, Keys: []string{keys.mark(name)}, Value: name, Outcome: history.Unknown, Call: rec.Now()}
		attempt, cancel := context.WithTimeout(ctx, markWithin)
		err := call(attempt, kv, &o, true)
		cancel()
		o.Return = rec.Now()
		if err != nil {
			o.Error, o.Outcome = err.Error(), outcomeOf(err)
		}
		if o.Outcome == history.Unknown {
			o.Return = history.Forever
		}
		rec.add(o)
		if err == nil {
			return o.Revision, nil
		}
		sleep(ctx, afterError)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("mark through %s: %w", node, errors.Join(err, ctx.Err()))
		}
	}
}

// Everything are the key and the end of the range of all keys of the run.
func (k *Keys) Everything() (key, end []byte) { return k.span(k.Prefix) }

func (k *Keys) span(prefix string) (key, end []byte) {
	key = []byte(prefix)
	end = append([]byte{}, key...)
	end[len(end)-1]++
	return key, end
}

// Replay opens a new watch of everything from a revision, with previous values, and reads until it has been shown, or told of, everything through
// another revision.
func Replay(ctx context.Context, name string, client pb.WatchClient, keys *Keys, from, through int64) (*watched.Watch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &watched.Watch{Name: name, From: from, Wants: func(string) bool { return true }, PrevKV: true}
	g, err := client.Watch(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	key, end := keys.Everything()
	create := &pb.WatchCreateRequest{Key: key, RangeEnd: end, StartRevision: from, PrevKv: true}
	if err := g.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for last := int64(0); last < through; {
		r, err := g.Recv()
		if err != nil {
			return nil, fmt.Errorf("%s, after revision %d: %w", name, last, err)
		}
		if r.Canceled {
			return nil, fmt.Errorf("%s: canceled: %s, compacted revision %d", name, r.CancelReason, r.CompactRevision)
		}
		item := watched.Item{Revision: r.GetHeader().GetRevision()}
		for _, e := range r.Events {
			change := changeOf(e)
			item.Events = append(item.Events, &change)
			last = change.Revision
		}
		if len(item.Events) > 0 {
			w.Items = append(w.Items, item)
		}
	}
	return w, nil
}

// Events are what a watch was shown.
func Events(w *watched.Watch) []history.Event {
	var out []history.Event
	for _, item := range w.Items {
		for _, e := range item.Events {
			out = append(out, e.Event)
		}
	}
	return out
}

// ReadAll reads the state of all keys as of a revision.
func ReadAll(ctx context.Context, kv pb.KVClient, keys *Keys, revision int64) (map[string]history.KV, error) {
	key, end := keys.Everything()
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: end, Revision: revision})
	if err != nil {
		return nil, fmt.Errorf("read everything at revision %d: %w", revision, err)
	}
	out := map[string]history.KV{}
	for _, one := range resp.Kvs {
		out[string(one.Key)] = StateOf(one)
	}
	return out, nil
}
