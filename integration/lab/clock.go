package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"kineshim/integration/cluster"
)

// The wall clocks of the processes under test, and no others, are faked in two ways: PostgreSQL's by libfaketime, and those of kineshim and
// raftwitness, which are static and cannot be reached from outside, by building them from the same source with a time.Now whose wall clock, and
// nothing else, is shifted by what stands in a file.

// clockEnv names the file with the shift, in seconds, of a Go program that was built so.
const clockEnv = "KINESHIM_LAB_CLOCK"

// skewSource is added to Go's package time. Now itself must make no system call: the runtime calls it where none is allowed.
const skewSource = `package time

import (
	"sync/atomic"
	"syscall"
)

// labShift is by how many seconds the wall clock is shifted.
var labShift atomic.Int64

func init() {
	if path, ok := syscall.Getenv("` + clockEnv + `"); ok {
		go func() {
			for {
				labLook(path)
				Sleep(20 * Millisecond)
			}
		}()
	}
}

func labLook(path string) {
	fd, err := open(path)
	if err != nil {
		return
	}
	defer closefd(fd)
	var buf [16]byte
	n, err := read(fd, buf[:])
	if err != nil || n == 0 {
		return
	}
	shift, sign := int64(0), int64(1)
	for _, c := range buf[:n] {
		switch {
		case c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			shift = shift*10 + int64(c-'0')
		}
	}
	labShift.Store(sign * shift)
}
`

// The line of time.Now that is changed, and what it becomes.
const (
	nowLine    = "sec, nsec, mono := runtimeNow()\n"
	skewedLine = "sec, nsec, mono := runtimeNow()\n\tsec += labShift.Load()\n"
)

// buildWithSkew builds the nodes' binaries with the changed time.Now into a directory.
func buildWithSkew(ctx context.Context, dir string) (cluster.Binaries, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMOD").Output()
	if err != nil {
		return cluster.Binaries{}, fmt.Errorf("build with a skewed clock: %w", err)
	}
	root, module, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	original := filepath.Join(root, "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return cluster.Binaries{}, err
	}
	begin := strings.Index(string(source), "\nfunc Now() Time {")
	if begin < 0 || !strings.Contains(string(source)[begin:], nowLine) {
		return cluster.Binaries{}, errors.New("build with a skewed clock: this Go's time.Now is not the one that is known here")
	}
	changed := string(source)[:begin] + strings.Replace(string(source)[begin:], nowLine, skewedLine, 1)
	replaced, added, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "skew.go"), filepath.Join(dir, "overlay.json")
	plan, err := json.Marshal(map[string]map[string]string{"Replace": {original: replaced, filepath.Join(filepath.Dir(original), "labskew.go"): added}})
	if err != nil {
		return cluster.Binaries{}, err
	}
	for path, content := range map[string]string{replaced: changed, added: skewSource, overlay: string(plan)} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return cluster.Binaries{}, err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", dir+"/", "./cmd/kineshim", "./cmd/raftwitness")
	cmd.Dir = filepath.Dir(module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return cluster.Binaries{}, fmt.Errorf("build with a skewed clock: %w\n%s", err, out)
	}
	return cluster.BinariesIn(dir)
}

// faketime is where Debian puts it.
const faketime = "/usr/lib/*/faketime/libfaketime.so.1"

// clockPaths are the files that shift a node's clocks: those of its Go programs and that of its PostgreSQL.
func clockPaths(dir, node string) (goes, postgres string) {
	return filepath.Join(dir, "clock-"+node), filepath.Join(dir, "clock-postgres-"+node)
}

// fakeClocks makes a cluster whose nodes' wall clocks can be set.
func fakeClocks(ctx context.Context, dir string, o *cluster.Options) error {
	found, _ := filepath.Glob(faketime) // the pattern is well formed
	if len(found) == 0 {
		return fmt.Errorf("%s is missing (Debian: faketime)", faketime)
	}
	tools := filepath.Join(dir, "clock")
	if err := os.Mkdir(tools, 0o755); err != nil {
		return err
	}
	var err error
	if o.Binaries, err = buildWithSkew(ctx, tools); err != nil {
		return err
	}
	o.Env, o.Extra = map[string][]string{}, map[string]string{}
	for _, node := range cluster.Nodes {
		if err := setClock(dir, node, 0); err != nil {
			return err
		}
		goes, postgres := clockPaths(dir, node)
		o.Env[node] = []string{clockEnv + "=" + goes}
		if node == cluster.Witness {
			continue
		}
		bin, err := wrapPostgres(filepath.Join(dir, "bin-"+node), found[0], postgres)
		if err != nil {
			return err
		}
		o.Extra[node] = fmt.Sprintf("postgres: {bin_dir: %q}\n", bin)
	}
	return nil
}

// wrapPostgres makes a directory of PostgreSQL's programs in which the server runs with libfaketime. Its monotonic clock stays what it is, and
// nothing is left in /dev/shm.
func wrapPostgres(dir, library, clock string) (string, error) {
	out, err := exec.Command("pg_config", "--bindir").Output()
	if err != nil {
		return "", fmt.Errorf("pg_config: %w", err)
	}
	real := strings.TrimSpace(string(out))
	programs, err := os.ReadDir(real)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, p := range programs {
		if p.Name() != "postgres" {
			if err := os.Symlink(filepath.Join(real, p.Name()), filepath.Join(dir, p.Name())); err != nil {
				return "", err
			}
		}
	}
	script := fmt.Sprintf(`#!/bin/sh
export LD_PRELOAD=%s FAKETIME_TIMESTAMP_FILE=%s FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1
exec %s/postgres "$@"
`, library, clock, real)
	return dir, os.WriteFile(filepath.Join(dir, "postgres"), []byte(script), 0o755)
}

// setClock shifts the wall clocks of a node's processes, and nothing else, by so much from what they really are.
func setClock(dir, node string, shift time.Duration) error {
	goes, postgres := clockPaths(dir, node)
	text := fmt.Sprintf("%+d", int64(shift/time.Second))
	return errors.Join(os.WriteFile(goes, []byte(text+"\n"), 0o644), os.WriteFile(postgres, []byte(text+"s\n"), 0o644))
}

// jumpSettles is how long a clock's jump is given to do harm. PostgreSQL is told of it after a second.
const jumpSettles = 6 * time.Second

func clocksJump(t *Trial) {
	epoch := t.Epoch(t.A)
	for _, node := range []string{t.A, t.B, t.W} {
		for _, to := range []time.Duration{time.Hour, -time.Hour, 0} { // jumps of +1 h, -2 h and +1 h
			began := time.Now()
			t.Blow(fmt.Sprintf("the clock of %s jumps: it is now %v off", node, to), func() error { return setClock(t.site.Dir(), node, to) })
			t.OnlyServes(t.A, jumpSettles)
			t.PauseAtMost(began, stallAtMost)
			t.showsTime(node, to)
		}
	}
	if now := t.Epoch(t.A); now != epoch {
		t.Failf("epoch %d, before %d: there was a failover for nothing", now, epoch)
	}
}

// clockTolerance is how far a clock that was read may be from what it was set to.
const clockTolerance = time.Minute

// showsTime sees to it that the node's processes have the faked time, without which nothing is tried.
func (t *Trial) showsTime(node string, shift time.Duration) {
	if node == t.W { // which logs nothing while nothing changes
		return
	}
	var seconds float64
	_, err := fmt.Sscan(t.query(node, "SELECT extract(epoch FROM clock_timestamp())::float8"), &seconds)
	t.Must(err)
	// kineshim writes the time to this file every few seconds, to see whether its disk takes it.
	b, err := os.ReadFile(filepath.Join(t.DataDir(node), "disk-probe"))
	t.Must(err)
	written, err := time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	t.Must(err)
	for who, at := range map[string]time.Time{"PostgreSQL": time.UnixMilli(int64(seconds * 1000)), "kineshim": written} {
		if off := time.Until(at); (off - shift).Abs() > clockTolerance {
			t.Fatalf("the clock of %s on %s is %v off, it was to be %v: nothing is tried", who, node, off, shift)
		}
	}
}
