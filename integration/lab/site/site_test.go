package site

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newSite(t *testing.T, hosts ...string) *Site {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skipf("SKIPPED, NOTHING IS TESTED: %v", err)
	}
	s, err := New(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range sites() {
			if name == filepath.Base(s.dir) {
				t.Errorf("%s is left behind", name)
			}
		}
	})
	return s
}

// echo answers on a host what it is asked, until the test ends.
func echo(t *testing.T, s *Site, host string, port int) {
	t.Helper()
	var l net.Listener
	err := s.In(host, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", s.Address(host), port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// conn is an open connection that is asked whether it still works.
type conn struct {
	net.Conn
	answers *bufio.Reader
}

func dial(t *testing.T, s *Site, host, to string, port int) (*conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c, err := s.Dial(ctx, host, fmt.Sprintf("%s:%d", s.Address(to), port))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return &conn{c, bufio.NewReader(c)}, nil
}

func (c *conn) works() bool {
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return false
	}
	line, err := c.answers.ReadString('\n')
	return err == nil && line == "hello\n"
}

// settleWithin bounds the time that links and neighbour caches take to notice that a link is up.
const settleWithin = 5 * time.Second

func TestLinksAreCutAndHealed(t *testing.T) {
	s := newSite(t, "a", "b", "w")
	for _, h := range []string{"a", "b", "w"} {
		echo(t, s, h, 7)
		echo(t, s, h, 8)
	}
	reaches := func(from, to string, port int) bool {
		c, err := dial(t, s, from, to, port)
		return err == nil && c.works()
	}
	expect := func(what string, pairs map[string]bool) {
		t.Helper()
		deadline := time.Now().Add(settleWithin)
		for pair, want := range pairs {
			from, to, _ := strings.Cut(pair, ">")
			got := reaches(from, to, 7)
			for want && !got && time.Now().Before(deadline) { // a link that comes up takes its time, as cables do
				got = reaches(from, to, 7)
			}
			if got != want {
				t.Errorf("%s: %s reaches %s: %v", what, from, to, got)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]bool{"a>b": true, "b>a": true, "a>w": true, "w>a": true, "b>w": true, "w>b": true}
	expect("at first", all)
	must(s.Cut(Around("a", "a", "b", "w")...))
	expect("a cut off", map[string]bool{"a>b": false, "w>a": false, "b>w": true})
	must(s.Heal())
	expect("healed", all)
	must(s.Cut(Cut{From: "a", To: "b", Port: 7}))
	expect("a port", map[string]bool{"a>b": false, "b>a": true})
	if !reaches("a", "b", 8) {
		t.Error("another port is cut too")
	}
	must(s.Heal())
	must(s.SetInterface("a", false))
	expect("a's interface down", map[string]bool{"a>b": false, "b>a": false, "b>w": true})
	must(s.SetInterface("a", true))
	expect("and up", all)
	must(s.SetPorts(false))
	expect("switch off", map[string]bool{"a>b": false, "b>w": false, "w>a": false})
	must(s.SetPorts(true))
	expect("switch on", all)

	// One way: what is under way from a to b is lost, what b sends still comes.
	var sink net.PacketConn
	must(s.In("b", func() (err error) {
		sink, err = net.ListenPacket("udp", s.Address("b")+":9")
		return err
	}))
	defer sink.Close()
	arrives := func(from string) bool {
		var c net.Conn
		must(s.In(from, func() (err error) {
			c, err = net.Dial("udp", s.Address("b")+":9")
			return err
		}))
		defer c.Close()
		_, _ = c.Write([]byte("x")) // whether it gets there is the question
		_ = sink.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _, err := sink.ReadFrom(make([]byte, 1))
		return err == nil
	}
	must(s.Cut(Cut{From: "a", To: "b"}))
	if arrives("a") || !arrives("w") {
		t.Error("the one-way cut is not one")
	}

	must(s.SetCuts(Cut{From: "a", To: "b", Percent: 30}))
	got := 0
	for range lossTries {
		if arrives("a") {
			got++
		}
	}
	if got < lossTries/2 || got > lossTries*9/10 { // 0.7 of them, and four standard deviations
		t.Errorf("of %d packets %d arrived, though 30 of 100 are dropped", lossTries, got)
	}
}

// lossTries is how many packets are sent over a link that loses some of them.
const lossTries = 80

func TestDisksAreFilledAndBroken(t *testing.T) {
	s := newSite(t, "a")
	const size = 64 << 20
	for name, breakIt := range map[string]func(*Disk) error{"ro": (*Disk).ReadOnly, "eio": (*Disk).Break} {
		d, err := s.AddDisk(name, size)
		if err != nil {
			t.Fatal(err)
		}
		write := func(file string) error {
			f, err := os.Create(filepath.Join(d.Path, file))
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
			return f.Sync()
		}
		if err := write("before"); err != nil {
			t.Fatal(err)
		}
		if err := d.Fill(100 << 10); err != nil {
			t.Fatal(err)
		}
		if err := write("full"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: full: %v", name, err)
		}
		if err := d.Empty(); err != nil {
			t.Fatal(err)
		}
		held, err := os.OpenFile(filepath.Join(d.Path, "before"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := breakIt(d); err != nil {
			t.Fatal(err)
		}
		_, err = held.WriteAt([]byte("x"), 0)
		if err = errors.Join(err, held.Sync()); !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: an open file takes writes: %v", name, err)
		}
		held.Close()
		if err := write("broken"); err == nil {
			t.Errorf("%s: a new file takes writes", name)
		}
		if err := d.Repair(); err != nil {
			t.Fatal(err)
		}
		if err := write("after"); err != nil {
			t.Errorf("%s: repaired: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(d.Path, "before")); err != nil {
			t.Errorf("%s: repaired: %v", name, err)
		}
	}
}

// A file system that somebody's mount namespace still holds does not go away with umount, and a broken one stays broken.
func TestDiskIsRemountedThoughAnotherNamespaceHoldsIt(t *testing.T) {
	s := newSite(t, "a")
	d, err := s.AddDisk("disk", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sleep", "100")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // it was killed
	}()
	for end := time.Now().Add(settleWithin); ; time.Sleep(10 * time.Millisecond) {
		own, err1 := os.Readlink("/proc/self/ns/mnt")
		its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", holder.Process.Pid))
		if err1 == nil && err2 == nil && own != its {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no other namespace")
		}
	}
	if err := os.WriteFile(filepath.Join(d.Path, "before"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sync", "-f", d.Path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := errors.Join(d.Break(), d.Remount()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path, "after"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(d.Path, "before")); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// childEnv is set in the process that TestSweepRemovesWhatTheKilledLeave starts and kills.
const childEnv = "KINESHIM_SITE_TEST_CHILD"

func TestSweepRemovesWhatTheKilledLeave(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		leave(t)
		return
	}
	if err := Supported(); err != nil {
		t.Skipf("SKIPPED, NOTHING IS TESTED: %v", err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestSweepRemovesWhatTheKilledLeave$")
	child.Env = append(os.Environ(), childEnv+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		t.Log(lines.Text())
	}
	if _, err := Sweep(); err != nil { // of one that lives, nothing is removed
		t.Error(err)
	}
	before := Traces(pid)
	if joined := strings.Join(before, "\n"); !strings.Contains(joined, "mount") || !strings.Contains(joined, "process") || !strings.Contains(joined, "site") {
		t.Errorf("the child made only %v", before)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	if len(Traces(pid)) == 0 {
		t.Error("the killed one has left nothing, so that nothing is tested")
	}
	if _, err := Sweep(); err != nil {
		t.Error(err)
	}
	if left := Traces(pid); len(left) > 0 {
		t.Errorf("left after the sweep: %v", left)
	}
}

// leave makes a site with a disk and a process that outlives this one, and waits to be killed.
func leave(t *testing.T) {
	s, err := New("a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddDisk("disk", 32<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.In("a", func() error { return exec.Command("sleep", "1000").Start() }); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
}

func TestNamesTellTheirOwner(t *testing.T) {
	me, err := self()
	if err != nil {
		t.Fatal(err)
	}
	if o, rest, ok := ownerOf(me.String() + "-123"); !ok || o != me || rest != "123" || !o.alive() {
		t.Errorf("%v, %q, %v", o, rest, ok)
	}
	if (owner{me.pid, me.started + 1}).alive() {
		t.Error("another process with the same PID passes for the owner")
	}
	for _, name := range []string{"", prefix, prefix + "-1", prefix + "-1-2", prefix + "-x-2-3", "other-1-2-3", prefix + "-0-2-3"} {
		if _, _, ok := ownerOf(name); ok {
			t.Errorf("%q passes for a site", name)
		}
	}
}
