// Package pgrelay passes connections on to this node's PostgreSQL, which listens on no network itself: whoever could connect to it could take all the connections
// that it has by saying nothing. Those of other applications are passed on while this node is the primary, those of the other node's PostgreSQL always.
//
// What PostgreSQL answers an application reaches it only if this node is still the primary after it was answered. Connections end when the role
// does. Cancel requests are dropped: a commit that waits for the standby and is cancelled becomes visible without having been replicated,
// and nobody can tell from outside whether a statement is past that point.
package pgrelay

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"kineshim/quiet"
	"kineshim/turnstile"
)

// Gate says whether this node is the primary. It is called from many goroutines.
type Gate interface {
	// Enter begins a session, or says why there is none: the error is shown to the client.
	Enter() (Session, error)
}

// Session is a time during which this node is the primary.
type Session interface {
	// Check says whether an answer may be given; nil: yes.
	Check() error
	// Wait returns nil when Check does, and an error when it never will, or ctx ends.
	Wait(ctx context.Context) error
	// Over: no more is to be begun in this session.
	Over() bool
}

// Always is a gate for those who must reach PostgreSQL whatever this node is.
type Always struct{}

// Enter always begins a session.
func (a Always) Enter() (Session, error) { return a, nil }

// Check is nil.
func (Always) Check() error { return nil }

// Wait returns nil at once.
func (Always) Wait(context.Context) error { return nil }

// Over is false.
func (Always) Over() bool { return false }

// Account is a database with a user that may connect to it.
type Account struct{ Database, User string }

// Config is what a Relay needs. All fields are required, but for Replicator, From, Proven, TLS, NoPlainText and Hint.
type Config struct {
	// For says whose connections these are, in the log: "applications".
	For string
	// Hint tells the users of those that are refused what to look at.
	Hint     string
	Gate     Gate
	Accounts []Account
	// Replicator is the user that may replicate, whatever database it names; "": nobody may.
	Replicator string
	// From are the networks that clients may come from; none: any. With Proven, what clients show in TLS says who they are: those from elsewhere are let in
	// too, and take no room from the others.
	From   []netip.Prefix
	Proven bool
	// Socket is PostgreSQL's unix socket.
	Socket string
	// MaxConnections bounds the connections at once, those that begin included.
	MaxConnections int
	// TLS is for clients that ask for it; nil: there is none. NoPlainText refuses those that don't.
	TLS         *tls.Config
	NoPlainText bool
	Log         *slog.Logger

	deafAfter uint8 // in tests; else the constant
}

const (
	// beginWithin ends a connection that does not say who it is.
	beginWithin = 10 * time.Second
	// dialWithin ends an attempt to connect to PostgreSQL's socket, which hangs only when its backlog is full.
	dialWithin = 5 * time.Second
	// holdFor is how long an answer is held back while the right to give it is in doubt: leases come back within a heartbeat, or never.
	holdFor = 5 * time.Second
	// lookEvery is how often connections are looked at whose session may be over.
	lookEvery = 20 * time.Millisecond
	// sayWithin bounds the sending of a refusal.
	sayWithin = time.Second
	// keepAlive finds a client that died without a word, within three of them.
	keepAlive = 10 * time.Second
	// deafAfter finds one to which something is on its way, when keep-alives rest: by so many transmissions in a row that are not acknowledged. Each
	// waits twice as long as the one before, 13 seconds in all and more.
	deafAfter = 6
	// deafLook is how often that is looked at.
	deafLook = time.Second
	// leftToOthers is how many connections no single address gets, or a quarter of all if that is less: one that connects and says nothing leaves that many
	// to the others.
	leftToOthers = 10
	// maxStrangers bounds the connections from addresses that are not let in.
	maxStrangers = 10
	// reasonMax bounds what the log says of a refusal: clients have their names and their certificates' in it.
	reasonMax = 300
	// roleEnded is why connections are ended when a session is over.
	roleEnded = "this node is the primary no more"
	// acceptAgain is the pause after a failure to accept: out of descriptors, as a rule.
	acceptAgain = 50 * time.Millisecond
)

// Relay serves listeners. Make it with New, then call Run once.
type Relay struct {
	cfg Config
	log *slog.Logger
	// room is for clients, strangers for those that come from elsewhere than they should: they take no room from clients.
	room, strangers *turnstile.Turnstile
	said            *quiet.Repeats

	mu    sync.Mutex // guards links, and cut of each
	links map[*link]struct{}
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Relay, error) {
	if cfg.Gate == nil || cfg.Log == nil || cfg.Socket == "" || cfg.MaxConnections < 1 {
		return nil, errors.New("pgrelay: a gate, a socket, a bound of connections and a log are required")
	}
	cfg.deafAfter = cmp.Or(cfg.deafAfter, deafAfter)
	room := turnstile.New(cfg.MaxConnections, cfg.MaxConnections-min(leftToOthers, cfg.MaxConnections/4))
	return &Relay{cfg: cfg, log: cfg.Log.With("for", cfg.For), room: room, strangers: turnstile.New(maxStrangers, maxStrangers), links: map[*link]struct{}{}, said: quiet.New(quiet.Often)}, nil
}

// Run serves the listeners until ctx ends; then it closes them and all connections, and returns nil when all is over.
func (r *Relay) Run(ctx context.Context, lns []net.Listener) error {
	var all sync.WaitGroup
	for _, ln := range lns {
		all.Go(func() { r.accept(ctx, ln, &all) })
	}
	roles, machines := time.NewTicker(lookEvery), time.NewTicker(deafLook)
	defer roles.Stop()
	defer machines.Stop()
	if _, always := r.cfg.Gate.(Always); always {
		roles.Stop() // its sessions are never over
	}
	for ctx.Err() == nil {
		select {
		case <-roles.C:
			r.cut((*link).over, roleEnded)
		case <-machines.C:
			r.cut((*link).deaf, "the clients' machines do not answer")
		case <-ctx.Done():
		}
	}
	for _, ln := range lns {
		ln.Close()
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	again := time.NewTicker(lookEvery)
	defer again.Stop()
	for { // what is accepted at the last moment too
		r.cut(func(*link) bool { return true }, "kineshim stops")
		select {
		case <-ended:
			return nil
		case <-again.C:
		}
	}
}

// cut ends the connections for which due says so.
func (r *Relay) cut(due func(*link) bool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for l := range r.links {
		if due(l) && !l.cut {
			l.cut = true
			n++
		}
		if l.cut {
			l.close()
		}
	}
	if n > 0 {
		r.log.Info("connections to PostgreSQL are ended", "why", why, "connections", n)
	}
}

// Cut ends the connections with TLS for which unwelcome says so, by what was shown in their handshakes; why is for the log.
func (r *Relay) Cut(unwelcome func(tls.ConnectionState) bool, why string) {
	r.cut(func(l *link) bool {
		c := l.encrypted()
		return c != nil && unwelcome(c.ConnectionState())
	}, why)
}

// Count is how many connections are open, and how many were closed at once because there were too many.
func (r *Relay) Count() (open int, refused uint64) {
	open, refused = r.room.Count()
	o, n := r.strangers.Count()
	return open + o, refused + n
}

func (r *Relay) accept(ctx context.Context, ln net.Listener, all *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptAgain):
			}
			r.complain("a connection to PostgreSQL could not be accepted", "error", err)
			continue
		}
		room := r.room
		if !r.allowedFrom(conn.RemoteAddr()) {
			room = r.strangers
		}
		leave, err := room.Enter(conn.RemoteAddr())
		if err != nil {
			conn.Close()
			r.complain("connections to PostgreSQL are refused: there are too many", "client", conn.RemoteAddr(), "why", err)
			continue
		}
		all.Go(func() {
			defer leave()
			l := &link{relay: r, raw: conn, client: conn}
			r.mu.Lock()
			r.links[l] = struct{}{}
			r.mu.Unlock()
			l.serve(ctx)
			r.mu.Lock()
			delete(r.links, l)
			r.mu.Unlock()
		})
	}
}

// complain logs a warning, now and then: clients can bring it about at will.
func (r *Relay) complain(msg string, args ...any) {
	if line := r.said.Happened(time.Now(), msg, ""); line.Say {
		r.log.Warn(msg, append(args, "unsaid", line.Unsaid)...)
	}
}

// refused says which client was not let in, and why: its first time, and then now and then.
func (r *Relay) refused(client net.Addr, err error) {
	why := err.Error()
	why = why[:min(len(why), reasonMax)]
	if line := r.said.Happened(time.Now(), turnstile.Source(client), why); line.Say {
		r.log.Warn("a connection to PostgreSQL is refused", "client", client, "why", why, "unsaid", line.Unsaid)
	}
}

// allowedFrom says whether a client's address is in one of the networks.
func (r *Relay) allowedFrom(addr net.Addr) bool {
	if len(r.cfg.From) == 0 {
		return true
	}
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return false
	}
	for _, p := range r.cfg.From {
		if p.Contains(at.Addr().Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// admit says whether the startup parameters are those of an account.
func (r *Relay) admit(params map[string]string) error {
	user, database := params["user"], params["database"]
	if database == "" {
		database = user
	}
	if v, asks := params["replication"]; asks {
		if r.cfg.Replicator != "" && user == r.cfg.Replicator {
			return nil
		}
		return fmt.Errorf("replication (%q) is not for %q here", v, user)
	}
	for _, a := range r.cfg.Accounts {
		if a.User == user && a.Database == database {
			return nil
		}
	}
	return fmt.Errorf("user %q with database %q is not among kineshim's %s", user, database, r.cfg.For)
}
