package raftwitness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kineshim/deathwatch"
)

// childEnv makes the test binary a voter in a process of its own, which can be killed, frozen and measured.
const childEnv = "RAFTWITNESS_TEST_CHILD"

// deathwatchEnv makes it such a process's deathwatch.
const deathwatchEnv = "RAFTWITNESS_TEST_DEATHWATCH"

func TestMain(m *testing.M) {
	if os.Getenv(deathwatchEnv) != "" {
		if err := deathwatch.Sit(departureMessage); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if b := os.Getenv(childEnv); b != "" {
		if err := runChild([]byte(b)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type childConfig struct {
	Dir      string
	Identity Identity
	// Watched: the child has a deathwatch.
	Watched bool
}

// departureMessage is what the deathwatch of a child has to say. The orders are the child's identity.
func departureMessage(orders json.RawMessage) (deathwatch.Message, error) {
	var id Identity
	if err := json.Unmarshal(orders, &id); err != nil {
		return deathwatch.Message{}, err
	}
	return deathwatch.Message{
		First: "w", Second: other(id.Name), Log: testLog(id.Name + "'s deathwatch"),
		Tell: func(ctx context.Context, whom string, term uint64) error {
			to, _ := id.PeerByName(whom)
			return Depart(ctx, nil, id, to, term)
		},
	}, nil
}

// runChild is a voter on the listener that the parent has handed down. It prints the time, on the clock of the leases, of each
// look at which it had a lease. It ends with the parent.
func runChild(b []byte) error {
	var cfg childConfig
	if err := json.Unmarshal(b, &cfg); err != nil {
		return err
	}
	ln, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	l := NewListener(ln, testLog(cfg.Identity.Name))
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	nc := Config{Dir: cfg.Dir, Identity: cfg.Identity, Listener: l, Log: testLog(cfg.Identity.Name)}
	if cfg.Watched {
		w := deathwatch.New(deathwatch.Config{Env: []string{deathwatchEnv + "=1"}, Orders: cfg.Identity, Log: nc.Log})
		nc.OnLead = w.Leads
		released := make(chan error, 1)
		go func() { released <- w.Run(ctx) }()
		defer func() { cancel(); <-released }()
	}
	n, err := Open(nc)
	if err != nil {
		return err
	}
	go func() {
		bufio.NewReader(os.Stdin).ReadByte() // the parent has closed it, or is gone
		cancel()
	}()
	go func() {
		for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
			at := bootTime() // before the look: the process may be frozen after it
			if n.LeaseLeft() > 0 {
				fmt.Println(int64(at))
			}
		}
	}()
	return n.Run(ctx)
}

// child is a voter of a test cluster in a process of its own.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu     sync.Mutex // guards leases
	leases []time.Duration
}

// startChild starts the named voter of the cluster as a child process, without any cutting of its links, perhaps with a deathwatch.
func (c *testCluster) startChild(name string, watched bool) *child {
	t := c.t
	t.Helper()
	n := c.nodes[name]
	f, err := n.cfg.Listener.ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	n.cfg.Listener.Close() // the child has its own descriptor of the port
	b, err := json.Marshal(childConfig{n.cfg.Dir, n.cfg.Identity, watched})
	if err != nil {
		t.Fatal(err)
	}
	ch := &child{cmd: exec.Command(os.Args[0]), done: make(chan struct{})}
	ch.cmd.Env = append(os.Environ(), childEnv+"="+string(b))
	ch.cmd.ExtraFiles, ch.cmd.Stderr = []*os.File{f}, os.Stderr
	ch.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := ch.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := ch.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	go func() {
		defer close(ch.done)
		for s := bufio.NewScanner(out); s.Scan(); {
			if at, err := strconv.ParseInt(strings.TrimSpace(s.Text()), 10, 64); err == nil {
				ch.mu.Lock()
				ch.leases = append(ch.leases, time.Duration(at))
				ch.mu.Unlock()
			}
		}
		ch.cmd.Wait()
	}()
	t.Cleanup(func() {
		stdin.Close()
		ch.cmd.Process.Kill()
		<-ch.done
	})
	return ch
}

func (ch *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := ch.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// leasesSince lists the looks, from the given time on, at which the child had a lease.
func (ch *child) leasesSince(at time.Duration) []time.Duration {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	i := len(ch.leases)
	for i > 0 && ch.leases[i-1] >= at {
		i--
	}
	return append([]time.Duration(nil), ch.leases[i:]...)
}
