// Package integration tries whole clusters of real processes: what is killed, frozen or stopped must cost a pause, and nothing else.
//
// KINESHIM_ROUNDS repeats each test (default 1). KINESHIM_LONG=1 makes freezes and idle times as long as they should be.
// KINESHIM_ENGINE is the engine of the data nodes, native by default.
// KINESHIM_KEEP=1 keeps the directory of a cluster whose test failed. KINESHIM_BIN_DIR has the binaries; else they are built.
package integration

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

// Bounds of waiting. A test that hits one has failed; none says how fast the cluster should be.
const (
	armWithin      = 90 * time.Second // includes founding, or a clone
	failoverWithin = 30 * time.Second
	checkWithin    = 30 * time.Second
)

// long says that freezes and idle times are to have their full length.
func long() bool { return os.Getenv("KINESHIM_LONG") == "1" }

// freezeFor is how long things are frozen.
func freezeFor() time.Duration {
	if long() {
		return 30 * time.Second
	}
	return 5 * time.Second
}

func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("KINESHIM_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 1
}

// lab is what all tests share: binaries, and a cluster that goes from test to test as long as none fails.
var lab struct {
	mu       sync.Mutex
	binDir   string
	binaries cluster.Binaries
	rig      *rig
}

func TestMain(m *testing.M) {
	code := m.Run()
	if lab.rig != nil {
		lab.rig.destroy()
	}
	if lab.binDir != "" {
		os.RemoveAll(lab.binDir)
	}
	os.Exit(code)
}

// rig is a running cluster with clients.
type rig struct {
	*cluster.Cluster
	clients map[string]*clientv3.Client
	tests   int
	log     *testLog
	// afar is where the data nodes answer operators from afar; nil: they don't.
	afar map[string]string
}

// testLog sends what the cluster package says to the test that runs.
type testLog struct {
	mu sync.Mutex
	t  testing.TB
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func (l *testLog) set(t testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = t
}

// armed is the shared cluster, armed; a new one after a test that failed.
func armed(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.rig == nil {
		afar := map[string]string{}
		lab.rig = newRig(t, func(o *cluster.Options) {
			o.Extra = map[string]string{}
			for _, node := range cluster.DataNodes {
				afar[node] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
				o.Extra[node] = "control_listen: " + afar[node] + "\n"
			}
		})
		lab.rig.afar = afar
	}
	r := lab.rig
	r.log.set(t)
	t.Cleanup(func() {
		r.log.set(nil)
		if t.Failed() {
			r.keepEvidence(t)
			r.destroy()
			lab.rig = nil
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	if err := r.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitArmed(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

func newRig(t *testing.T, change ...func(*cluster.Options)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if lab.binaries.Kineshim == "" {
		dir, err := os.MkdirTemp("/tmp", "kineshim-bin-")
		if err != nil {
			t.Fatal(err)
		}
		lab.binDir = dir
		if lab.binaries, err = cluster.Build(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "kineshim-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL's OS user must come through
		t.Fatal(err)
	}
	log := &testLog{t: t}
	options := cluster.Options{Binaries: lab.binaries, Engine: engine(), JSONLogs: true, Log: slog.New(slog.NewTextHandler(log, nil))}
	for _, f := range change {
		f(&options)
	}
	c, err := cluster.New(ctx, dir, options)
	if err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	r := &rig{Cluster: c, clients: map[string]*clientv3.Client{}, log: log}
	for _, node := range cluster.DataNodes {
		if r.clients[node], err = ledger.Dial(c.ClientURL(node)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *rig) destroy() {
	for _, c := range r.clients {
		c.Close()
	}
	if err := r.Destroy(); err != nil {
		fmt.Fprintln(os.Stderr, "destroy cluster:", err)
	}
}

// evidenceTail is how much of each log goes into the output of a failed test.
const evidenceTail = 6000

// keepEvidence shows the ends of the logs and copies the logs and records to a directory that stays.
func (r *rig) keepEvidence(t *testing.T) {
	keep := filepath.Join(os.TempDir(), "kineshim-failed", fmt.Sprintf("%s-%s", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().Format("150405")))
	if err := os.MkdirAll(keep, 0o755); err != nil {
		t.Error(err)
		return
	}
	for _, node := range cluster.Nodes {
		b, err := os.ReadFile(r.LogPath(node))
		if err != nil {
			continue
		}
		t.Logf("the end of %s's log:\n%s", node, b[max(0, len(b)-evidenceTail):])
		if err := os.WriteFile(filepath.Join(keep, node+".log"), b, 0o644); err != nil {
			t.Error(err)
		}
		postgres, _ := filepath.Glob(filepath.Join(r.DataDir(node), "p*", "*log*"))
		for _, f := range postgres {
			copyFile(filepath.Join(keep, node+"-"+filepath.Base(f)), f)
		}
	}
	records, _ := filepath.Glob(filepath.Join(r.Dir(), "*.jsonl"))
	for _, f := range records {
		copyFile(filepath.Join(keep, filepath.Base(f)), f)
	}
	t.Logf("logs and records are kept in %s", keep)
	if os.Getenv("KINESHIM_KEEP") == "1" {
		kept := r.Dir() + "-kept"
		_ = r.Abandon()
		if err := os.Rename(r.Dir(), kept); err == nil {
			t.Logf("the cluster's directory is kept as %s", kept)
		}
	}
}

func copyFile(to, from string) {
	src, err := os.Open(from)
	if err != nil {
		return
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return
	}
	defer dst.Close()
	_, _ = io.Copy(dst, src) // evidence: as much as there is
}
