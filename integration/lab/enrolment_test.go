package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kineshim/integration/lab/site"
)

// newcomers are three hosts on which nothing is configured.
type newcomers struct {
	t   *testing.T
	s   *site.Site
	bin string
	// stop ends a host's daemon.
	stop map[string]func()
}

func newNewcomers(t *testing.T) *newcomers {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	if err := site.Supported(); err != nil {
		t.Skipf("SKIPPED, NO MACHINE IS ENROLLED ON A HOST OF ITS OWN: %v", err)
	}
	binaries := build(t)
	s, err := site.New("a", "b", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &newcomers{t, s, filepath.Dir(binaries.Kineshim), map[string]func(){}}
}

// shell is a command as an operator types it, with the flags that say where this host's files are.
func (n *newcomers) shell(host, line string) *exec.Cmd {
	flags := ""
	if strings.Contains(line, "join") || strings.Contains(line, "init") {
		flags = fmt.Sprintf(" --name %s --config %s --data-dir %s", host, n.config(host), n.data(host))
	}
	cmd := exec.Command("sh", "-c", "exec 2>&1; "+line+flags)
	cmd.Env = append(os.Environ(), "PATH="+n.bin+":"+os.Getenv("PATH"), "KINESHIM_SOCKET="+filepath.Join(n.data(host), "control.sock"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (n *newcomers) config(host string) string { return filepath.Join(n.s.Dir(), host+".yaml") }
func (n *newcomers) data(host string) string   { return filepath.Join(n.s.Dir(), host, "data") }

// types runs a command to its end.
func (n *newcomers) types(host, line string) (string, error) {
	n.t.Helper()
	cmd := n.shell(host, line)
	var out []byte
	err := n.s.In(host, func() (err error) {
		out, err = cmd.Output()
		return err
	})
	return string(out), err
}

// begins starts a command, with what it prints in a buffer that may be read when it has ended.
func (n *newcomers) begins(host, line string) (*exec.Cmd, *output) {
	n.t.Helper()
	cmd, out := n.shell(host, line), &output{}
	cmd.Stdout = out
	if err := n.s.In(host, cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	return cmd, out
}

// output is what a command has printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// daemons are what runs on each host.
var daemons = map[string]string{"a": "kineshim", "b": "kineshim", "w": "raftwitness"}

// runs starts the host's daemon, which is ended with the test, or before.
func (n *newcomers) runs(host string) {
	n.t.Helper()
	cmd, out := n.begins(host, daemons[host]+" --config "+n.config(host))
	end := sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	})
	n.stop[host] = end
	n.t.Cleanup(func() {
		end()
		if n.t.Failed() {
			n.t.Logf("%s:\n%s", host, out)
		}
	})
}

var printedCommand = regexp.MustCompile(`(?m)^ +(echo kj1\S+ \| (kineshim|raftwitness) join)$`)

// Three machines are enrolled by what init prints, and by nothing else; the second join is killed on the way.
func TestMachinesAreEnrolledByThePrintedCommands(t *testing.T) {
	n := newNewcomers(t)
	out, err := n.types("a", "kineshim init --advertise "+n.s.Address("a")+" --vip 10.77.0.50/24")
	if err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	printed := map[string]string{}
	for _, m := range printedCommand.FindAllStringSubmatch(out, -1) {
		printed[m[2]] = m[1]
	}
	if len(printed) != 2 {
		t.Fatalf("init printed\n%s", out)
	}
	n.runs("a")

	first, said := n.begins("b", printed["kineshim"])
	n.sees("a", "b, the other data node, at "+n.s.Address("b"))
	const waits = "waiting until the witness has joined too"
	for deadline := time.Now().Add(seenWithin); !strings.Contains(said.String(), waits) && time.Now().Before(deadline); { // it is answered after that can be seen
		time.Sleep(20 * time.Millisecond)
	}
	if err := syscall.Kill(-first.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if !strings.Contains(said.String(), waits) {
		t.Errorf("the join that was killed had said\n%s", said)
	}
	if out, err := n.types("w", printed["kineshim"]); err == nil || !strings.Contains(out, "used already, by b") {
		t.Errorf("the token of another machine: %v\n%s", err, out)
	}
	witness, witnessSaid := n.begins("w", printed["raftwitness"])
	if out, err := n.types("b", printed["kineshim"]); err != nil || !strings.Contains(out, "joined cluster") {
		t.Fatalf("join: %v\n%s", err, out)
	}
	if err := witness.Wait(); err != nil || !strings.Contains(witnessSaid.String(), "joined cluster") {
		t.Fatalf("the witness's join: %v\n%s", err, witnessSaid)
	}
	n.runs("w")
	n.runs("b")
	n.isArmed()
	if out, err := n.s.Run("a", "", "ip", "address"); err != nil || !strings.Contains(out, "10.77.0.50") {
		t.Errorf("the primary has not the virtual address: %v\n%s", err, out)
	}
	if out, err := n.types("b", printed["kineshim"]); err != nil || !strings.Contains(out, "already") {
		t.Errorf("join, when all is done: %v\n%s", err, out)
	}
	if out, err := n.types("a", "kineshim init"); err == nil || !strings.Contains(out, "belongs to cluster") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("init, when all is done: %v\n%s", err, out)
	}
	n.movesHouse()
}

// movesHouse gives all three hosts other addresses, as docs/operations.md says.
func (n *newcomers) movesHouse() {
	n.t.Helper()
	var members strings.Builder
	members.WriteString("members:\n")
	for i, host := range []string{"a", "b", "w"} {
		n.stop[host]()
		moved := fmt.Sprintf("10.78.0.%d", i+1)
		for _, change := range [][]string{{"del", n.s.Address(host) + "/24"}, {"add", moved + "/24"}} {
			if _, err := n.s.Run(host, "", "ip", "address", change[0], change[1], "dev", site.Interface); err != nil {
				n.t.Fatal(err)
			}
		}
		fmt.Fprintf(&members, "  %s: {raft: %s:2384", host, moved)
		if host != "w" {
			fmt.Fprintf(&members, ", peer: %s:2383, postgres: %s:5433", moved, moved)
		}
		members.WriteString("}\n")
	}
	for _, host := range []string{"a", "b"} {
		text, err := os.ReadFile(n.config(host))
		if err == nil {
			err = os.WriteFile(n.config(host), []byte(strings.ReplaceAll(string(text), "10.77.0.50", "10.78.0.50")+members.String()), 0o600)
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
	for host := range daemons {
		n.runs(host)
	}
	n.isArmed()
	out := filepath.Join(n.s.Dir(), "w.json")
	if _, err := n.types("a", "shimctl witness replace --yes --out "+out); err != nil { // on the primary
		if said, err := n.types("b", "shimctl witness replace --yes --out "+out); err != nil {
			n.t.Fatalf("%v\n%s", err, said)
		}
	}
	if said, err := n.types("w", "raftwitness join "+out); err != nil {
		n.t.Fatalf("%v\n%s", err, said)
	}
	n.stop["w"]()
	n.runs("w")
	n.isArmed()
	text, err := n.s.Run("w", "", "cat", out)
	if err != nil || strings.Contains(text, "10.77.0") || !strings.Contains(text, "10.78.0.2:2384") {
		n.t.Errorf("the witness knows %s, %v", text, err)
	}
}

// seenWithin bounds how long it may take until an operator sees that somebody has joined.
const seenWithin = 20 * time.Second

// sees waits until shimctl says something on a host, whether it calls that a success or not.
func (n *newcomers) sees(host, words string) {
	n.t.Helper()
	for deadline := time.Now().Add(seenWithin); ; time.Sleep(200 * time.Millisecond) {
		out, _ := n.types(host, "shimctl status")
		if strings.Contains(out, words) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("shimctl status on %s does not say %q, but\n%s", host, words, out)
		}
	}
}

// armedAtMost bounds the founding of the cluster: a database is made and cloned.
const armedAtMost = 90 * time.Second

// isArmed waits until an operator sees on both nodes that failover is armed.
func (n *newcomers) isArmed() {
	n.t.Helper()
	for deadline := time.Now().Add(armedAtMost); ; time.Sleep(time.Second) {
		a, errA := n.types("a", "shimctl status")
		b, errB := n.types("b", "shimctl status")
		if errA == nil && errB == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("not armed after %s:\n%s\n%s", armedAtMost, a, b)
		}
	}
}
