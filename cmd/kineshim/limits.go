package main

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"kineshim/config"
	"kineshim/monitor/nodemetrics"
	"kineshim/quiet"
	"kineshim/turnstile"

	"golang.org/x/sys/unix"
)

const (
	// peerConnections bounds those at the peer port, and those of operators from afar: the other node has about three, and who was not recognised yet counts too.
	peerConnections = 256
	// peerConnectionsOfOne leaves room for the other node, whoever knocks.
	peerConnectionsOfOne = 64
	// controlConnections bounds those at the control socket: a shimctl each.
	controlConnections = 256
	// ownDescriptors are for all that is not counted below: Raft, PostgreSQL, health pages, files.
	ownDescriptors = 2048
	// fewestConnections are left to clients, however few descriptors there are.
	fewestConnections = 100
)

// limits are of what others have open at this node. There must be descriptors left for Raft, whatever clients do: without them the node loses its lease.
type limits struct {
	clients, peers, control, afar *turnstile.Turnstile

	log  *slog.Logger
	said *quiet.Repeats

	mu      sync.Mutex // guards counted
	counted map[string]counter
}

// counter says how many connections are open, and how many were refused.
type counter interface {
	Count() (open int, refused uint64)
}

func newLimits(cfg config.Node, log *slog.Logger) *limits {
	clients := cfg.Limits.MaxConnections
	if room := clientRoom(cfg, descriptors()); clients > room {
		log.Warn("fewer etcd clients than limits.max_connections can connect: the process may have too few open files", "connections", room,
			"limit", clients, "do", "raise LimitNOFILE of the service, or ulimit -n")
		clients = room
	}
	l := &limits{
		// No single machine takes more than three quarters, so that this node's own k3s can connect.
		clients: turnstile.New(clients, clients-clients/4),
		peers:   turnstile.New(peerConnections, peerConnectionsOfOne),
		control: turnstile.New(controlConnections, controlConnections),
		afar:    turnstile.New(peerConnections, peerConnectionsOfOne),
		log:     log, said: quiet.New(quiet.Often),
	}
	if host, _, err := net.SplitHostPort(cfg.Members[cfg.Other()].Peer); err == nil {
		l.peers.Know(host)
	}
	l.counted = map[string]counter{"client": l.clients, "peer": l.peers, "operator": l.afar}
	return l
}

// count has metrics say of another listener too.
func (l *limits) count(listener string, c counter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted[listener] = c
}

// descriptors is how many the process may have open. Go has raised it to what the system allows.
func descriptors() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024 // what a process has without anybody's doing
	}
	return int(min(r.Cur, 1<<30))
}

// clientRoom is how many connections of etcd clients there are descriptors for.
func clientRoom(cfg config.Node, descriptors int) int {
	others := ownDescriptors + 2*peerConnections + controlConnections
	if cfg.APIServer.Listen != "" {
		others += 2 * cfg.APIServer.MaxConnections // each has a side to the server
	}
	if len(cfg.Applications.Databases) > 0 {
		others += 2 * (cfg.Applications.TotalConnections() + config.AppsBeginning)
	}
	return max(descriptors-others, fewestConnections)
}

// sample is what metrics say of them.
func (l *limits) sample() map[string]nodemetrics.Connections {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]nodemetrics.Connections{}
	for name, c := range l.counted {
		open, refused := c.Count()
		all[name] = nodemetrics.Connections{Open: open, Refused: refused}
	}
	return all
}

// unacknowledged ends a connection from the other node whose machine died without a word, when something is on its way there. gRPC sets it by itself, but
// not where connections are counted.
const unacknowledged = 20 * time.Second

// listenForPeer opens the peer port.
func listenForPeer(addr string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds())) // accepted ones have it from here
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	return lc.Listen(context.Background(), "tcp", addr)
}

// wrap bounds a listener by one of the turnstiles. What is refused is said now and then.
func (l *limits) wrap(t *turnstile.Turnstile, ln net.Listener, about string) net.Listener {
	return t.Wrap(ln, func(from net.Addr, why error) {
		source := turnstile.Source(from)
		line := l.said.Happened(time.Now(), about+" "+source, why.Error())
		if line.Source == quiet.Others {
			source = quiet.Others
		}
		if line.Say {
			l.log.Warn("connections are refused", "listener", about, "from", source, "why", why, "unsaid", line.Unsaid)
		}
	})
}
