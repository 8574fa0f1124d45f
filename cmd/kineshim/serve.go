package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"kineshim/ambient"
	"kineshim/config"
	"kineshim/failover"
	"kineshim/failover/decide"
	"kineshim/failover/postgres"
	"kineshim/failover/vip"
	"kineshim/joining"
	"kineshim/kineshim"
	"kineshim/kineshim/native"
	"kineshim/monitor/nodemetrics"
	"kineshim/pki/rpc"
	"kineshim/priority"
	pb "kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/sdnotify"
	"kineshim/tlsfiles"
	"kineshim/turnstile"
	"kineshim/version"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

const (
	// leaveTimeout bounds the hand-over of a primary that is being stopped.
	leaveTimeout = 15 * time.Second
	// closeTimeout bounds the end of a PostgreSQL that has been stopped already.
	closeTimeout = 15 * time.Second
	// peerBackoff is the longest pause before the other node is dialled again: its return should be noticed at once.
	peerBackoff = 200 * time.Millisecond
	// peerPing and peerPingBound find a connection to it that died without a word. What counts is peerPingBound: as long may what is sent stay
	// unacknowledged (TCP_USER_TIMEOUT). TCP itself would try the old connection again up to two minutes after the network is back.
	peerPing, peerPingBound = 10 * time.Second, 2 * time.Second
)

// serve runs the node until ctx ends, then hands over and stops. A node that goes on alone begins anew on the way.
// path is the configuration's.
func serve(ctx context.Context, path string, cfg config.Node, log *slog.Logger) error {
	ambient.Clear(log)
	systemd := sdnotify.New(log)
	defer systemd.Close()
	for {
		err := serveOnce(ctx, path, cfg, systemd, log)
		if !errors.Is(err, errAgain) || ctx.Err() != nil {
			return err
		}
		log.Warn("starting anew", "after", err)
	}
}

// serveOnce runs the node with the identity that is on disk when it starts.
func serveOnce(ctx context.Context, path string, cfg config.Node, systemd *sdnotify.Notifier, log *slog.Logger) error {
	id, err := raftwitness.LoadIdentity(cfg.DataDir)
	if errors.Is(err, raftwitness.ErrNotEnrolled) {
		switch gathered := gather(ctx, path, cfg, systemd, log); {
		case errors.Is(gathered, joining.ErrNoFounding):
			return fmt.Errorf("%w: found a cluster with kineshim init, or join one with kineshim join", err)
		case ctx.Err() != nil:
			return nil
		case gathered != nil:
			return gathered
		}
		id, err = raftwitness.LoadIdentity(cfg.DataDir)
	}
	if err != nil {
		return err
	}
	if err := cfg.Enrolled(joining.Addresses(id.Peers)); err != nil {
		return err
	}
	if err := matches(cfg, id); err != nil {
		return err
	}
	secrets, err := loadSecrets(cfg.DataDir)
	if err != nil {
		return err
	}
	pc, err := postgresConfig(cfg, secrets, log)
	if err != nil {
		return err
	}
	sec, err := loadSecurity(cfg, id, log)
	if err != nil {
		return err
	}
	replication, err := sec.forReplication(time.Now())
	if err != nil {
		return err
	}
	sec.replication.Store(replication)
	pc.TLS = &replication.client
	pg, err := postgres.New(pc)
	if err != nil {
		return err
	}
	certs, err := openClientTLS(cfg, log)
	if err != nil {
		return err
	}
	appCerts, err := openApplicationTLS(cfg, log)
	if err != nil {
		return err
	}
	n := &node{cfg: cfg, cfgPath: path, id: id, log: log, systemd: systemd, pg: pg, pc: pc, security: sec, clientTLS: certs, applicationTLS: appCerts, limits: newLimits(cfg, log), clusterID: number(id.ClusterID), memberID: number(id.ServerID)}
	err = n.run(ctx)
	if errors.Is(err, errAgain) { // who comes next has a Server of its own, which must find the data directory free
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, pg.Close(closing))
	}
	return err
}

// matches refuses a configuration that does not fit the identity.
func matches(cfg config.Node, id raftwitness.Identity) error {
	var errs []error
	if id.Name != cfg.Name {
		errs = append(errs, fmt.Errorf("%s is enrolled as %q, the configuration says node: %s", cfg.DataDir, id.Name, cfg.Name))
	}
	for _, p := range id.Peers {
		if _, ok := cfg.Members[p.Name]; !ok {
			errs = append(errs, fmt.Errorf("the cluster has a member %q, the configuration has no members.%s", p.Name, p.Name))
		}
	}
	if id.Promise != cfg.Timing.HeartbeatTimeout {
		errs = append(errs, fmt.Errorf("timing.heartbeat_timeout is %v, but the cluster was founded with %v, which all members share", cfg.Timing.HeartbeatTimeout, id.Promise))
	}
	return errors.Join(errs...)
}

// node is a running data node.
type node struct {
	cfg config.Node
	// cfgPath is the file that cfg was read from.
	cfgPath string
	id      raftwitness.Identity
	log     *slog.Logger
	// systemd is told how the node is.
	systemd *sdnotify.Notifier
	pg      *postgres.Server
	pc      postgres.Config
	// security has the node's certificates.
	security *security
	// clusterID and memberID are what etcd's headers say.
	clusterID, memberID uint64

	listener *raftwitness.Listener
	raft     *raftwitness.Node
	agent    *failover.Agent
	endpoint *kineshim.Endpoint
	replica  *native.Replica // nil with kine's engine
	vips     *vip.Runner     // nil without virtual addresses
	kernel   vip.Kernel
	metrics  *nodemetrics.Registry
	// vipConns are the connections to virtual addresses.
	vipConns vip.Connections
	// guests are the connections at the peer port.
	guests rpc.Guests
	// clientTLS is what clients are shown; nil: the endpoint has no TLS.
	clientTLS *tlsfiles.Source
	// applicationTLS is what other applications are shown; nil: their connections are in clear.
	applicationTLS *tlsfiles.Source
	// limits bound what others have open.
	limits  *limits
	servers []*grpc.Server
	fail    context.CancelCauseFunc
	// stopping: the end has begun.
	stopping atomic.Bool
}

// run owns everything: it starts from the voter outwards and stops in the reverse order, so that nothing ever answers whose
// ground is gone.
func (n *node) run(ctx context.Context) (err error) {
	ctx, n.fail = context.WithCancelCause(ctx)
	defer n.fail(nil)
	// Before anything that has a log of its own: what a log tells after it is of this process.
	n.log.Info("kineshim starts", "node", n.cfg.Name, "server", n.id.ServerID, "cluster", n.id.ClusterID, "version", version.Version)
	if priority.Raise(n.log) {
		stopKeeping := n.background(func(ctx context.Context) error { priority.Keep(ctx, n.log); return nil })
		defer func() { err = errors.Join(err, stopKeeping()) }()
	}

	raftLn, err := raftwitness.Listen(ctx, n.cfg.Self().Raft)
	if err != nil {
		return fmt.Errorf("members.%s.raft: %w", n.cfg.Name, err)
	}
	n.listener = raftwitness.NewListener(raftLn, n.log)
	defer n.listener.Close()
	watch := newDeathwatch(n.cfg, n.id, n.log)
	stopWatch := n.background(watch.Run)
	defer func() {
		if err == nil || errors.Is(err, errAgain) { // after a failure, it tells the others as soon as this process has ended
			err = errors.Join(err, stopWatch())
		}
	}()
	n.raft, err = raftwitness.Open(raftwitness.Config{
		Dir: n.id.LogDir(n.cfg.DataDir, filepath.Join(n.cfg.DataDir, "raft")), Identity: n.id, Credentials: n.security.credentials, Certify: n.security.certifyMember, Listener: n.listener, Log: n.log,
		Address: func(name string) string { return n.cfg.Members[name].Raft }, OnLead: watch.Leads,
	})
	if err != nil {
		return err
	}
	stopRaft := n.background(n.raft.Run)
	defer func() { err = errors.Join(err, stopRaft()) }()
	if err := n.receiveAgain(ctx, n.listener); err != nil { // the node can do without
		n.log.Warn("members that were interrupted while they joined are not answered", "error", err)
	}

	peer, err := grpc.NewClient(n.cfg.Members[n.cfg.Other()].Peer, grpc.WithTransportCredentials(n.security.client(n.isDataNode)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: peerBackoff / 4, Multiplier: 1.6, MaxDelay: peerBackoff},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: peerPing, Timeout: peerPingBound, PermitWithoutStream: true}))
	if err != nil {
		return err
	}
	defer peer.Close()
	if err := n.build(peer); err != nil {
		return err
	}
	defer n.endpoint.Close()
	if err := n.listen(); err != nil {
		return err
	}
	defer n.stopServers()
	replication, err := n.replicationRelay()
	if err != nil {
		return err
	}
	stopReplication, err := n.passReplication(replication) // before PostgreSQL begins, and until it has ended
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopReplication()) }()
	stopShowing := n.background(func(ctx context.Context) error { return n.showOut(ctx, replication) })
	defer func() { err = errors.Join(err, stopShowing()) }()
	if n.replica != nil {
		defer n.replica.Close()
		stopReplica := n.background(n.replica.Run)
		defer func() { err = errors.Join(err, stopReplica()) }()
	}
	stopMonitor, err := n.startMonitor()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopMonitor()) }()
	stopBeside, err := n.startBeside()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopBeside()) }()
	stopRenewals := n.background(n.renewCertificates)
	defer func() { err = errors.Join(err, stopRenewals()) }()
	stopAgent := n.background(n.agent.Run)
	n.log.Info("kineshim runs", "node", n.cfg.Name, "client", clientURLs(n.cfg), "control", n.cfg.ControlSocket)

	n.systemd.Ready()
	stopTelling := n.background(n.tellSystemd)
	defer func() { err = errors.Join(err, stopTelling()) }()

	<-ctx.Done()
	n.stopping.Store(true)
	cause := context.Cause(ctx)
	n.systemd.Patience(stopsWithin)
	if errors.Is(cause, context.Canceled) {
		cause = nil
		n.log.Info("stopping")
		n.systemd.Stopping(stopsWithin)
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		n.agent.Leave(leave)
		cancel()
	}
	return errors.Join(cause, stopAgent())
}

// background runs f until the returned function is called, which returns f's error. If f ends before, the node stops.
func (n *node) background(f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		if ctx.Err() == nil {
			n.fail(errors.Join(errors.New("a part of the node has ended by itself"), err))
		}
		done <- err
	}()
	return func() error {
		cancel()
		return <-done
	}
}

// build makes the agent and the endpoint, which need each other.
func (n *node) build(peer *grpc.ClientConn) error {
	var err error
	n.metrics = nodemetrics.New(n.sample)
	n.agent = failover.New(failover.Config{
		Self: n.cfg.Name, Other: n.cfg.Other(), Witness: n.cfg.WitnessName(), ServerID: n.id.ServerID, ClusterID: n.id.ClusterID,
		Members: n.id.Members(), Founder: n.id.IsFounder(), Version: version.Version, Store: store{n.raft}, Postgres: n.pg, Peer: pb.NewPeerClient(peer), PeerLink: peer,
		PeerAddress: n.cfg.Members[n.cfg.Other()].Peer, DataDir: n.cfg.DataDir, PostgresDir: n.pc.DataDir, VIPs: n.vipStates, Turned: n.systemd.Turned, Log: n.log,
		Timing: decide.Timing{Silence: n.id.Promise, ReplicationStall: n.cfg.Timing.ReplicationStall, WitnessLostAfter: n.cfg.Timing.WitnessLostAfter},
	})
	if n.vips, err = n.newVIPs(); err != nil {
		return err
	}
	options := kineshim.Options{
		Node: n.cfg.Name, Gate: gate{n.agent.Gate()}, Router: router{n.agent}, HeaderInfo: n.header, Log: n.log,
		MaxRequestBytes: n.cfg.Native.MaxRequestBytes, MaxWait: n.cfg.MaxWait, Answered: n.metrics.Answered,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(n.security.client(n.isDataNode))},
	}
	if n.cfg.Engine == config.EngineKine {
		options.Engine = kineEngine
	} else {
		n.replica = n.newReplica()
		options.Engine, options.Replica = n.replica.Factory(), n.replica
	}
	if n.endpoint, err = kineshim.New(options); err != nil {
		return err
	}
	n.agent.SetEngine(engine{e: n.endpoint, pg: n.pg, socketDir: n.cfg.Postgres.SocketDir, port: n.pc.Port, log: n.log})
	return nil
}

// newReplica is this node's copy of the keys, with the native engine.
func (n *node) newReplica() *native.Replica {
	return native.NewReplica(native.ReplicaConfig{
		Engine: native.Config{
			Cluster: members{n}, CacheBytes: n.cfg.Native.CacheBytes, MaxRequestBytes: n.cfg.Native.MaxRequestBytes,
			MaxTxnOps: n.cfg.Native.MaxTxnOps, Retention: n.cfg.Native.AutoCompactionRetention, DataDir: n.pc.DataDir,
			AskPrimary: func(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
				return n.endpoint.AskPrimary(ctx, r)
			},
			Measures: n.measures(),
		},
		DSN: n.pg.KineDSN(n.cfg.Postgres.SocketDir), StandbyLife: n.agent.StandbyLife, Log: n.log,
		Primary: func() (string, <-chan struct{}) {
			r := n.agent.Route()
			return r.Target, r.Done
		},
		Conn: func(target string) (grpc.ClientConnInterface, error) { return n.endpoint.PeerConn(target) },
	})
}

// header is what etcd's response headers say of this cluster.
func (n *node) header() kineshim.HeaderInfo {
	return kineshim.HeaderInfo{ClusterID: n.clusterID, MemberID: n.memberID, RaftTerm: n.raft.Term()}
}

// number makes one of etcd's numeric IDs of a name.
func number(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

// listen opens the peer's, the control and the clients' servers.
func (n *node) listen() error {
	peer := grpc.NewServer(append(n.endpoint.PeerServerOptions(), grpc.Creds(n.guests.Credentials(n.security.credentials.Server(n.isDataNode))))...)
	n.endpoint.Register(peer)
	pb.RegisterPeerServer(peer, failover.PeerServer{Agent: n.agent})
	if n.replica != nil {
		pb.RegisterReadsServer(peer, n.endpoint.Reads())
		pb.RegisterReplicationServer(peer, replication{r: n.replica})
	}
	control := grpc.NewServer(n.endpoint.ControlServerOptions()...)
	n.endpoint.Register(control) // shimctl needs neither an address nor a certificate then
	controls := failover.ControlServer{
		Agent: n.agent, Restorer: restorer{endpoint: n.endpoint, dir: n.cfg.DataDir}, ClientAddress: clientAddress(n.cfg.ClientAddresses()[0].HostPort),
		Loner: loner{n}, Enrol: n.enrolment, NewServerID: raftwitness.NewServerID,
	}
	pb.RegisterControlServer(control, controls)
	afar := grpc.NewServer(append(n.operatorOptions(n.isRevoked), grpc.Creds(rpc.Credentials(n.security.credentials.Server(isOperator))))...)
	pb.RegisterControlServer(afar, controls)
	for _, s := range []struct {
		server               *grpc.Server
		room                 *turnstile.Turnstile
		network, addr, about string
	}{
		{peer, n.limits.peers, "tcp", n.cfg.Self().Peer, "members." + n.cfg.Name + ".peer"},
		{control, n.limits.control, "unix", n.cfg.ControlSocket, "control_socket"},
		{afar, n.limits.afar, "tcp", n.cfg.ControlListen, "control_listen"},
	} {
		if s.addr == "" {
			continue
		}
		ln, err := listenOn(s.network, s.addr)
		if err != nil {
			n.stopServers()
			return fmt.Errorf("%s: %w", s.about, err)
		}
		n.serveOn(s.server, n.limits.wrap(s.room, ln, s.about), s.about)
	}
	if err := n.listenForClients(); err != nil {
		n.stopServers()
		return err
	}
	return nil
}

// serveOn serves until the server is stopped.
func (n *node) serveOn(s *grpc.Server, ln net.Listener, about string) {
	n.servers = append(n.servers, s)
	go func() { // ends with Stop
		if err := s.Serve(ln); err != nil {
			n.fail(fmt.Errorf("%s: %w", about, err))
		}
	}()
}

// listenOn opens the peer port, or a unix socket that only this user may use, in place of what an earlier process left.
func listenOn(network, addr string) (net.Listener, error) {
	if network != "unix" {
		return listenForPeer(addr)
	}
	if err := os.Remove(addr); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(addr, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

func (n *node) stopServers() {
	for _, s := range n.servers {
		s.Stop()
	}
}
