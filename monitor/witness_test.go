package monitor

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var someWitness = Witness{
	Node: "w", Version: `v1 "x\`, Started: time.Unix(1000, 0), Certificates: map[string]Certificate{"raft": {Begins: time.Unix(1000, 0), Ends: time.Unix(2000, 0)}},
	Voters: []WitnessVoter{
		{Cluster: "c1", Leader: "a", LeaderHeard: 250 * time.Millisecond, Term: 7, CommitIndex: 41, AppliedIndex: 40, Epoch: 3, Primary: "a", Mode: "paired", Apart: 1},
		{Cluster: "c2", Broken: "the log is\ndamaged"},
	},
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

// Prometheus' own parser reads what is written here without it.
func TestTheWitnessWritesWhatPrometheusReads(t *testing.T) {
	w := get(WitnessPages(func() Witness { return someWitness }), "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(w.Body.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, w.Body)
	}
	for _, m := range WitnessMetrics() {
		f := families[m.Name]
		if f == nil {
			t.Errorf("%s is not written", m.Name)
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
			if want := slices.Sorted(slices.Values(m.Labels)); !slices.Equal(slices.Sorted(slices.Values(labels)), want) {
				t.Errorf("%s has the labels %v, want %v", m.Name, labels, want)
			}
		}
	}
	if len(families) != len(WitnessMetrics()) {
		t.Errorf("%d metrics are written, %d are documented", len(families), len(WitnessMetrics()))
	}
	if v := families["raftwitness_build_info"].Metric[0].Label[1].GetValue(); v != someWitness.Version {
		t.Errorf("the version is %q", v)
	}
	if v := families["raftwitness_raft_leader_heard_seconds"].Metric[0].GetGauge().GetValue(); v != 0.25 {
		t.Errorf("the leader was heard %v s ago", v)
	}
	if v := families["raftwitness_votes"].Metric; v[0].GetGauge().GetValue() != 1 || v[1].GetGauge().GetValue() != 0 {
		t.Errorf("votes: %v", v)
	}
}

func TestAWitnessIsHealthyIfItVotesAndReadyIfSomebodyLeads(t *testing.T) {
	leaderless := Witness{Voters: []WitnessVoter{{Cluster: "c1"}}}
	well := Witness{Voters: []WitnessVoter{{Cluster: "c1", Leader: "a"}}}
	for _, c := range []struct {
		name            string
		w               Witness
		healthz, readyz int
	}{{"well", well, 200, 200}, {"nobody leads", leaderless, 200, 503}, {"one of its voters is broken", someWitness, 503, 503}} {
		pages := WitnessPages(func() Witness { return c.w })
		if got := get(pages, "/healthz").Code; got != c.healthz {
			t.Errorf("%s: /healthz: %d", c.name, got)
		}
		if got := get(pages, "/readyz").Code; got != c.readyz {
			t.Errorf("%s: /readyz: %d", c.name, got)
		}
		if got := get(pages, "/primary").Code; got != http.StatusNotFound {
			t.Errorf("%s: /primary: %d", c.name, got)
		}
	}
}
