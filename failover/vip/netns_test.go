package vip

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kineshim/integration/pulse"
)

// segmentNet is an Ethernet of network namespaces on a bridge.
type segmentNet struct {
	t *testing.T
	// name begins the names of all namespaces: this process's own.
	name string
	// pulse is this machine's.
	pulse pulse.Pulse
}

var segments struct {
	sync.Mutex
	n int
}

// newSegment makes one namespace for the bridge and one for each host, with the addresses 10.77.0.N/24 and fd77::N/64, in order.
func newSegment(t *testing.T, hosts ...string) *segmentNet {
	t.Helper()
	if testing.Short() {
		t.Skip("needs network namespaces")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
	segments.Lock()
	segments.n++
	s := &segmentNet{t: t, name: fmt.Sprintf("kv%d-%d", os.Getpid(), segments.n)}
	segments.Unlock()
	go s.pulse.Run(t.Context())
	t.Cleanup(func() {
		for _, h := range append(hosts, "sw") {
			_ = exec.Command("ip", "netns", "del", s.ns(h)).Run() // it may never have been made
		}
	})
	if out, err := exec.Command("ip", "netns", "add", s.ns("sw")).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no network namespaces here: %v %s", err, out)
	}
	s.ip("sw", "link add br0 type bridge forward_delay 0")
	s.ip("sw", "link set br0 up")
	for i, h := range hosts {
		s.run("ip", "netns", "add", s.ns(h))
		s.ip("sw", fmt.Sprintf("link add p%d type veth peer name eth0 netns %s", i, s.ns(h)))
		s.ip("sw", fmt.Sprintf("link set p%d master br0 up", i))
		s.ip(h, "link set lo up")
		s.ip(h, "link set eth0 up")
		s.ip(h, fmt.Sprintf("addr add 10.77.0.%d/24 dev eth0", i+1))
		s.ip(h, fmt.Sprintf("addr add fd77::%d/64 dev eth0 nodad", i+1))
	}
	return s
}

func (s *segmentNet) ns(host string) string { return s.name + "-" + host }

func (s *segmentNet) run(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ip runs ip in the host's namespace.
func (s *segmentNet) ip(host, args string) string {
	s.t.Helper()
	return s.run("ip", append([]string{"-n", s.ns(host)}, strings.Fields(args)...)...)
}

func (s *segmentNet) mac(host string) string {
	s.t.Helper()
	fields := strings.Fields(s.ip(host, "-br link show eth0"))
	return fields[2]
}

// has says whether the host's kernel has the address.
func (s *segmentNet) has(host string, addr netip.Addr) bool {
	s.t.Helper()
	return strings.Contains(s.ip(host, "-o addr"), " "+addr.String()+"/")
}

// neighbour is the hardware address that the host knows for an address; "" none.
func (s *segmentNet) neighbour(host string, addr netip.Addr) string {
	s.t.Helper()
	fields := strings.Fields(s.ip(host, "neigh show "+addr.String()))
	for i, f := range fields {
		if f == "lladdr" {
			return fields[i+1]
		}
	}
	return ""
}

// helperEnv makes the test binary a helper: what it says is the helper's mode.
const helperEnv = "KINESHIM_VIP_TEST_HELPER"

func TestMain(m *testing.M) {
	switch mode, arg, _ := strings.Cut(os.Getenv(helperEnv), " "); mode {
	case "":
		os.Exit(m.Run())
	case "node":
		nodeHelper(arg)
	case "client":
		clientHelper(arg)
	case "cleanup":
		cleanUpHelper(arg)
	}
}

// helper is this program in a host's namespace.
type helper struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	reap  sync.Once
}

// kill ends the process and waits for it.
func (h *helper) kill() {
	h.reap.Do(func() {
		_ = h.cmd.Process.Kill() // it may have ended
		go func() {              // the reader may be waiting for room
			for range h.lines {
			}
		}()
		_ = h.cmd.Wait() // killed
	})
}

func (s *segmentNet) start(host, mode string, wrap ...string) *helper {
	s.t.Helper()
	args := append(append([]string{"netns", "exec", s.ns(host)}, wrap...), os.Args[0])
	h := &helper{t: s.t, cmd: exec.Command("ip", args...), lines: make(chan string, 1000)}
	h.cmd.Env = append(os.Environ(), helperEnv+"="+mode)
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	h.cmd.Stderr = os.Stderr
	in, err := h.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	h.in = in
	if err := h.cmd.Start(); err != nil { // ip execs: the process is the helper itself
		s.t.Fatal(err)
	}
	go func() { // ends with the process
		defer close(h.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			h.lines <- sc.Text()
		}
	}()
	s.t.Cleanup(h.kill)
	return h
}

func (h *helper) say(line string) {
	h.t.Helper()
	if _, err := io.WriteString(h.in, line+"\n"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *helper) signal(sig syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(sig); err != nil {
		h.t.Fatal(err)
	}
}

// status asks a node helper.
func (h *helper) status() []Status {
	h.t.Helper()
	h.say("status")
	select {
	case line := <-h.lines:
		var st []Status
		if err := json.Unmarshal([]byte(line), &st); err != nil {
			h.t.Fatalf("%v: %q", err, line)
		}
		return st
	case <-time.After(20 * time.Second):
		h.t.Fatal("no status")
		return nil
	}
}

const (
	nodePort = 7777
	// answerWithin is how long the client waits for one answer.
	answerWithin = 50 * time.Millisecond
)

// clientHelper asks the node behind each of the addresses which one it is, again and again, on a connection that it makes anew when that is
// lost. It prints "address node microseconds" for each answer.
func clientHelper(arg string) {
	var out sync.Mutex
	for _, a := range strings.Split(arg, ",") {
		go func() {
			var conn net.Conn
			buf := make([]byte, 16)
			for ; ; time.Sleep(10 * time.Millisecond) {
				if conn == nil {
					var err error
					if conn, err = net.DialTimeout("tcp", net.JoinHostPort(a, fmt.Sprint(nodePort)), answerWithin); err != nil {
						conn = nil
						continue
					}
				}
				_ = conn.SetDeadline(time.Now().Add(answerWithin))
				_, werr := conn.Write([]byte{'?'})
				n, err := conn.Read(buf)
				if werr != nil || err != nil {
					conn.Close()
					conn = nil
					continue
				}
				out.Lock()
				fmt.Println(a, string(buf[:n]), time.Now().UnixMicro())
				out.Unlock()
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
}
