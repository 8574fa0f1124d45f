package nodemetrics

import (
	"bytes"
	"flag"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"kineshim/monitor"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc/codes"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

// full is a Sample that leaves nothing out.
func full() Sample {
	return Sample{
		Node: "a", Version: "v1", Role: "primary", GateOpen: true, EndpointReady: true, Epoch: 3, Primary: "a", Paired: true, Armed: true, Synchronous: true,
		RaftLeader: true, RaftHasLeader: true, RaftTerm: 7, Lease: 400 * time.Millisecond, PeerHeard: 50 * time.Millisecond, WitnessHeard: 20 * time.Millisecond,
		Replication: &Replication{LagBytes: 4096, LagSeconds: 0.25, Streaming: true}, Failovers: map[string]uint64{"silence": 2},
		Store: &Store{Revision: 10, Compacted: -1, Queued: 1}, VIPs: []VIP{{Address: "192.0.2.1", Held: true}},
		Certificates: map[string]monitor.Certificate{"peer": {Begins: time.Unix(1000, 0), Ends: time.Unix(2000, 0)}},
		Postgres:     Postgres{Up: true, Timeline: 2, WALFlushed: 1 << 30, WALReplayed: 1 << 30, Essentials: &Essentials{Sessions: 5}},
		Disk:         &Disk{FreeBytes: 1, TotalBytes: 2},
		Connections:  map[string]Connections{"client": {Open: 3, Refused: 1}},
	}
}

// exercised is a registry in which everything has happened once.
func exercised(s Sample) *Registry {
	r := New(func() Sample { return s })
	for _, h := range []interface{ Observe(float64) }{r.Queue, r.Batch, r.Commit, r.BatchOperations, r.WatchLag} {
		h.Observe(0.001)
	}
	r.Answered("/etcdserverpb.KV/Txn", codes.OK, time.Millisecond)
	r.Answered("/etcdserverpb.KV/Txn", codes.Unavailable, time.Second)
	r.Answered("/etcdserverpb.Unheard/Of", codes.Code(99), time.Second)
	return r
}

func families(t *testing.T, r *Registry) map[string]*dto.MetricFamily {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("%d, %v", w.Code, err)
	}
	return all
}

func TestEveryDocumentedMetricIsThereAsDocumented(t *testing.T) {
	all := families(t, exercised(full()))
	for _, m := range Metrics() {
		f := all[m.Name]
		if f == nil {
			t.Errorf("%s is not there", m.Name)
			continue
		}
		if got := strings.ToLower(f.GetType().String()); got != string(m.Type) {
			t.Errorf("%s is a %s, not a %s", m.Name, got, m.Type)
		}
		for _, v := range f.Metric {
			var labels []string
			for _, l := range v.Label {
				labels = append(labels, l.GetName())
			}
			if !slices.Equal(slices.Sorted(slices.Values(labels)), slices.Sorted(slices.Values(m.Labels))) {
				t.Errorf("%s has the labels %v, not %v", m.Name, labels, m.Labels)
			}
		}
		delete(all, m.Name)
	}
	for name := range all {
		if strings.HasPrefix(name, "kineshim_") {
			t.Errorf("%s is not documented", name)
		}
	}
}

// What is not known has no value, rather than a wrong one.
func TestWhatIsNotKnownIsLeftOut(t *testing.T) {
	all := families(t, New(func() Sample {
		return Sample{PeerHeard: -1, WitnessHeard: -1, Replication: &Replication{LagBytes: -1, LagSeconds: -1}}
	}))
	for _, name := range []string{
		"kineshim_replication_lag_bytes", "kineshim_replication_lag_seconds", "kineshim_peer_heard_seconds", "kineshim_witness_heard_seconds", "kineshim_revision",
		"kineshim_queued_operations", "kineshim_postgres_sessions", "kineshim_disk_free_bytes", "kineshim_primary_info", "kineshim_certificate_expiry_timestamp_seconds",
	} {
		if f := all[name]; f != nil {
			t.Errorf("%s has the value %v", name, f.Metric)
		}
	}
	if all["kineshim_epoch"] == nil {
		t.Error("kineshim_epoch is not there")
	}
}

func TestRequestsAreCountedByMethodAndCode(t *testing.T) {
	got := map[string]float64{}
	for _, m := range families(t, exercised(full()))["kineshim_requests_total"].Metric {
		if v := m.GetCounter().GetValue(); v > 0 {
			got[m.Label[1].GetValue()+" "+m.Label[0].GetValue()] = v
		}
	}
	for pair, want := range map[string]float64{"KV/Txn OK": 1, "KV/Txn Unavailable": 1, "other Unknown": 1} {
		if got[pair] != want {
			t.Errorf("%s: %v, want %v; all: %v", pair, got[pair], want, got)
		}
	}
}

// The engine and the endpoint measure on each request.
func TestMeasuringAllocatesNothing(t *testing.T) {
	r := New(full)
	if n := testing.AllocsPerRun(100, func() {
		r.Answered("/etcdserverpb.KV/Range", codes.OK, time.Millisecond)
		r.Queue.Observe(0.001)
		r.WatchLag.Observe(0.001)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var nameForm = regexp.MustCompile(`^(kineshim|raftwitness|process)_[a-z0-9_]+$`)

func TestNamesFollowPrometheusConventions(t *testing.T) {
	for _, m := range append(Metrics(), monitor.WitnessMetrics()...) {
		switch {
		case !nameForm.MatchString(m.Name):
			t.Errorf("%s: the form of the name", m.Name)
		case m.Type == monitor.Counter && !strings.HasSuffix(m.Name, "_total"):
			t.Errorf("%s is a counter", m.Name)
		case m.Type != monitor.Counter && strings.HasSuffix(m.Name, "_total"):
			t.Errorf("%s is no counter", m.Name)
		case strings.Contains(m.Name, "_ms") || strings.Contains(m.Name, "_milli") || strings.HasSuffix(m.Name, "_mb"):
			t.Errorf("%s: not a base unit", m.Name)
		case m.Help == "" || strings.HasSuffix(m.Help, "."):
			t.Errorf("%s: the help is %q", m.Name, m.Help)
		}
	}
}

const docsPath = "../../docs/metrics.md"

// docs/metrics.md holds, between two comments each, the tables that the code makes.
func TestMetricsAreDocumented(t *testing.T) {
	old, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	now := old
	for name, metrics := range map[string][]monitor.Metric{"kineshim": Metrics(), "raftwitness": monitor.WitnessMetrics()} {
		var table bytes.Buffer
		monitor.WriteTable(&table, metrics)
		begin, end := []byte("<!-- metrics of "+name+" -->\n"), []byte("<!-- end of metrics of "+name+" -->")
		from, to := bytes.Index(now, begin), bytes.Index(now, end)
		if from < 0 || to < from {
			t.Fatalf("%s has no %q and %q", docsPath, begin, end)
		}
		now = slices.Concat(now[:from+len(begin)], table.Bytes(), now[to:])
	}
	switch {
	case bytes.Equal(now, old):
	case *update:
		if err := os.WriteFile(docsPath, now, 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the code says: run go test ./monitor/nodemetrics -update", docsPath)
	}
}
