package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const orphanEnv = "KINESHIM_TEST_ORPHAN"

// runOrphanParent is the test binary's other life: it starts PostgreSQL in the directory that the environment names, at the
// ports that it names, says so, and waits to be killed.
func runOrphanParent() {
	var dir string
	var port int
	if _, err := fmt.Sscan(os.Getenv(orphanEnv), &port, &dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	cfg := testConfig(dir, port, 1)
	cfg.Secrets = Secrets{os.Getenv("S1"), os.Getenv("S2"), os.Getenv("S3")}
	s, err := New(cfg)
	if err == nil {
		err = s.Start(context.Background(), nil)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

// startOrphanParent starts a process that starts the node's PostgreSQL.
func startOrphanParent(t *testing.T, n *node) *exec.Cmd {
	t.Helper()
	check(t, "disown", n.disown())
	cmd := exec.Command(os.Args[0])
	s := testSecrets
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", orphanEnv, n.cfg.Port, n.dir), "S1="+s.Superuser, "S2="+s.Replication, "S3="+s.Kine)
	out, err := cmd.StdoutPipe()
	check(t, "pipe", err)
	check(t, "start", cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "started\n" {
		t.Fatalf("the process said %q: %v", line, err)
	}
	return cmd
}

func (n *node) mustProcesses() []process {
	n.t.Helper()
	found, err := n.processes()
	check(n.t, "processes", err)
	return found
}

func TestPostgreSQLDiesWithItsParent(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	parent := startOrphanParent(t, a)
	if found := a.mustProcesses(); len(found) < 3 || found[0].ppid != parent.Process.Pid {
		t.Fatalf("processes: %+v", found)
	}
	check(t, "kill", parent.Process.Kill())
	eventually(t, within(t, 5*time.Second), "PostgreSQL's end", func() bool { return len(a.mustProcesses()) == 0 })
}

// A frozen postmaster outlives its parent; the next start must make an end of it.
func TestStartEndsWhatADeadParentLeft(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	parent := startOrphanParent(t, a)
	old := a.mustProcesses()
	for _, p := range old {
		freezeProcess(t, p.pid)
	}
	check(t, "kill", parent.Process.Kill())
	parent.Wait()
	if found := a.mustProcesses(); len(found) != len(old) {
		t.Fatalf("%d of %d processes are left: the test shows nothing", len(found), len(old))
	}
	check(t, "start", a.Start(ctx, nil))
	for _, p := range a.mustProcesses() {
		for _, o := range old {
			if p.pid == o.pid {
				t.Errorf("process %d is still there", p.pid)
			}
		}
	}
	if !a.observe(ctx).InRecovery {
		t.Error("not a standby")
	}
}

func TestStopImmediateEndsAFrozenPostmaster(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	check(t, "start", a.Start(ctx, nil))
	exited := a.Exited()
	freezeProcess(t, a.child.Load().pid)
	began := time.Now()
	check(t, "stop", a.StopImmediate(ctx))
	if took := time.Since(began); took > quitWithin+3*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if found := a.mustProcesses(); len(found) != 0 {
		t.Errorf("processes are left: %+v", found)
	}
	select {
	case <-exited:
	default:
		t.Error("Exited is open")
	}
	check(t, "stop again", a.StopImmediate(ctx))
	check(t, "start again", a.Start(ctx, nil))
	check(t, "stop fast", a.StopFast(ctx))
	d, err := a.Inspect(ctx)
	check(t, "inspect", err)
	if d.ControlState != "shut down in recovery" {
		t.Errorf("after a fast stop: %q", d.ControlState)
	}
}

func TestAPostmasterThatDiesIsNoticed(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	if a.Exited() != nil {
		t.Error("Exited before the first start is not nil")
	}
	a.startPrimary(ctx, 1)
	sentinel, err := a.OpenSentinel(ctx)
	check(t, "sentinel", err)
	defer sentinel.Close()
	check(t, "kill", syscall.Kill(a.child.Load().pid, syscall.SIGKILL))
	for name, c := range map[string]<-chan struct{}{"Exited": a.Exited(), "SoloLost": a.SoloLost(), "Sentinel": sentinel.Closed()} {
		select {
		case <-c:
		case <-ctx.Done():
			t.Fatalf("%s stays open", name)
		}
	}
	if a.Running() || a.SoloConnected() || sentinel.Alive() {
		t.Errorf("running %v, solo %v, sentinel %v", a.Running(), a.SoloConnected(), sentinel.Alive())
	}
	if _, err := a.Observe(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("observe: %v", err)
	}
	check(t, "start", a.Start(ctx, nil))
	if !a.observe(ctx).InRecovery {
		t.Error("it came back as a primary")
	}
}

func TestAStartThatCannotSucceedLeavesNothingBehind(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1, func(c *Config) { c.Settings = map[string]string{"shared_buffers": "nonsense"} }).withData(ctx)
	err := a.Start(ctx, nil)
	if err == nil || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("start: %v, want PostgreSQL's own words", err)
	}
	if a.Running() || len(a.mustProcesses()) != 0 {
		t.Error("something runs")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := a.Start(cancelled, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("start: %v", err)
	}
}

func TestProbeFindsAFrozenPostmaster(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	check(t, "start", a.Start(ctx, nil))
	if err := a.Probe(ctx); !errors.Is(err, ErrNotPrimary) {
		t.Errorf("probe of a standby: %v", err)
	}
	a.lead(ctx, 1)
	check(t, "disconnect solo", a.DisconnectSolo(ctx))
	check(t, "probe while commits wait", a.Probe(ctx))
	thaw := freezeProcess(t, a.child.Load().pid)
	if err := a.Probe(within(t, 300*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("probe of a frozen postmaster: %v", err)
	}
	thaw()
	check(t, "probe", a.Probe(ctx))
	if got := a.value(ctx, `SELECT n FROM kineshim.probe`); got != "2" {
		t.Errorf("%s writes, want 2", got)
	}
}

// Two kineshims with one configuration would end each other's PostgreSQL.
func TestASecondServerIsRefused(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	check(t, "start", a.Start(ctx, nil))
	second, err := New(a.cfg)
	check(t, "new", err)
	for name, err := range map[string]error{
		"start": second.Start(ctx, nil), "stop": second.StopImmediate(ctx), "initdb": second.InitDB(ctx),
		"clone": second.Clone(ctx, nil), "rewind": second.Rewind(ctx, nil),
	} {
		if !errors.Is(err, ErrInUse) && !errors.Is(err, ErrExists) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !a.Running() || !a.observe(ctx).InRecovery {
		t.Error("the first one's PostgreSQL does not run any more")
	}
	check(t, "close", a.Close(ctx))
	check(t, "start of the second", second.Start(ctx, nil))
	check(t, "close", second.Close(ctx))
}
