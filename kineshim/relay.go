package kineshim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// relayPrefix begins the names of the relays' directories.
	relayPrefix = "kineshim-relay-"
	// maxSocketPath is what Linux allows for the path of a unix socket (sun_path, less its end).
	maxSocketPath = 107
	// maxRelayed bounds the connections that are relayed at once: kine's pool is 20, and the connections of cancel requests,
	// which are dropped, come on top.
	maxRelayed = 100
	// upstreamBound ends an attempt to connect to PostgreSQL's socket, which hangs only when its backlog is full.
	upstreamBound = 5 * time.Second
)

// relay stands between an engine and PostgreSQL's unix socket, on a socket of its own in a private directory. It drops cancel
// requests: a commit that waits for its standby and is cancelled becomes visible without being replicated. And it counts
// what goes wrong on the database's side before the engine can see it, because kine does not always look.
type relay struct {
	log      *slog.Logger
	failures *failures
	// lostSync is called when PostgreSQL says that a commit did not wait for its standby, before the engine hears of the
	// commit.
	lostSync func(string)
	// starting is true while the engine starts: it then asks for a table that need not be there.
	starting atomic.Bool

	dir      string
	upstream string
	listener *net.UnixListener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	slots    chan struct{}

	mu     sync.Mutex // guards conns and closed
	conns  map[net.Conn]struct{}
	closed bool
}

// newRelay listens; it is ready when it returns. It must be closed.
func newRelay(socketDir string, port int, f *failures, lostSync func(string), log *slog.Logger) (*relay, error) {
	removeStaleRelays(os.TempDir())
	// MkdirTemp makes it 0700.
	dir, err := os.MkdirTemp(os.TempDir(), relayPrefix)
	if err != nil {
		return nil, fmt.Errorf("make the relay's directory: %w", err)
	}
	name := fmt.Sprintf(".s.PGSQL.%d", port)
	path := filepath.Join(dir, name)
	if len(path) > maxSocketPath {
		os.Remove(dir)
		return nil, fmt.Errorf("the relay's socket %s is longer than %d bytes: set TMPDIR to a shorter directory", path, maxSocketPath)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		os.Remove(dir)
		return nil, fmt.Errorf("listen for the engine: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{
		log: log, failures: f, lostSync: lostSync,
		dir: dir, upstream: filepath.Join(socketDir, name), listener: listener,
		ctx: ctx, cancel: cancel, slots: make(chan struct{}, maxRelayed), conns: map[net.Conn]struct{}{},
	}
	r.starting.Store(true)
	r.running.Go(r.accept)
	return r, nil
}

// close ends every connection and waits for what served them.
func (r *relay) close() error {
	r.cancel()
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	err := r.listener.Close() // removes the socket
	r.running.Wait()
	return errors.Join(err, os.RemoveAll(r.dir))
}

func (r *relay) accept() {
	for {
		conn, err := r.listener.AcceptUnix()
		if err != nil {
			if r.ctx.Err() != nil {
				return
			}
			r.failures.add("accept a connection of the engine: " + err.Error())
			select { // out of descriptors, as a rule: try again, but not in a busy loop
			case <-time.After(50 * time.Millisecond):
			case <-r.ctx.Done():
				return
			}
			continue
		}
		select {
		case r.slots <- struct{}{}:
		default:
			r.failures.add("too many connections of the engine")
			conn.Close()
			continue
		}
		r.running.Go(func() {
			defer func() { <-r.slots }()
			r.serve(conn)
		})
	}
}

// track makes close end the connection; false means that the relay is closed already, and the connection with it.
func (r *relay) track(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *relay) untrack(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// serve relays one connection of the engine to its end.
func (r *relay) serve(client net.Conn) {
	if !r.track(client) {
		return
	}
	defer r.untrack(client)
	l := newLink(r, client)
	startup, ok := l.startup()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, upstreamBound)
	server, err := new(net.Dialer).DialContext(ctx, "unix", r.upstream)
	cancel()
	if err != nil {
		r.failures.add("connect to PostgreSQL: " + err.Error())
		return
	}
	if !r.track(server) {
		return
	}
	defer r.untrack(server)
	if _, err := server.Write(startup); err != nil {
		r.failures.add("connect to PostgreSQL: " + err.Error())
		return
	}
	var towards sync.WaitGroup
	towards.Go(func() {
		l.toServer(server)
		server.Close() // ends toClient
	})
	l.toClient(server)
	client.Close() // ends toServer
	towards.Wait()
}

// removeStaleRelays removes what relays of killed processes left behind: directories of ours whose socket nobody listens on.
func removeStaleRelays(in string) {
	dirs, err := filepath.Glob(filepath.Join(in, relayPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		sockets, err := filepath.Glob(filepath.Join(dir, ".s.PGSQL.*"))
		if err != nil || len(sockets) != 1 || !ownedByUs(dir) {
			continue
		}
		conn, err := net.DialTimeout("unix", sockets[0], time.Second)
		if err == nil {
			conn.Close()
			continue
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(sockets[0])
			os.Remove(dir)
		}
	}
}
