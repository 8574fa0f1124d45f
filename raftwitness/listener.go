package raftwitness

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"kineshim/pki"
	"kineshim/turnstile"

	"github.com/hashicorp/raft"
)

// hello opens each connection, inside mutual TLS: it says which cluster the caller belongs to, who it is and whom it expects to find. That it is who it
// says, its certificate has to say too.
type hello struct {
	Cluster string `json:"cluster"`
	From    string `json:"from"`
	To      string `json:"to"`
	// Promise is the caller's promise period: voters that disagree on it must not be in one cluster.
	Promise time.Duration `json:"promise"`
	// Departed, if not 0, makes this all that the caller has to say: its process has ended, which led in no term beyond this. A
	// voter that does not know the field waits for Raft's requests, which never come.
	Departed uint64 `json:"departed,omitempty"`
	// Claim is what the caller says of itself.
	Claim claim `json:"claim,omitzero"`
	// Ask makes this a question: who answers at this address? The caller is not judged. Meet makes it an introduction. Nothing follows
	// either of them.
	Ask  bool `json:"ask,omitempty"`
	Meet bool `json:"meet,omitempty"`
	// Void tells the called one that it was given up, and why; nothing follows.
	Void string `json:"void,omitempty"`
	// Renew asks for a certificate, with a PKCS #10 request; nothing follows.
	Renew []byte `json:"renew,omitempty"`
}

// only: there is nothing after the hello.
func (h hello) only() bool {
	return h.Departed > 0 || h.Ask || h.Meet || h.Void != "" || h.Renew != nil
}

type helloReply struct {
	Error string `json:"error,omitempty"`
	// Breach says that the caller was refused for good, and how it is not what the others rely on.
	Breach breach `json:"breach,omitempty"`
	// Server and Claim are who answers.
	Server string `json:"server,omitempty"`
	Claim  claim  `json:"claim,omitzero"`
	// Departed repeats the hello's, once the voter acts on it.
	Departed uint64 `json:"departed,omitempty"`
	// Certificate answers Renew, DER.
	Certificate []byte `json:"certificate,omitempty"`
	// Clock answers Ask: the wall clock of who answers. It is shown to operators and decides nothing.
	Clock time.Time `json:"clock,omitzero"`
}

const (
	helloMagic = "KSR1"
	// helloMax bounds what a stranger can make us read.
	helloMax = 2048
	// errorMax bounds what is said of a refusal.
	errorMax = 1000
	// helloTimeout ends connections that say nothing.
	helloTimeout = 2 * time.Second
	// acceptBacklog bounds connections that wait for a group to take them; beyond it they are closed.
	acceptBacklog = 16
	// maxOpen bounds the connections of one group: a voter has about five to another.
	maxOpen = 64
)

// Listener is one port shared by the groups of several clusters, told apart by cluster ID.
type Listener struct {
	ln net.Listener
	// greeting counts the connections that are in their hello.
	greeting *turnstile.Turnstile
	refusals *refusals
	wg       sync.WaitGroup

	mu         sync.Mutex // guards the fields below
	groups     map[string]*group
	receptions []reception
}

// group is one cluster's share of the port.
type group struct {
	id Identity
	// tls is what the group's voters show and ask for; nil: they speak without.
	tls   *tls.Config
	conns chan net.Conn
	done  chan struct{}
	owner *Listener
	dial  func(address string, timeout time.Duration) (net.Conn, error)
	addr  func(serverID string) (string, bool)
	// departures takes what is heard of servers that have departed, for the voter.
	departures chan departure
	// who judges those who call and answer, and says who this voter is; nil: nobody is judged.
	who acquaintance
	// renew makes certificates; nil: this voter has no authority.
	renew func(pki.ID, []byte) ([]byte, error)

	mu     sync.Mutex // guards the fields below
	closed bool
	open   map[*groupConn]struct{} // accepted, and those that still wait in conns
	// dialled are the connections that this voter has made. sealed: it makes and takes none any more.
	dialled map[*dialledConn]struct{}
	sealed  bool
	// shown is how long the certificates are good that were shown, by server.
	shown map[string]pki.Validity
}

// groupConn is an accepted connection; its group closes it if nobody else does.
type groupConn struct {
	net.Conn
	group *group
	// from is the caller's server ID.
	from string
}

func (c *groupConn) Close() error {
	c.group.mu.Lock()
	delete(c.group.open, c)
	c.group.mu.Unlock()
	return c.Conn.Close()
}

// Listen opens the port, host:port, so that a caller that has vanished is noticed within seconds: until then, its half of a
// transfer would hold this voter up.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}}
	return c.Listen(ctx, "tcp", address)
}

// NewListener serves ln until Close. Whether TLS is spoken, each group decides for its cluster.
func NewListener(ln net.Listener, log *slog.Logger) *Listener {
	l := &Listener{ln: ln, groups: map[string]*group{}, greeting: turnstile.New(maxGreeting, maxGreetingOfOne), refusals: newRefusals(log)}
	l.wg.Add(1)
	go l.accept()
	return l
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Greeting is how many connections have not said yet who they are, and how many were closed at once because there were too many of them.
func (l *Listener) Greeting() (open int, refused uint64) { return l.greeting.Count() }

// Close closes the port and waits for its goroutines. Groups must be closed by their owners.
func (l *Listener) Close() error {
	err := l.ln.Close()
	l.wg.Wait()
	return err
}

func (l *Listener) accept() {
	defer l.wg.Done()
	for {
		c, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.refusals.deaf(err)
			time.Sleep(acceptAgain)
			continue
		}
		leave, err := l.greeting.Enter(c.RemoteAddr())
		if err != nil {
			c.Close()
			l.refusals.refused(c.RemoteAddr(), fmt.Errorf("before its hello: %w", err))
			continue
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			defer leave()
			if err := l.welcome(c); err != nil {
				l.refusals.refused(c.RemoteAddr(), err)
				c.Close()
			}
		}()
	}
}

// welcome reads the hello, answers it and gives the connection to its group.
func (l *Listener) welcome(c net.Conn) error {
	c.SetDeadline(time.Now().Add(helloTimeout))
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	c, err := l.secure(ctx, c)
	if err != nil || c == nil {
		return err
	}
	var h hello
	if err := readFrame(c, &h); err != nil {
		return err
	}
	g, err := l.route(c, h)
	if err == nil && h.Departed > 0 {
		err = g.depart(h.From, h.Departed)
	}
	var certificate []byte
	if tc, ok := c.(*pki.Conn); ok && err == nil && h.Renew != nil {
		certificate, err = g.certify(tc.Peer, h.Renew)
	}
	r := g.reply(h, err)
	r.Certificate = certificate
	if werr := writeFrame(c, r); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	if h.only() {
		return c.Close()
	}
	c.SetDeadline(time.Time{})
	return g.take(c, h.From)
}

func (l *Listener) route(c net.Conn, h hello) (*group, error) {
	l.mu.Lock()
	g := l.groups[h.Cluster]
	l.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("cluster %q is not known here", h.Cluster)
	}
	if err := g.authentic(c, h.From); err != nil {
		return nil, err // a stranger is told nothing of the cluster
	}
	return g, g.check(h)
}

// reply is what the caller is told. g is nil if the cluster is not known.
func (g *group) reply(h hello, err error) helloReply {
	r := helloReply{Departed: h.Departed}
	if h.Ask {
		r.Clock = time.Now().UTC()
	}
	if err != nil {
		why := err.Error()
		r = helloReply{Error: why[:min(len(why), errorMax)]}
		if refused := (*refusal)(nil); errors.As(err, &refused) {
			r.Breach = refused.breach
		}
	}
	if g != nil {
		r.Server = g.id.ServerID
		if g.who != nil {
			r.Claim = g.who.claim()
		}
	}
	return r
}

// check says whether the caller is a voter of this cluster that means this incarnation of us.
func (g *group) check(h hello) error {
	if g.who != nil {
		return g.who.admit(h)
	}
	if h.To != g.id.ServerID {
		return fmt.Errorf("you want %q, this is %q: one of the two was enrolled anew", h.To, g.id.ServerID)
	}
	if h.Promise != g.id.Promise {
		return fmt.Errorf("your heartbeat timeout is %v, here it is %v: they must be equal", h.Promise, g.id.Promise)
	}
	for _, p := range g.id.Peers {
		if p.ServerID == h.From {
			return nil
		}
	}
	return fmt.Errorf("%q is not a voter of this cluster", h.From)
}

func newGroup(id Identity, owner *Listener, dial func(string, time.Duration) (net.Conn, error), addr func(string) (string, bool)) *group {
	return &group{
		id: id, conns: make(chan net.Conn, acceptBacklog), done: make(chan struct{}), owner: owner, dial: dial, addr: addr,
		departures: make(chan departure), open: map[*groupConn]struct{}{}, dialled: map[*dialledConn]struct{}{},
	}
}

// register gives a cluster's group its share of the port.
func (l *Listener) register(g *group) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.groups[g.id.ClusterID]; ok {
		return fmt.Errorf("cluster %s is served on this port already", g.id.ClusterID)
	}
	l.groups[g.id.ClusterID] = g
	return nil
}

// group is raft.StreamLayer: addresses are server IDs, resolved when dialled, so that a voter may move to another address.

func (g *group) Accept() (net.Conn, error) {
	select {
	case c := <-g.conns:
		return c, nil
	case <-g.done:
		return nil, net.ErrClosed
	}
}

func (g *group) Addr() net.Addr { return serverAddr(g.id.ServerID) }

// take queues a connection for Accept.
func (g *group) take(c net.Conn, from string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.sealed {
		return net.ErrClosed
	}
	if len(g.open) >= maxOpen {
		return fmt.Errorf("%d connections are open", maxOpen)
	}
	gc := &groupConn{c, g, from}
	select {
	case g.conns <- gc:
		g.open[gc] = struct{}{}
		return nil
	default:
		return errors.New("too many connections wait")
	}
}

// Close gives the share of the port back and closes all connections: hashicorp/raft leaves accepted ones open.
func (g *group) Close() error {
	g.owner.mu.Lock()
	if g.owner.groups[g.id.ClusterID] == g { // not if it could not be registered
		delete(g.owner.groups, g.id.ClusterID)
	}
	g.owner.mu.Unlock()

	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	close(g.done)
	for c := range g.open {
		c.Conn.Close()
	}
	clear(g.open)
	return nil
}

func (g *group) Dial(server raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	address, ok := g.addr(string(server))
	if !ok {
		return nil, fmt.Errorf("dial %q: not a voter of this cluster", server)
	}
	c, err := g.dial(address, timeout)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(min(timeout, helloTimeout)))
	if _, err := g.introduce(c, string(server), address, hello{}); err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return g.keep(c, string(server))
}

// introduce says hello to the server, which was dialled at the address, and judges its answer. Of h, what only the caller knows is set.
func (g *group) introduce(c net.Conn, server, address string, h hello) (helloReply, error) {
	h.Cluster, h.From, h.To, h.Promise = g.id.ClusterID, g.id.ServerID, server, g.id.Promise
	if g.who != nil {
		if err := g.who.mayCall(); err != nil {
			return helloReply{}, err
		}
		h.Claim = g.who.claim()
	}
	r, err := g.greet(c, h)
	if err == nil && r.Error != "" {
		err = fmt.Errorf("%s at %s refuses: %s", server, address, r.Error)
		if g.who != nil && r.Server == server {
			g.who.refusedBy(server, r)
		}
	}
	if g.who != nil && (err == nil || r.Breach != "") {
		err = errors.Join(err, g.who.met(server, r))
	}
	return r, err
}

// greet says hello and waits for the answer, which is whose it says, or nobody's.
func (g *group) greet(c net.Conn, h hello) (helloReply, error) {
	var r helloReply
	err := writeFrame(c, h)
	if err == nil {
		err = readFrame(c, &r)
	}
	if err == nil && r.Server != "" {
		err = g.authentic(c, r.Server)
	}
	if err != nil {
		return helloReply{}, err
	}
	return r, nil
}

type serverAddr string

func (serverAddr) Network() string  { return "raft" }
func (a serverAddr) String() string { return string(a) }

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	frame := append([]byte(helloMagic), 0, 0)
	binary.BigEndian.PutUint16(frame[len(helloMagic):], uint16(len(b)))
	_, err = w.Write(append(frame, b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	head := make([]byte, len(helloMagic)+2)
	if _, err := io.ReadFull(r, head); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return errors.New("read hello: not a kineshim Raft connection")
	}
	n := binary.BigEndian.Uint16(head[len(helloMagic):])
	if n > helloMax {
		return fmt.Errorf("read hello: %d bytes announced, %d allowed", n, helloMax)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	return nil
}
