package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kineshim/proto"
)

var update = flag.Bool("update", false, "write testdata anew; read the difference before you commit it")

// TestStatusReadsAtAGlance compares what an operator reads in each situation with testdata/*.txt.
func TestStatusReadsAtAGlance(t *testing.T) {
	for name, st := range map[string]*proto.StatusResponse{
		"armed":    paired(),
		"cloning":  cloning(),
		"orphaned": orphaned(),
		"paused": variant(paired, func(st *proto.StatusResponse) {
			st.Armed, st.Paused = false, true
		}),
		"witness-lost": variant(paired, func(st *proto.StatusResponse) {
			st.Mode, st.InSync, st.Armed, st.NotArmed = "solo", []string{"a"}, false, []string{"the witness w is not heard"}
			st.Nodes[0].State.LeaseLeftMs = 0
			st.Nodes[1].InSync = false
			w := st.Nodes[2]
			w.Reachable, w.HeardMs, w.Health = false, 65_000, "unreachable"
		}),
		"switchover": variant(paired, func(st *proto.StatusResponse) {
			st.Armed, st.Busy, st.NotArmed = false, "switchover to b", []string{"a switchover is under way"}
			st.Nodes[0].State.WantsRelief, st.Nodes[0].State.ReliefReason = true, "the disk is nearly full"
		}),
		"uninitialised": {
			ClusterId: "c-7f3a", Node: "a", Mode: "uninitialised", NotArmed: []string{"no majority has been reached yet"},
			Nodes: []*proto.NodeStatus{
				{Name: "a", Role: "data", Self: true, Reachable: true, Health: "ok", State: &proto.NodeState{Role: "absent", GateReason: "not initialised"}},
				{Name: "b", Role: "data", HeardMs: -1},
				{Name: "w", Role: "witness", HeardMs: -1},
			}},
		"both-others-lost": variant(paired, func(st *proto.StatusResponse) {
			st.Serving, st.Armed, st.Leader, st.Node = false, false, "", "b"
			st.NotArmed = []string{"no majority: neither a nor w is heard"}
			a, b, w := st.Nodes[0], st.Nodes[1], st.Nodes[2]
			a.Self, a.Reachable, a.HeardMs, a.Health = false, false, 12_300, ""
			b.Self = true
			w.Reachable, w.HeardMs, w.Health = false, -1, ""
		}),
		"standby-failed": variant(cloning, func(st *proto.StatusResponse) {
			const why = "could not write to pg_wal: no space left on device"
			st.NotArmed = []string{"PostgreSQL on the standby b does not run"}
			b := st.Nodes[1]
			b.Health = "stopped: " + why
			b.State.Role, b.State.RoleReason, b.State.GateReason, b.State.Progress = "stopped", why, "a is the primary", nil
		}),
	} {
		t.Run(name, func(t *testing.T) { compareFile(t, filepath.Join("testdata", name+".txt"), renderStatus(st)) })
	}
}

func compareFile(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), go test -update writes it anew:\n%s", path, diff)
	}
}

func TestProgressLine(t *testing.T) {
	for want, p := range map[string]*proto.Progress{
		"clone 25 %, 64.0 MiB of 256.0 MiB, for 4.0 s, about 12.0 s left": {What: "clone", DoneBytes: 64 << 20, TotalBytes: 256 << 20, ElapsedMs: 4000},
		"clone 1 %, 1.0 MiB of 100.0 MiB, for 1.0 s":                      {What: "clone", DoneBytes: 1 << 20, TotalBytes: 100 << 20, ElapsedMs: 1000},
		"clone, 300.0 MiB, for 2 min 5 s":                                 {What: "clone", DoneBytes: 300 << 20, TotalBytes: 256 << 20, ElapsedMs: 125_000},
		"rewind, for 300 ms, waiting on a checkpoint":                     {What: "rewind", ElapsedMs: 300, Step: "waiting on a checkpoint"},
		"clone 100 %, 1.0 KiB of 1.0 KiB, for 9 ms":                       {What: "clone", DoneBytes: 1024, TotalBytes: 1024, ElapsedMs: 9},
	} {
		if got := progressLine(p); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1_258_291: "1.2 MiB", 5 << 40: "5.0 TiB", 1<<64 - 1: "16.0 EiB"} {
		if got := showBytes(n); got != want {
			t.Errorf("%d bytes: got %q, want %q", n, got, want)
		}
	}
	for ms, want := range map[int64]string{0: "0 ms", 999: "999 ms", 12_345: "12.3 s", 185_000: "3 min 5 s", 7_800_000: "2 h 10 min", 356_400_000: "4 d 3 h"} {
		if got := showMillis(ms); got != want {
			t.Errorf("%d ms: got %q, want %q", ms, got, want)
		}
	}
	if got := showLSN(0x16_B374D848); got != "16/B374D848" {
		t.Errorf("LSN: got %q", got)
	}
}

func TestSoloRecordWithSynchronousReplicationSaysSo(t *testing.T) {
	st := &proto.StatusResponse{Mode: modeSolo, Primary: "a", InSync: []string{"a"}, Nodes: []*proto.NodeStatus{{Name: "a", Role: "data"}, {Name: "b", Role: "data"}}}
	const says = "every commit waits for b too"
	if line := recordLine(st); strings.Contains(line, says) {
		t.Errorf("asynchronous: %s", line)
	}
	st.Synchronous = true
	if line := recordLine(st); !strings.Contains(line, says) {
		t.Errorf("synchronous: %s", line)
	}
	st.Mode = modePaired
	if line := recordLine(st); strings.Contains(line, says) {
		t.Errorf("paired: %s", line)
	}
}

func TestPreviewNamesTheNewestWrite(t *testing.T) {
	p := &proto.PreviewForceResponse{Possible: true, PrimarySilentMs: -1}
	if text := renderPreview(&proto.StatusResponse{Primary: "a"}, "b", p); strings.Contains(text, "newest write") {
		t.Errorf("not known, yet named:\n%s", text)
	}
	p.NewestUnixMilli = time.Now().Add(-90 * time.Second).UnixMilli()
	if text := renderPreview(&proto.StatusResponse{Primary: "a"}, "b", p); !strings.Contains(text, "newest write that b holds") || !strings.Contains(text, showMillis(90_000)) {
		t.Errorf("age of the newest write is missing:\n%s", text)
	}
}

func TestUnknownOutcomesAreShownWhereThereAreAny(t *testing.T) {
	const words = "outcome its clients were not told"
	if text := renderStatus(paired()); strings.Contains(text, words) {
		t.Errorf("without any:\n%s", text)
	}
	text := renderStatus(variant(paired, func(st *proto.StatusResponse) { st.Nodes[1].State.UnknownOutcomes = 3 }))
	if !strings.Contains(text, "b: writes whose "+words+", since its start: 3") {
		t.Errorf("with 3:\n%s", text)
	}
}
