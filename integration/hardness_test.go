package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"kineshim/integration/cluster"
	"kineshim/integration/pulse"
)

const (
	// crowdSize is how many idle clients, and how many watches, there are, if the machine lets a process have so many files open.
	crowdSize = 10_000
	// scanFor is how long garbage is sent to every port.
	scanFor = 8 * time.Second
	// floodFor is how long passwords are asked to be hashed.
	floodFor = 5 * time.Second
	// crowdBytes is what an idle client may take of the node's memory, and watchBytes what a watch may, with the garbage that Go leaves until it collects it.
	crowdBytes, watchBytes = 60 << 10, 20 << 10
	// slackBytes is what a node's memory may grow by meanwhile, for other reasons.
	slackBytes = 150 << 20
	// bearable is the longest that a write may take while strangers do what they can.
	bearable = 5 * time.Second
	// scanLines bounds the lines in a node's log that a scan from one address brings about: a handful of reasons, each once, and then one a minute.
	scanLines = 20
)

// held is what must be the same before and after.
type held struct {
	primary string
	epoch   uint64
	pids    map[string]int
	bytes   map[string]int64
	logged  int64 // bytes of the primary's log
	since   time.Time
	pulse   *pulse.Pulse
}

func (r *rig) hold(t *testing.T) held {
	t.Helper()
	p := r.primary(t)
	s, err := r.StatusOf(t.Context(), p)
	must(t, err)
	h := held{primary: p, epoch: s.GetEpoch(), logged: r.logSize(t, p), since: time.Now(), pulse: new(pulse.Pulse), pids: map[string]int{}, bytes: map[string]int64{}}
	go h.pulse.Run(t.Context())
	for _, node := range cluster.Nodes {
		h.pids[node] = r.PID(node)
		h.bytes[node] = r.resident(t, node)
	}
	return h
}

// resident is the memory of the node's process, in bytes.
func (r *rig) resident(t *testing.T, node string) int64 {
	t.Helper()
	return procNumber(t, fmt.Sprintf("/proc/%d/status", r.PID(node)), "VmRSS:") << 10
}

// expect looks that nothing has failed over, that nobody was started anew, that the other node would take over now, and that no node has grown by more.
func (h held) expect(t *testing.T, r *rig, grown int64) {
	t.Helper()
	for _, node := range cluster.Nodes {
		if r.PID(node) != h.pids[node] {
			t.Fatalf("%s was started anew", node)
		}
		now := r.resident(t, node)
		t.Logf("%s: %d MB, %d MB before", node, now>>20, h.bytes[node]>>20)
		if now-h.bytes[node] > grown {
			t.Errorf("%s has grown from %d to %d MB", node, h.bytes[node]>>20, now>>20)
		}
	}
	r.eventually(t, "the gate is open and failover armed", func(ctx context.Context) error { // the other node's answer may be late by a moment
		s, err := r.Status(ctx, h.primary)
		if err == nil && (!cluster.Self(s).GetGateOpen() || !s.GetArmed()) {
			err = fmt.Errorf("gate: %s; not armed: %q", cluster.Self(s).GetGateReason(), s.GetNotArmed())
		}
		return err
	})
	s, err := r.StatusOf(t.Context(), h.primary)
	must(t, err)
	if s.GetEpoch() != h.epoch {
		t.Errorf("epoch %d became %d", h.epoch, s.GetEpoch())
	}
	for _, l := range r.logged(t, h.primary, h.logged) {
		if l["msg"] != "cluster record changed" {
			continue
		}
		// Solo for a moment is what a machine that stands still brings about.
		if late := h.pulse.Latest(h.since); l["kind"] == "solo" && late < 200*time.Millisecond {
			t.Errorf("the record said solo, and this machine stood still for %v only: %v", late, map[string]string(l))
		}
		t.Logf("the record changed meanwhile: %v", map[string]string(l))
	}
}

// writes puts keys through both nodes until stop is called, which looks at how long they took.
func (r *rig) writes(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, node := range cluster.DataNodes {
		all.Go(func() {
			longest, n := time.Duration(0), 0
			for ctx.Err() == nil {
				began := time.Now()
				once, done := context.WithTimeout(t.Context(), bearable)
				_, err := r.clients[node].Put(once, "hardness/"+node, fmt.Sprint(n))
				done()
				if err != nil {
					t.Errorf("a write through %s, after %d that were well: %v", node, n, err)
					return
				}
				longest, n = max(longest, time.Since(began)), n+1
				time.Sleep(20 * time.Millisecond)
			}
			t.Logf("%d writes through %s, the longest took %v", n, node, longest.Round(time.Millisecond))
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// affordable is how many connections this process and a node's may have.
func affordable(t *testing.T) int {
	t.Helper()
	var l unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &l)) // Go has raised it, and does so in the nodes' processes
	const own = 3000                                // of a node's process, and of this one
	n := crowdSize
	if room := int(min(l.Cur, 1<<20)) - own; room*3/4 < n {
		n = max(room*3/4-100, 100)
		t.Logf("only %d of %d clients: a process may have %d files open here", n, crowdSize, l.Cur)
	}
	return n
}

// idleGreeting is how an HTTP/2 client begins: the preface and empty settings.
const idleGreeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func TestTenThousandIdleClientsDisturbNobody(t *testing.T) {
	r := seen{armed(t)}
	n := affordable(t)
	h := r.hold(t)
	stop := r.writes(t)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	at := fmt.Sprintf("127.0.0.1:%d", r.ClientPort(h.primary))
	for len(conns) < n {
		c, err := net.DialTimeout("tcp", at, bearable)
		must(t, err)
		conns = append(conns, c)
		_, err = io.WriteString(c, idleGreeting)
		must(t, err)
	}
	open := func() int { return int(value(t, r.metrics(t, h.primary), "kineshim_connections", "client")) }
	r.eventually(t, "all are connected", func(context.Context) error {
		if got := open(); got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
	h.expect(t, r.rig, int64(n)*crowdBytes+slackBytes)
	for _, c := range conns {
		c.Close()
	}
	conns = nil
	r.eventually(t, "none is counted any more", func(context.Context) error {
		if got := open(); got > 100 {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
	stop()
}

func TestTenThousandWatchesOfOneClientDisturbNobody(t *testing.T) {
	r := armed(t)
	h := r.hold(t)
	c := etcdClient(t, nil, r.ClientURL(h.primary))
	stop := r.writes(t)
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	defer cancel()
	key := func(i int) string { return fmt.Sprintf("hardness/watched/%05d", i) }
	var channels []clientv3.WatchChan
	for i := range crowdSize {
		channels = append(channels, c.Watch(ctx, key(i), clientv3.WithCreatedNotify()))
	}
	within := time.After(failoverWithin)
	next := func(i int) clientv3.WatchResponse {
		select {
		case w, ok := <-channels[i]:
			if !ok || w.Err() != nil {
				t.Fatalf("watch %d has ended: %v", i, w.Err())
			}
			return w
		case <-within:
			t.Fatalf("watch %d says nothing", i)
		}
		panic("unreachable")
	}
	for i := range channels {
		if !next(i).Created {
			t.Fatalf("watch %d was not made", i)
		}
	}
	h.expect(t, r, crowdSize*watchBytes+slackBytes)
	for i := 0; i < crowdSize; i += 97 {
		_, err := c.Put(ctx, key(i), "v")
		must(t, err)
		if w := next(i); len(w.Events) != 1 || string(w.Events[0].Kv.Key) != key(i) {
			t.Fatalf("watch %d heard of %v", i, w.Events)
		}
	}
	stop()
	h.expect(t, r, crowdSize*watchBytes+slackBytes)
}

// Each password that is hashed keeps a processor busy for some 50 ms. Whoever asks for thousands does not keep others from theirs, nor heartbeats.
func TestAFloodOfPasswordsDisturbsNobody(t *testing.T) {
	r := armed(t)
	h := r.hold(t)
	c := etcdClient(t, nil, r.ClientURL(h.primary))
	const user = "hardness"
	defer func() { _, _ = c.UserDelete(context.WithoutCancel(t.Context()), user) }() // there is none if the test failed early
	ctx, cancel := context.WithTimeout(t.Context(), floodFor)
	defer cancel()
	stop := r.writes(t)
	var all sync.WaitGroup
	var hashed, refused atomic.Int64
	for range 100 + 20*runtime.NumCPU() { // more than may wait
		all.Go(func() {
			for ctx.Err() == nil {
				_, err := c.UserAdd(ctx, user, "password")
				switch {
				case err == nil || strings.Contains(err.Error(), "already exists"):
					hashed.Add(1)
				case strings.Contains(err.Error(), "too many passwords"):
					refused.Add(1)
				case ctx.Err() == nil:
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	all.Wait()
	stop()
	h.expect(t, r, slackBytes)
	t.Logf("%d passwords were hashed, %d were refused", hashed.Load(), refused.Load())
	if hashed.Load() == 0 || refused.Load() == 0 {
		t.Error("there was no flood, or no end of it")
	}
}

// Somebody at another address scans all ports, sends garbage and halves of handshakes, and leaves connections open that say nothing.
func TestGarbageOnEveryPortDisturbsNobody(t *testing.T) {
	r := armed(t)
	h := r.hold(t)
	before := map[string]int{}
	for _, node := range cluster.Nodes {
		before[node] = r.refusalLines(t, node)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), scanFor)
	defer cancel()
	stop := r.writes(t)
	var all sync.WaitGroup
	ports := r.everyPort()
	connected := make([]atomic.Int64, len(ports))
	for i := range 3 * len(ports) {
		all.Go(func() {
			scan(ctx, rand.New(rand.NewPCG(seed, uint64(i))), ports[i%len(ports)], &connected[i%len(ports)])
		})
	}
	all.Wait()
	stop()
	for i, port := range ports {
		if connected[i].Load() == 0 {
			t.Errorf("nothing was said at port %d: no connection could be made", port)
		}
	}
	h.expect(t, r, slackBytes)
	for _, node := range cluster.Nodes {
		if n := r.refusalLines(t, node) - before[node]; n > scanLines {
			t.Errorf("the scan has brought about %d lines in %s's log", n, node)
		}
	}
}

// Somebody at another address opens whatever connections he gets at all ports of the data nodes, and says nothing. Nothing fails over; and a primary that is killed
// meanwhile is replaced, and comes back, which needs new connections between the nodes and to PostgreSQL.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	r := armed(t)
	h := r.hold(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var opened atomic.Int64
	for _, node := range cluster.DataNodes {
		p := r.Ports(node)
		for _, port := range []int{p.Peer, p.Raft, p.Postgres} {
			all.Go(func() { besiege(ctx, port, &opened) })
		}
	}
	defer func() { cancel(); all.Wait() }()
	stop := r.writes(t)
	time.Sleep(scanFor)
	stop()
	h.expect(t, r, slackBytes)
	if opened.Load() < 6*besiegers {
		t.Errorf("only %d connections were opened", opened.Load())
	}

	must(t, r.KillNode(h.primary))
	standby := cluster.Other(h.primary)
	r.eventually(t, standby+" takes over", func(ctx context.Context) error {
		if p := r.Primary(ctx); p != standby {
			return fmt.Errorf("the primary is %q", p)
		}
		return nil
	})
	r.create(t, standby, "hardness/besieged")
	must(t, os.RemoveAll(filepath.Join(r.DataDir(h.primary), "pgdata"))) // so that it must be cloned too
	r.start(t, h.primary)
	armedAgain, done := context.WithTimeout(t.Context(), armWithin)
	defer done()
	must(t, r.WaitArmed(armedAgain))
}

// besiegers is how many connections besiege holds, more than a PostgreSQL with 100 max_connections has places for those who have not said who they are.
const besiegers = 300

// besiege holds silent connections to a port until ctx ends, and opens others for those that are closed.
func besiege(ctx context.Context, port int, opened *atomic.Int64) {
	var all sync.WaitGroup
	d := net.Dialer{LocalAddr: stranger, Timeout: time.Second}
	for range besiegers {
		all.Go(func() {
			for ctx.Err() == nil {
				if c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
					opened.Add(1)
					end := context.AfterFunc(ctx, func() { c.Close() })
					_, _ = io.Copy(io.Discard, c) // until it is closed
					end()
					c.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	all.Wait()
}

// everyPort is all on which the nodes listen.
func (r *rig) everyPort() []int {
	var all []int
	for _, node := range cluster.Nodes {
		p := r.Ports(node)
		all = append(all, p.Client, p.Peer, p.Raft, p.Postgres, p.HTTP)
	}
	return slices.DeleteFunc(all, func(p int) bool { return p == 0 })
}

// refusalLines is how many lines in the node's log are about refused connections.
func (r *rig) refusalLines(t *testing.T, node string) int {
	t.Helper()
	b, err := os.ReadFile(r.LogPath(node))
	must(t, err)
	n := 0
	for line := range bytes.Lines(b) {
		if bytes.Contains(line, []byte("refused")) {
			n++
		}
	}
	return n
}

// stranger is another machine's address. The nodes are at 127.0.0.1.
var stranger = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}

// scan makes connections to a port, one after the other, until ctx ends, and says something else on each. It keeps some open, and counts all.
func scan(ctx context.Context, rng *rand.Rand, port int, connected *atomic.Int64) {
	const keep = 40
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	d := net.Dialer{LocalAddr: stranger, Timeout: time.Second}
	for ctx.Err() == nil {
		c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		connected.Add(1)
		_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
		say(ctx, rng, c)
		if open = append(open, c); len(open) > keep {
			open[0].Close()
			open = open[1:]
		}
	}
}

// say says something that no client of ours would; that it is not answered is expected.
func say(ctx context.Context, rng *rand.Rand, c net.Conn) {
	garbage := func(most int) []byte {
		b := make([]byte, rng.IntN(most))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	switch rng.IntN(8) {
	case 0: // nothing
	case 1:
		_, _ = c.Write(garbage(64 << 10))
	case 2: // TLS, and then nothing that it should be
		_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "c1.kineshim.internal"}).HandshakeContext(ctx)
	case 3: // half of a TLS record
		_, _ = c.Write(append([]byte{0x16, 3, 1, 0x40, 0}, garbage(1000)...))
	case 4: // a hello of Raft's port, of no cluster
		hello := fmt.Sprintf(`{"cluster":"%x","from":"a-1","to":"b-1"}`, garbage(50))
		_, _ = c.Write(append([]byte{'K', 'S', 'R', '1', byte(len(hello) >> 8), byte(len(hello))}, hello...))
	case 5: // HTTP/2 with frames of any kind
		_, _ = io.WriteString(c, idleGreeting)
		_, _ = c.Write(garbage(4 << 10))
	case 6: // HTTP
		_, _ = io.WriteString(c, "GET /"+strings.Repeat("x", rng.IntN(40<<10))+" HTTP/1.1\r\nHost: x\r\n")
	case 7: // PostgreSQL's startup, of somebody
		_, _ = c.Write(append([]byte{0, 0, 0, 40, 0, 3, 0, 0}, garbage(60)...))
	}
	_, _ = c.Read(make([]byte, 512))
}
