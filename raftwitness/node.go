package raftwitness

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
	"time"

	"kineshim/pki"
	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Config is what a Node needs.
type Config struct {
	// Dir holds the Raft log and the snapshots.
	Dir      string
	Identity Identity
	// Listener is the port, perhaps shared with other clusters.
	Listener *Listener
	// Credentials are this voter's, for mutual TLS with the others; nil: without TLS, in tests.
	Credentials *pki.Credentials
	// Certify makes a certificate for a voter that asks for one, DER; nil: this voter cannot, and has its own renewed by others.
	Certify func(id pki.ID, request []byte) ([]byte, error)
	// Dial connects to another voter, below TLS; nil is plain TCP.
	Dial func(address string, timeout time.Duration) (net.Conn, error)
	// Address gives a voter's current host:port by its name; nil or "" falls back to the identity's.
	Address func(name string) string
	// OnLead, if not nil, is told the term of each leadership of this voter, at least once, before the voter can have a lease in it:
	// whoever is to tell the others one day that this process has ended (see Depart) must know up to which term. It must not block.
	OnLead func(term uint64)
	// Clock is what leases and promises are measured with: the time since some moment, which must go on while the machine is suspended. Nil
	// is CLOCK_BOOTTIME.
	Clock func() time.Duration
	Log   *slog.Logger

	// disk stands between the voter and its disk in tests; nil: nothing does.
	disk func(raft.StableStore) raft.StableStore
}

// Node is one voter of one cluster.
type Node struct {
	cfg   Config
	raft  *raft.Raft
	store *raftboltdb.BoltStore
	// stable is the part of store that holds the term and the vote.
	stable *patient
	voter  *voter
	lease  *lease
	fsm    *fsm
	group  *group
	// barrierTerm is the term in which this server, as leader, has applied all that came before it.
	barrierTerm atomic.Uint64
	leaderCh    chan bool
	memory      *memory
	// voided: this voter is void. ready: Raft runs; before, startTerm and startIndex are where its log ends.
	voided, ready         atomic.Bool
	startTerm, startIndex uint64
	// newest is the newest record in the log when Raft was started, committed or not; nil before.
	newest atomic.Pointer[record.Record]

	mu         sync.Mutex // guards the fields below
	waiters    map[chan struct{}]struct{}
	complained map[string]time.Time // when a refusal was last logged as an error, by server and breach
	refusals   map[string]refused   // by server
	called     map[string]time.Time // when a server was last admitted
	route      map[string]int       // which of a server's addresses is dialled next; see address
}

const (
	// witnessPatience is how many times longer the witness waits before it campaigns: a data node that can lead should.
	witnessPatience = 3
	// snapshotThreshold and trailingLogs keep the log to a few hundred small entries.
	snapshotThreshold = 256
	trailingLogs      = 128
	snapshotsKept     = 2
	// connectionPool bounds the idle connections kept to each voter.
	connectionPool = 3
	// rpcTimeout is how long a request to a voter may take; a frozen voter is found after it.
	minRPCTimeout = time.Second
)

// Open starts the voter. The log is made, with the three voters of the identity, if Dir has never held one.
func Open(cfg Config) (_ *Node, err error) {
	if err := cfg.Identity.Validate(); err != nil {
		return nil, err
	}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	if cfg.Credentials != nil {
		cfg.Dial = cfg.Credentials.Over(cfg.Dial, anybody, raftProtocol)
	}
	if cfg.Clock == nil {
		cfg.Clock = bootTime
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open Raft directory: %w", err)
	}
	n := &Node{
		cfg: cfg, lease: newLease(cfg.Identity.Promise, cfg.Clock), leaderCh: make(chan bool, 8),
		waiters: map[chan struct{}]struct{}{}, complained: map[string]time.Time{}, refusals: map[string]refused{}, called: map[string]time.Time{}, route: map[string]int{},
	}
	n.fsm = newFSM(cfg.Log, n.recordChanged)
	defer func() {
		if err != nil {
			n.closeFiles()
		}
	}()
	n.store, err = raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(cfg.Dir, "raft.db"),
		BoltOptions: &bolt.Options{Timeout: time.Second},
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another process holds it: is a kineshim or raftwitness with this data directory running?", cfg.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open the Raft log in %s: %w; if it is damaged, %s", cfg.Dir, err, wiped.remedy(cfg.Identity.self().Member))
	}
	return n, n.start()
}

func dialTCP(address string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", address, timeout)
}

func (n *Node) start() error {
	id := n.cfg.Identity
	logger := newLogger(n.cfg.Log)
	n.group = newGroup(id, n.cfg.Listener, n.dial, n.address)
	n.group.who = n
	if n.cfg.Credentials != nil {
		n.group.tls = n.cfg.Credentials.Server(anybody, raftProtocol)
		n.group.renew = n.cfg.Certify
	}
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.group, MaxPool: connectionPool, MaxRPCsInFlight: 1, Timeout: max(minRPCTimeout, 2*id.Promise), Logger: logger,
	})
	n.voter = newVoter(transport, n.lease, id.Promise, n.cfg.Clock)
	n.voter.impatience.others = n.others
	n.voter.campaigns, n.voter.departures, n.voter.log = id.Role == record.Data, n.group.departures, n.cfg.Log

	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(id.ServerID)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = id.Promise, id.Promise, id.Promise
	if id.Role == record.Witness {
		c.HeartbeatTimeout *= witnessPatience
		c.ElectionTimeout *= witnessPatience
	}
	c.SnapshotThreshold, c.TrailingLogs = snapshotThreshold, trailingLogs
	c.Logger = logger
	c.NotifyCh = n.leaderCh
	c.NoLegacyTelemetry = true

	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, snapshotsKept, logger)
	if err != nil {
		return fmt.Errorf("open the snapshots: %w", err)
	}
	if err := n.openMemory(c, snaps); err != nil {
		return err
	}
	n.memory.newLife = n.group.drop
	n.voter.memory, n.voter.isVoid = n.memory, n.replaced
	if n.memory.void() != nil {
		n.voided.Store(true)
		n.group.seal()
	}
	if n.fsm.replayTo, err = n.store.LastIndex(); err != nil {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	if err := n.position(snaps); err != nil {
		return err
	}
	if err := n.cfg.Listener.register(n.group); err != nil {
		return err
	}
	n.stable = &patient{StableStore: n.store, log: n.cfg.Log}
	if n.cfg.disk != nil {
		n.stable.StableStore = n.cfg.disk(n.store)
	}
	if n.raft, err = raft.NewRaft(c, n.fsm, n.store, n.stable, snaps, n.voter); err != nil {
		return fmt.Errorf("start Raft: %w", err)
	}
	n.voter.raft = raftWithLog{n.raft, n.store}
	newest, err := n.LastRecord()
	if err != nil {
		return errors.Join(err, n.raft.Shutdown().Error())
	}
	n.newest.Store(&newest)
	n.ready.Store(true)
	n.checkSelf()
	return nil
}

// position reads where the log ends, for the first hellos.
func (n *Node) position(snaps raft.SnapshotStore) error {
	var err error
	n.startIndex = n.fsm.replayTo
	if n.startTerm, err = n.store.GetUint64(termKey); errors.Is(err, raftboltdb.ErrKeyNotFound) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	list, err := snaps.List()
	if err != nil {
		return fmt.Errorf("read the snapshots: %w", err)
	}
	for _, s := range list {
		n.startIndex = max(n.startIndex, s.Index)
	}
	return nil
}

func (n *Node) servers() raft.Configuration {
	var c raft.Configuration
	for _, p := range n.cfg.Identity.Peers {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(p.ServerID), Address: raft.ServerAddress(p.ServerID)})
	}
	return c
}

// Run serves until ctx ends, then shuts Raft down and closes the log. It returns ErrDisk, with Raft and its log left as they are, if Raft waits for a
// disk that takes no writes: the process must then end.
func (n *Node) Run(ctx context.Context) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(6)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { defer wg.Done(); n.voter.run(inner, done) }()
	go func() { defer wg.Done(); n.lead(inner) }()
	go func() { defer wg.Done(); n.meetAll(inner) }()
	go func() { defer wg.Done(); n.align(inner) }()
	go func() { defer wg.Done(); n.memory.run(inner) }()
	go func() { defer wg.Done(); n.renewals(inner) }()
	<-ctx.Done()
	err := n.shutdown() // Raft first: it may wait for an answer that run passes on
	close(done)
	cancel()
	wg.Wait()
	if errors.Is(err, ErrDisk) {
		return err
	}
	return errors.Join(err, n.closeFiles())
}

// shutdown ends Raft, unless it waits for its disk.
func (n *Node) shutdown() error {
	ended := make(chan error, 1)
	go func() { ended <- n.raft.Shutdown().Error() }() // ends with Raft, or with the process
	t := time.NewTicker(retryStore)
	defer t.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-t.C:
			if n.stable.stuck.Load() {
				return ErrDisk
			}
		}
	}
}

func (n *Node) closeFiles() error {
	var errs []error
	if n.voter != nil {
		errs = append(errs, n.voter.NetworkTransport.Close())
	}
	if n.group != nil {
		errs = append(errs, n.group.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

// wake tells all watchers that the record or Raft's state may have changed.
func (n *Node) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.waiters {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Changes returns a channel that gets a value after each change of the record or of leadership, until stop is called.
func (n *Node) Changes() (c <-chan struct{}, stop func()) {
	w := make(chan struct{}, 1)
	n.mu.Lock()
	n.waiters[w] = struct{}{}
	n.mu.Unlock()
	return w, func() {
		n.mu.Lock()
		delete(n.waiters, w)
		n.mu.Unlock()
	}
}

// Record is the cluster record as applied here, and the log index up to which it is. It must not be modified.
func (n *Node) Record() (*record.Record, uint64) {
	a := n.fsm.state.Load()
	return &a.Record, a.Index
}

// Outcomes of a proposal that did not go through. A command refused by the record's rules returns record.ErrStaleEpoch and
// the like instead.
var (
	// ErrNotLeader: nothing was proposed.
	ErrNotLeader = errors.New("not the Raft leader")
	// ErrUnknownOutcome: the command may have been, or may yet be, committed.
	ErrUnknownOutcome = errors.New("outcome unknown")
)

// Propose commits a command. It returns nil when the command is applied here. Anything that is neither nil, ErrNotLeader nor
// one of the record's refusals wraps ErrUnknownOutcome.
func (n *Node) Propose(ctx context.Context, c record.Command) error {
	b, err := c.Encode()
	if err != nil {
		return err
	}
	var timeout time.Duration
	if d, ok := ctx.Deadline(); ok {
		timeout = max(time.Millisecond, time.Until(d))
	}
	var answer any
	err = await(ctx, func() error {
		f := n.raft.Apply(b, timeout)
		err := f.Error()
		answer = f.Response()
		return err
	})
	switch {
	case err == nil:
		if refusal, ok := answer.(error); ok {
			return refusal
		}
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("propose %s: %w", c.Kind, ErrNotLeader)
	default:
		return fmt.Errorf("propose %s: %w: %w", c.Kind, ErrUnknownOutcome, err)
	}
}

// await bounds by ctx a wait for Raft, which knows no contexts. What it waits for ends with Raft at the latest.
func await(ctx context.Context, wait func() error) error {
	result := make(chan error, 1)
	go func() { result <- wait() }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Settle returns nil when this leader knows the outcome of everything that was ever proposed: all of it is applied here or lost.
// It waits for 5 s at most.
func (n *Node) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	return await(ctx, func() error { return n.raft.Barrier(barrierTimeout).Error() })
}

// Status is a voter's view of Raft.
type Status struct {
	Leader bool
	// Barrier: this leader has applied everything that was committed before its term.
	Barrier bool
	// LeaderName is the name of the leader as known here; "" if none is.
	LeaderName string
	Term       uint64
	// LeaseLeft is how long this leader may go on answering without hearing from anybody; 0 without a lease.
	LeaseLeft time.Duration
	// Forfeited: this leader has offered its leadership to somebody and will never again have a lease in this term.
	Forfeited   bool
	CommitIndex uint64
	// Heard is, on a leader, the time since each other voter last answered in this term; absent if never.
	Heard map[string]time.Duration
	// Void says why this voter is void; "": it is not. A void voter leads nothing.
	Void string
	// Apart says, by name, of the voters with which no word is exchanged at the moment, why: they are refused, or refuse, or have not joined yet.
	Apart map[string]string
	// LeaderHeard is, on a follower, the time since the leader was last heard, or centuries if none was; 0 on a leader.
	LeaderHeard time.Duration
}

// Status looks at Raft.
func (n *Node) Status() Status {
	term := n.raft.CurrentTerm()
	s := Status{Term: term, CommitIndex: n.raft.CommitIndex(), Heard: map[string]time.Duration{}}
	if v := n.memory.void(); v != nil {
		s.Void = v.Why
	}
	s.Leader = n.raft.State() == raft.Leader && n.raft.CurrentTerm() == term && s.Void == "" // in this order, as in LeaseLeft
	s.Apart = n.apart()
	_, id := n.raft.LeaderWithID()
	for _, p := range n.peers() {
		if p.ServerID == string(id) {
			s.LeaderName = p.Name
		}
		if age, ok := n.lease.age(p.ServerID, term); ok && s.Leader {
			s.Heard[p.Name] = age
		}
	}
	if s.Leader {
		s.Barrier = n.barrierTerm.Load() == term
		s.LeaseLeft = n.LeaseLeft()
		s.Forfeited = n.lease.isForfeited(term)
	} else {
		s.LeaderHeard = time.Since(n.raft.LastContact())
	}
	return s
}

// LeaseLeft is how long this node may answer as leader; 0: not at all. Leadership alone says nothing until an entry of its
// own term is committed and applied. It takes less than a microsecond.
func (n *Node) LeaseLeft() time.Duration {
	// In this order: terms only go up, so the state that is read between the two is that of a server in this term.
	term := n.barrierTerm.Load()
	if term == 0 || n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term || n.voided.Load() {
		return 0
	}
	return n.lease.left(term)
}

// Term is Raft's current term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// Identity is who this voter is.
func (n *Node) Identity() Identity { return n.cfg.Identity }

// HandOver gives up this leader's lease for good and offers the leadership to the named voter. It returns nil when the voter
// has been told to campaign; whether it won shows later.
func (n *Node) HandOver(ctx context.Context, name string) error {
	p, ok := n.peerByName(name)
	if !ok {
		return fmt.Errorf("hand over: no voter %q", name)
	}
	err := await(ctx, func() error {
		return n.raft.LeadershipTransferToServer(raft.ServerID(p.ServerID), raft.ServerAddress(p.ServerID)).Error()
	})
	if err != nil {
		return fmt.Errorf("hand over to %s: %w", name, err)
	}
	return nil
}
