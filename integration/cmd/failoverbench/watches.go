package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

const (
	// watchesPerNode is how many streams watch the round's keys at each node.
	watchesPerNode = 4
	// progressEvery is the pace at which each stream is asked for its progress.
	progressEvery = 100 * time.Millisecond
	// createWithin bounds the wait for a watch to be created.
	createWithin = 10 * time.Second
	// deliverWithin bounds the wait for the last events; what comes later is missing.
	deliverWithin = 10 * time.Second
)

// dialRaw connects to a node without etcd's client, which would resume watches and repeat reads by itself. It connects when first used.
func dialRaw(c *cluster.Cluster, node string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", c.ClientPort(node)), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second,
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 100 * time.Millisecond}}))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", node, err)
	}
	return conn, nil
}

// watchStream is one watch on a stream of its own. Nothing resumes it.
type watchStream struct {
	at     string // the kind of client whose node it is at
	cancel context.CancelFunc
	stream grpc.BidiStreamingClient[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]

	mu       sync.Mutex // guards what follows
	messages []message
	last     int64 // newest revision of an event
	stopped  bool  // by us
	ended    error // why the server has ended it
}

// openWatch creates a watch of all keys below the prefix after a revision, in the way of kube-apiserver.
func openWatch(ctx context.Context, conn *grpc.ClientConn, at, prefix string, after int64) *watchStream {
	w := &watchStream{at: at}
	ctx, w.cancel = context.WithCancel(metadata.AppendToOutgoingContext(ctx, "hasleader", "true"))
	timer := time.AfterFunc(createWithin, w.cancel) // a watch ends with its stream's context; this only bounds the creation
	defer timer.Stop()
	if err := w.create(ctx, conn, prefix, after); err != nil {
		w.ended = fmt.Errorf("not created: %w", err)
		w.cancel()
	}
	return w
}

func (w *watchStream) create(ctx context.Context, conn *grpc.ClientConn, prefix string, after int64) (err error) {
	if w.stream, err = etcdserverpb.NewWatchClient(conn).Watch(ctx); err != nil {
		return err
	}
	err = w.stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: &etcdserverpb.WatchCreateRequest{
		Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), StartRevision: after + 1, PrevKv: true, ProgressNotify: true}}})
	if err != nil && !errors.Is(err, io.EOF) { // after EOF, Recv says why
		return err
	}
	answer, err := w.stream.Recv()
	switch {
	case err != nil:
		return err
	case !answer.Created || answer.Canceled:
		return errors.New(cancelReason(answer))
	}
	return nil
}

func cancelReason(answer *etcdserverpb.WatchResponse) string {
	return fmt.Sprintf("cancelled: %q, compact revision %d", answer.CancelReason, answer.CompactRevision)
}

// run notes what the stream shows until it ends, and asks for progress now and then.
func (w *watchStream) run() {
	if w.ended != nil {
		return
	}
	var asking sync.WaitGroup
	asking.Go(w.askProgress)
	defer asking.Wait()
	defer w.cancel()
	for {
		answer, err := w.stream.Recv()
		if err == nil && answer.Canceled {
			err = errors.New(cancelReason(answer))
		}
		if err != nil {
			w.end(err)
			return
		}
		w.take(answer)
	}
}

func (w *watchStream) askProgress() {
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case <-w.stream.Context().Done():
			return
		case <-t.C:
		}
		err := w.stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}})
		if err != nil {
			return // Recv says why
		}
	}
}

func (w *watchStream) take(answer *etcdserverpb.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := message{}
	for _, ev := range answer.Events {
		m.events = append(m.events, ledger.EventOf(ev))
		w.last = max(w.last, ev.Kv.ModRevision)
	}
	if len(m.events) == 0 && !answer.Created {
		m.progress = answer.Header.GetRevision()
	}
	w.messages = append(w.messages, m)
}

func (w *watchStream) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.ended = err
	}
}

// stop ends the stream from our side. run returns then.
func (w *watchStream) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.cancel()
}

// has says whether the stream has shown the revision, or will never.
func (w *watchStream) has(revision int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last >= revision || w.ended != nil
}

// check compares what was shown with the history. To be called after run has returned.
func (w *watchStream) check(history []ledger.Event, from, to int64) watchResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := checkWatch(w.messages, history, from, to, w.ended != nil)
	if w.ended != nil {
		r.Cancelled, r.Reasons = 1, []string{w.ended.Error()}
	}
	return r
}

// watches are a round's streams, at the node that is left and, if its process lives, at the one that is struck.
type watches struct {
	conns   []*grpc.ClientConn
	streams []*watchStream
	running sync.WaitGroup
}

// open creates the streams and begins to receive. To be ended with close, even after an error.
func (ws *watches) open(ctx context.Context, c *cluster.Cluster, nodes map[string]string, prefix string, after int64) error {
	for at, node := range nodes {
		conn, err := dialRaw(c, node)
		if err != nil {
			return err
		}
		ws.conns = append(ws.conns, conn)
		for range watchesPerNode {
			w := openWatch(ctx, conn, at, prefix, after)
			ws.streams = append(ws.streams, w)
			ws.running.Go(w.run)
		}
	}
	return ctx.Err()
}

// await waits until all streams have shown the revision, or have ended, or time is up.
func (ws *watches) await(ctx context.Context, revision int64) {
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	for _, w := range ws.streams {
		for !w.has(revision) && wait(ctx, 10*time.Millisecond) {
		}
	}
}

// close ends all streams and waits for them. It may be called again.
func (ws *watches) close() {
	for _, w := range ws.streams {
		w.stop()
	}
	ws.running.Wait()
	for _, conn := range ws.conns {
		_ = conn.Close() // it fails only if it is closed already
	}
	ws.conns = nil
}

// check compares all streams with the history, by the client's kind. To be called after close.
func (ws *watches) check(history []ledger.Event, from, to int64) map[string]watchResult {
	out := map[string]watchResult{}
	for _, w := range ws.streams {
		r := out[w.at]
		r.add(w.check(history, from, to))
		out[w.at] = r
	}
	return out
}
