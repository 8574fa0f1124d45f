package linearizability

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/watched"
	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
)

const (
	// reachWithin bounds how long after the last request watches may take to be shown everything.
	reachWithin = 20 * time.Second
	// readWithin bounds the reading of the whole history, and the like.
	readWithin = time.Minute
	// replays is how many watches are begun from old revisions at the end, on each node.
	replays = 4
	// patience is longer than a node lets requests wait for a primary.
	patience = 15 * time.Second
	think    = 8 * time.Millisecond
	// snapshots is how many old revisions are read at the end, on each node.
	snapshots = 4
)

// SessionConfig says what a session is.
type SessionConfig struct {
	// Prefix begins all keys, and ends in a slash. Nobody else writes below it, and it is empty at the start.
	Prefix string
	Seed   uint64
	// Crowd are the clients. The nodes that they name are given to Dial.
	Crowd []workload.Habits
	// CheckFor bounds the search for an order of the requests.
	CheckFor time.Duration
	// Out is where pictures of violations are left, and evidence.
	Out string
	Log func(format string, args ...any)
	// Dial makes a connection to a data node, or to whatever else a client names. The session closes it.
	Dial func(node string) (*grpc.ClientConn, error)
}

// Session is clients and watches at work on a running cluster, and the check of what they were told. Whoever makes the cluster fail meanwhile tells Lives
// of the processes that are ended. Its methods are for one goroutine, but for those of Lives, and for Renew.
type Session struct {
	SessionConfig
	rec     *workload.Recorder
	keys    *workload.Keys
	lives   *workload.Lives
	book    *watched.Book
	conns   []*grpc.ClientConn
	nodes   map[string]*grpc.ClientConn // for what is no client's
	clients []*workload.Client
	streams []*workload.Stream
	from    int64 // the revision of the first write
	found   []history.Violation

	working, watching         sync.WaitGroup
	stopClients, stopWatching context.CancelFunc
}

// StartSession begins the requests and the watches. End it with Finish, and then Close; Close alone abandons it. They end with ctx too.
func StartSession(ctx context.Context, cfg SessionConfig) (*Session, error) {
	t := &Session{SessionConfig: cfg, rec: workload.NewRecorder(), keys: &workload.Keys{Prefix: cfg.Prefix}, lives: workload.NewLives(),
		book: watched.NewBook(), nodes: map[string]*grpc.ClientConn{}}
	marking, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	var err error
	if t.from, err = t.mark(marking, cluster.A); err == nil {
		err = errors.Join(t.makeClients(), t.makeStreams())
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	var clientCtx, streamCtx context.Context
	clientCtx, t.stopClients = context.WithCancel(ctx)
	streamCtx, t.stopWatching = context.WithCancel(ctx)
	for _, s := range t.streams {
		t.watching.Go(func() { s.Run(streamCtx) })
		if s.AsksProgress {
			t.working.Go(func() { workload.AddLate(clientCtx, s, t.keys, t.from, t.random(200)) })
		}
	}
	for _, c := range t.clients {
		t.working.Go(func() { c.Run(clientCtx) })
	}
	return t, nil
}

// Renew has clients turn to keys that nobody used before. The search for an order takes time and memory with the square of the requests on a key: call it
// every few seconds. It may be called by any goroutine.
func (t *Session) Renew() { t.keys.Renew() }

// Lives are those of the nodes' processes.
func (t *Session) Lives() *workload.Lives { return t.lives }

// From is the revision of the session's first write.
func (t *Session) From() int64 { return t.from }

// Halt ends the requests, and waits for those under way.
func (t *Session) Halt() {
	t.stopClients()
	t.working.Wait()
}

// Finish ends the requests and then the watches, and checks what they were told. recovered: the cluster serves, so that all watches must be brought to the end.
// An error means that nothing could be checked.
func (t *Session) Finish(ctx context.Context, recovered bool) ([]history.Violation, error) {
	t.Halt()
	if recovered {
		if err := t.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	timeline, through, err := t.timeline(ctx)
	t.stopWatching()
	t.watching.Wait()
	if err != nil {
		t.withoutTimeline(recovered, err)
		return t.found, nil
	}
	t.checkWatches(timeline, through)
	err = t.checkRequests(timeline.Events)
	t.Log("checks: %s", time.Since(began).Round(time.Millisecond))
	return t.found, err
}

// Close ends what still runs, and closes the connections.
func (t *Session) Close() {
	if t.stopClients != nil {
		t.Halt()
		t.stopWatching()
		t.watching.Wait()
	}
	for _, conn := range t.conns {
		_ = conn.Close() // nothing is asked any more
	}
	t.conns = nil
}

// catchUp writes the last word and waits until all watches have heard of it.
func (t *Session) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	last, err := t.mark(ctx, cluster.B)
	if err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, reachWithin)
	defer cancel()
	for _, s := range t.streams {
		if err := s.Reached(ctx, last); err != nil {
			t.violate(watched.Gap, "within %s of the last write: %v", reachWithin, err)
		}
	}
	return nil
}

func (t *Session) violate(rule history.Rule, format string, args ...any) {
	t.found = append(t.found, history.Violation{Rule: rule, Message: fmt.Sprintf(format, args...)})
}
