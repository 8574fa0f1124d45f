package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kineshim/integration/cluster"
)

const (
	settleFor = 5 * time.Second
	// idleCPU bounds the processor time of an idle witness: heartbeats of two peers, some ten a second, cost far less.
	idleCPUPercent = 3
	clockTicks     = 100 // USER_HZ, fixed on Linux
	// residentAtMost bounds its memory, in kB: a witness runs on what is left over somewhere.
	residentAtMost = 15 << 10
)

// An SD card wears out by being written to: while nothing changes, the witness writes nothing.
func TestIdleWitnessWritesNothing(t *testing.T) {
	r := armed(t)
	idle := time.Minute
	if long() {
		idle = 10 * time.Minute
	}
	time.Sleep(settleFor) // what the last test left behind
	pid := r.PID(cluster.Witness)
	// A machine that has let nothing run for longer than the heartbeat timeout has had an election, and that is written down: then the time begins anew.
	term := func() uint64 {
		s, err := r.StatusOf(t.Context(), r.primary(t))
		must(t, err)
		return s.GetTerm()
	}
	var began time.Time
	var files map[string]file
	var written, cpu int64
	for try := 1; ; try++ {
		before := term()
		began = time.Now()
		files, written, cpu = listFiles(t, r.DataDir(cluster.Witness)), writtenBytes(t, pid), cpuTicks(t, pid)
		time.Sleep(idle)
		if term() == before {
			break
		}
		if try == 5 {
			t.Fatalf("there was an election in each of %d times: the cluster is never idle", try)
		}
	}
	if r.PID(cluster.Witness) != pid {
		t.Fatal("the witness was restarted")
	}
	if d := cmp.Diff(files, listFiles(t, r.DataDir(cluster.Witness))); d != "" {
		t.Errorf("the witness's files changed while idle:\n%s", d)
	}
	if n := writtenBytes(t, pid) - written; n != 0 {
		t.Errorf("the witness wrote %d bytes while idle", n)
	}
	used := time.Duration(cpuTicks(t, pid)-cpu) * time.Second / clockTicks
	t.Logf("processor time of the witness in %s: %s", time.Since(began).Round(time.Second), used)
	checkResident(t, pid)
	if used > time.Since(began)*idleCPUPercent/100 {
		t.Errorf("the idle witness used %s of processor time in %s", used, time.Since(began))
	}
}

// file is what tells that a file was written to.
type file struct {
	Size     int64
	Modified string
}

func listFiles(t *testing.T, dir string) map[string]file {
	t.Helper()
	out := map[string]file{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[path] = file{info.Size(), info.ModTime().Format(time.RFC3339Nano)}
		return nil
	})
	must(t, err)
	if len(out) < 3 {
		t.Fatalf("the witness has no files: %v", out)
	}
	return out
}

// writtenBytes is what the process caused to be written to storage so far.
func writtenBytes(t *testing.T, pid int) int64 {
	t.Helper()
	return procNumber(t, fmt.Sprintf("/proc/%d/io", pid), "write_bytes:")
}

func procNumber(t *testing.T, path, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			return n
		}
	}
	t.Fatalf("%s has no %s", path, field)
	return 0
}

// checkResident checks the memory of a witness.
func checkResident(t *testing.T, pid int) {
	t.Helper()
	kB := procNumber(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	t.Logf("resident memory of the witness: %d kB", kB)
	if kB > residentAtMost {
		t.Errorf("the witness has %d kB of memory, %d at most", kB, residentAtMost)
	}
}

// cpuTicks is the user and system time of the process, in clock ticks.
func cpuTicks(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	must(t, err)
	system, err := strconv.ParseInt(fields[12], 10, 64)
	must(t, err)
	return user + system
}
