package vip

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	vip4 = netip.MustParseAddr("10.77.0.50")
	vip6 = netip.MustParseAddr("fd77::50")
	both = []netip.Addr{vip4, vip6}
)

// nodeHelper keeps both addresses and answers on them. arg is the node's name and the other's hardware address. Commands on standard
// input: serve, close, status.
func nodeHelper(arg string) {
	name, peer, _ := strings.Cut(arg, " ")
	fatal := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
	}
	role, conns := &fakeRole{changed: make(chan struct{}, 1)}, &Connections{}
	cfg := Config{
		Node: name, Role: role, Host: &Kernel{}, Connections: conns, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name),
		PeerMACs: func(netip.Addr) []string { return strings.Fields(peer) },
	}
	for _, a := range both {
		cfg.VIPs = append(cfg.VIPs, VIP{Address: netip.PrefixFrom(a, a.BitLen())})
		ln, err := Listen(context.Background(), netip.AddrPortFrom(a, nodePort))
		fatal(err)
		go answer(conns.Wrap(ln), name)
	}
	r, err := New(cfg)
	fatal(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		fatal(r.Run(ctx))
	}()
	for sc := bufio.NewScanner(os.Stdin); sc.Scan(); {
		switch sc.Text() {
		case "serve":
			role.set(1)
		case "close":
			role.set(0)
		case "status":
			b, err := json.Marshal(r.Status())
			fatal(err)
			fmt.Println(string(b))
		}
	}
	cancel()
	<-done
}

// answer writes the node's name for every byte that it reads.
func answer(ln net.Listener, name string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for buf := make([]byte, 1); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := c.Write([]byte(name)); err != nil {
					return
				}
			}
		}()
	}
}

// pair starts the two data nodes' helpers on the hosts a and b.
func (s *segmentNet) pair() (a, b *helper) {
	return s.start("a", "node a "+s.mac("b")), s.start("b", "node b "+s.mac("a"))
}

// serve opens a node's gate and waits until it has both addresses.
func (s *segmentNet) serve(host string, h *helper) {
	s.t.Helper()
	h.say("serve")
	eventually(s.t, host+" holds both", func() bool { return s.has(host, vip4) && s.has(host, vip6) })
}

// nextAnswer waits until the client has an answer of the node on every address, and returns when the last of them came.
func nextAnswer(t *testing.T, client *helper, node string) time.Time {
	t.Helper()
	missing := map[string]bool{vip4.String(): true, vip6.String(): true}
	for deadline := time.After(30 * time.Second); ; {
		select {
		case line := <-client.lines:
			f := strings.Fields(line)
			if len(f) != 3 || f[1] != node {
				continue
			}
			delete(missing, f[0])
			if len(missing) == 0 {
				us, err := strconv.ParseInt(f[2], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return time.UnixMicro(us)
			}
		case <-deadline:
			t.Fatalf("no answer of %s on %v", node, missing)
		}
	}
}

// The promise: unreachable for at most this long beyond the failover itself, which the gate of the new primary ends.
const unreachableBeyond = 500 * time.Millisecond

// bearable looks at how long a client could reach nobody, but for the time in which this machine let nothing run.
func (s *segmentNet) bearable(t *testing.T, began time.Time, took time.Duration) {
	t.Helper()
	if late := s.pulse.Latest(began); took > unreachableBeyond+late {
		t.Errorf("%v, more than %v; this machine stood still for %v", took, unreachableBeyond, late)
	}
}

func TestNeighboursMove(t *testing.T) {
	s := newSegment(t, "a", "b", "c")
	a, b := s.pair()
	s.serve("a", a)
	client := s.start("c", "client "+vip4.String()+","+vip6.String())
	nextAnswer(t, client, "a")
	for _, v := range both {
		if got := s.neighbour("c", v); got != s.mac("a") {
			t.Fatalf("%s is at %s, not at a", v, got)
		}
	}
	for _, c := range []struct {
		name string
		end  func()
	}{
		{"switchover", func() {
			a.say("close")
			eventually(t, "a is without", func() bool { return !s.has("a", vip4) && !s.has("a", vip6) })
		}},
		{"killed", func() { a.signal(syscall.SIGKILL) }},
	} {
		c.end()
		began := time.Now()
		b.say("serve")
		took := nextAnswer(t, client, "b").Sub(began)
		t.Logf("%s: the client goes on %v after b's gate has opened", c.name, took.Round(time.Millisecond))
		s.bearable(t, began, took)
		for _, v := range both {
			if got := s.neighbour("c", v); got != s.mac("b") {
				t.Errorf("%s: %s is at %s, not at b (%s)", c.name, v, got, s.mac("b"))
			}
		}
		if c.name == "switchover" {
			b.say("close")
			a.say("serve")
			nextAnswer(t, client, "a")
			time.Sleep(briefly) // so that b asks again before it takes them
		}
	}
}

// A frozen node's kernel answers for its addresses until the lease ends: whoever has heard it must be told again.
func TestNeighboursMoveAwayFromAFrozenNode(t *testing.T) {
	s := newSegment(t, "a", "b", "c")
	a, b := s.pair()
	s.serve("a", a)
	client := s.start("c", "client "+vip4.String()+","+vip6.String())
	nextAnswer(t, client, "a")
	a.signal(syscall.SIGSTOP)
	began := time.Now()
	b.say("serve")
	took := nextAnswer(t, client, "b").Sub(began)
	t.Logf("the client goes on after %v", took.Round(time.Millisecond))
	s.bearable(t, began, took)
	if !s.has("a", vip4) {
		t.Skip("a's lease has ended meanwhile: the machine is too busy to see more")
	}
	for time.Since(began) < 6*time.Second {
		if st := b.status(); !st[0].Held || !st[1].Held || st[0].Conflicts+st[1].Conflicts != 0 {
			t.Fatalf("%+v", st)
		}
		time.Sleep(100 * time.Millisecond)
	}
	a.signal(syscall.SIGCONT) // it believes that it serves until it looks; here the gate stays open: see TestRoleLostDuringTheCallTakesTheAddressBack
	a.say("close")
	eventually(t, "a is without", func() bool { return !s.has("a", vip4) && !s.has("a", vip6) })
	eventually(t, "the neighbour knows b", func() bool { return s.neighbour("c", vip4) == s.mac("b") && s.neighbour("c", vip6) == s.mac("b") })
}

// The promise: gone from a frozen node within 4 s.
const goneWithin = 4 * time.Second

func TestAddressLeavesAFrozenNodeByItself(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"frozen": syscall.SIGSTOP, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSegment(t, "a")
			for i := range 3 {
				a := s.start("a", "node a")
				s.serve("a", a)
				time.Sleep(700*time.Millisecond + time.Duration(i)*450*time.Millisecond) // at different moments of the kernel's timers
				a.signal(sig)
				began := time.Now()
				for s.has("a", vip4) || s.has("a", vip6) {
					if time.Since(began) > goneWithin {
						t.Fatalf("still there after %v:\n%s", goneWithin, s.ip("a", "addr"))
					}
					time.Sleep(5 * time.Millisecond)
				}
				t.Logf("gone after %v", time.Since(began).Round(time.Millisecond))
				a.kill()
			}
		})
	}
}

func TestAddressIsNoSource(t *testing.T) {
	s := newSegment(t, "a", "c")
	for i, host := range []string{"a", "c"} { // as after a boot in which the node's own addresses come last
		s.ip(host, "route add default via 10.77.0."+strconv.Itoa(2-i))
		s.ip(host, "-6 route add default via fd77::"+strconv.Itoa(2-i))
	}
	s.ip("a", "addr del 10.77.0.1/24 dev eth0")
	s.ip("a", "addr del fd77::1/64 dev eth0")
	s.ip("a", "addr add 10.99.0.1/24 dev eth0")
	k := s.start("a", "node a")
	k.say("serve")
	eventually(t, "there is no subnet", func() bool { return strings.Contains(k.status()[0].Problem, "no subnet of this machine") })
	s.ip("a", "addr add 10.77.0.1/24 dev eth0")
	s.ip("a", "addr add fd77::1/64 dev eth0 nodad")
	eventually(t, "a holds both", func() bool { return s.has("a", vip4) && s.has("a", vip6) })
	s.ip("a", "addr del 10.99.0.1/24 dev eth0")
	s.ip("a", "addr del 10.77.0.1/24 dev eth0") // the virtual address is the first of the interface now
	s.ip("a", "addr add 10.77.0.1/24 dev eth0")
	s.ip("a", "route replace default via 10.77.0.2")
	s.ip("a", "-6 route replace default via fd77::2")
	s.ip("a", "route add 198.51.100.0/24 dev eth0")
	// 198.51.100.7 would have the first address, fd77::51 the nearest.
	for dst, want := range map[string]string{"198.51.100.7": "10.77.0.1", "fd77::51": "fd77::1", "10.77.0.2": "10.77.0.1", "8.8.8.8": "10.77.0.1", "fd77::2": "fd77::1", "2001:db8::1": "fd77::1"} {
		if got := s.ip("a", "route get "+dst); !strings.Contains(got, "src "+want+" ") {
			t.Errorf("to %s: %s", dst, got)
		}
	}
	if !s.has("a", vip4) || !s.has("a", vip6) {
		t.Error("it was not there all the time")
	}
}

func TestForeignHostKeepsTheAddress(t *testing.T) {
	s := newSegment(t, "a", "x")
	s.ip("x", "addr add 10.77.0.50/32 dev eth0")
	s.ip("x", "addr add fd77::50/128 dev eth0 nodad")
	a := s.start("a", "node a 02:00:00:00:00:0b")
	a.say("serve")
	eventually(t, "the foreign host is found", func() bool {
		return !slices.ContainsFunc(a.status(), func(st Status) bool { return st.ForeignMAC != s.mac("x") || st.Held })
	})
	time.Sleep(2 * time.Second)
	if s.has("a", vip4) || s.has("a", vip6) {
		t.Error("a has taken it")
	}
	s.ip("x", "addr del 10.77.0.50/32 dev eth0")
	s.ip("x", "addr del fd77::50/128 dev eth0")
	eventually(t, "a takes what is free", func() bool { return s.has("a", vip4) && s.has("a", vip6) })
	s.ip("x", "addr add 10.77.0.50/32 dev eth0")
	s.ip("x", "addr add fd77::50/128 dev eth0 nodad")
	eventually(t, "a foreign host is found while a holds", func() bool {
		return !slices.ContainsFunc(a.status(), func(st Status) bool { return st.ForeignMAC != s.mac("x") || !st.Held })
	})
}

func TestLinkThatComesBackTellsTheNeighbours(t *testing.T) {
	s := newSegment(t, "a", "c")
	a := s.start("a", "node a")
	s.serve("a", a)
	s.ip("a", "link set eth0 down")
	eventually(t, "the status says so", func() bool { return strings.Contains(a.status()[0].Problem, "eth0") })
	for _, v := range both {
		s.ip("c", "neigh replace "+v.String()+" lladdr 02:00:00:00:00:99 dev eth0 nud stale") // as a switch or a neighbour may remember
	}
	s.ip("a", "link set eth0 up")
	s.ip("a", "addr replace fd77::1/64 dev eth0 nodad") // the kernel has dropped it with the link
	eventually(t, "c has been told", func() bool { return s.neighbour("c", vip4) == s.mac("a") && s.neighbour("c", vip6) == s.mac("a") })
	eventually(t, "the status is well", func() bool {
		return !slices.ContainsFunc(a.status(), func(st Status) bool { return st.Problem != "" || !st.Held })
	})
}

func TestWithoutCapabilities(t *testing.T) {
	s := newSegment(t, "a")
	a := s.start("a", "node a", "setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw")
	a.say("serve")
	eventually(t, "the status says what to do", func() bool {
		p := a.status()[0].Problem
		return strings.Contains(p, "lacks CAP_NET_ADMIN CAP_NET_RAW") && strings.Contains(p, "AmbientCapabilities=")
	})
}

func TestWhatAnEarlierProcessLeft(t *testing.T) {
	s := newSegment(t, "a")
	s.ip("a", "addr add 10.77.0.50/32 dev eth0 valid_lft 2 preferred_lft 0")
	s.ip("a", "addr add fd77::50/128 dev eth0 nodad") // an operator's, for good
	a := s.start("a", "node a")
	eventually(t, "the operator's is reported", func() bool { return strings.Contains(a.status()[1].Problem, "not by kineshim") })
	if s.has("a", vip4) {
		t.Error("the stale one is there")
	}
	a.say("serve")
	eventually(t, "the other is taken", func() bool { return s.has("a", vip4) })
	time.Sleep(3 * time.Second)
	if !s.has("a", vip6) || a.status()[1].Held {
		t.Error("an operator's own address was touched")
	}
	if err := a.in.Close(); err != nil { // the helper ends
		t.Fatal(err)
	}
	eventually(t, "the end takes it away", func() bool { return !s.has("a", vip4) })
	if !s.has("a", vip6) {
		t.Error("an operator's own address was removed")
	}
}
