package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeHost is a machine with one link. It writes down what is done to it, as an operator would type it.
type fakeHost struct {
	mu   sync.Mutex // guards the fields below
	done []string
	all  []Interface
	// looked is how often all was asked for.
	looked int
	// fail is the error for what begins with a text.
	fail map[string]error
	able error
	// leases are the addresses that were put, until when.
	leases map[netip.Addr]time.Time
	// owner answers probes for the address; "": nobody.
	owner  string
	heard  func(Claim)
	links  func(Link)
	broken bool
	// after runs at the end of Put.
	after func()
}

var hostMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}

const peerMAC, strangerMAC = "02:00:00:00:00:0b", "02:00:00:00:00:66"

func newFakeHost(addrs ...string) *fakeHost {
	i := Interface{Name: "eth0", Index: 2, MAC: hostMAC, Up: true}
	for _, a := range addrs {
		i.Addresses = append(i.Addresses, HostAddress{Prefix: netip.MustParsePrefix(a)})
	}
	lo := Interface{Name: "lo", Index: 1, Up: true, Loopback: true, Addresses: []HostAddress{{Prefix: netip.MustParsePrefix("127.0.0.1/8")}}}
	return &fakeHost{all: []Interface{lo, i}, leases: map[netip.Addr]time.Time{}, fail: map[string]error{}}
}

func (h *fakeHost) do(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, line)
	for text, err := range h.fail {
		if strings.HasPrefix(line, text) {
			return err
		}
	}
	return nil
}

func (h *fakeHost) Able() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.able
}

func (h *fakeHost) Interfaces() ([]Interface, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked++
	return h.all, nil
}

// looks is how often the interfaces were looked at.
func (h *fakeHost) looks() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.looked
}

func (h *fakeHost) Put(p Place) error {
	if err := h.do("ip addr replace %s dev %s valid_lft %v", p.Address, p.Interface, leaseFor.Seconds()); err != nil {
		return err
	}
	h.mu.Lock()
	h.leases[p.Address.Addr()] = time.Now().Add(leaseFor)
	after := h.after
	h.mu.Unlock()
	if after != nil {
		after()
	}
	return nil
}

func (h *fakeHost) Remove(p Place) error {
	if !p.Address.IsValid() {
		return errors.New("numerical result out of range") // the kernel's answer
	}
	if err := h.do("ip addr del %s dev %s", p.Address, p.Interface); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.leases, p.Address.Addr())
	h.mu.Unlock()
	return nil
}

// has says whether the kernel would still have the address.
func (h *fakeHost) has(addr string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.leases[netip.MustParseAddr(addr)])
}

func (h *fakeHost) Open(p Place, heard func(Claim)) (Segment, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard, h.broken = heard, false
	return &fakeSegment{h, p}, nil
}

func (h *fakeHost) Links(ctx context.Context, changed func(Link)) error {
	h.mu.Lock()
	h.links = changed
	h.mu.Unlock()
	<-ctx.Done()
	return nil
}

type fakeSegment struct {
	host  *fakeHost
	place Place
}

func (s *fakeSegment) Probe() error {
	err := s.host.do("arping -D %s", s.place.Address.Addr())
	s.host.mu.Lock()
	owner, heard := s.host.owner, s.host.heard
	s.host.mu.Unlock()
	if owner != "" {
		heard(Claim{s.place.Address.Addr(), owner})
	}
	return err
}

func (s *fakeSegment) Announce() error { return s.host.do("arping -U %s", s.place.Address.Addr()) }
func (s *fakeSegment) Close() error    { return nil }

func (s *fakeSegment) Broken() bool {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	return s.host.broken
}

// log returns what has been done since the last call, with repeats counted.
func (h *fakeHost) log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	n := 1
	for i, line := range h.done {
		if i+1 < len(h.done) && h.done[i+1] == line {
			n++
			continue
		}
		if n > 1 {
			line = fmt.Sprintf("%d × %s", n, line)
		}
		out, n = append(out, line), 1
	}
	h.done = nil
	return out
}

func (h *fakeHost) count(prefix string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, line := range h.done {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (h *fakeHost) set(f func(*fakeHost)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

// fakeRole is a gate that the test opens and closes.
type fakeRole struct {
	epoch   atomic.Uint64 // 0: closed
	changed chan struct{}
}

func (r *fakeRole) Holds() (uint64, bool) {
	e := r.epoch.Load()
	return e, e != 0
}

func (r *fakeRole) Changed() <-chan struct{} { return r.changed }

func (r *fakeRole) set(epoch uint64) {
	r.epoch.Store(epoch)
	offer(r.changed, struct{}{})
}

const testVIP = "192.0.2.50"

// rig is a running Runner on a fake host, in a bubble with a clock of its own.
type rig struct {
	*Runner
	host *fakeHost
	role *fakeRole
	stop func()
}

func inBubble(t *testing.T, f func(t *testing.T, r *rig), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		host := newFakeHost("192.0.2.10/24", "2001:db8::10/64")
		r := &rig{host: host, role: &fakeRole{changed: make(chan struct{}, 1)}}
		cfg := Config{
			VIPs: []VIP{{Address: netip.MustParsePrefix(testVIP + "/32")}}, Node: "a", Cluster: "c-1", Role: r.role, Host: host,
			PeerMACs: func(netip.Addr) []string { return []string{peerMAC} }, Log: slog.New(slog.DiscardHandler),
		}
		for _, c := range change {
			c(&cfg)
		}
		var err error
		if r.Runner, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = r.Run(ctx) // always nil
		}()
		r.stop = func() { cancel(); <-ended }
		defer r.stop()
		r.after(time.Second)
		f(t, r)
	})
}

// after lets time pass.
func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var errBroken = errors.New("broken by the test")
