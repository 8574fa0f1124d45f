package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/cluster"
	"kineshim/monitor"
	"kineshim/monitor/nodemetrics"
	"kineshim/proto"
)

// line is what a node has logged, in either form: its attributes as text.
type line map[string]string

var textAttribute = regexp.MustCompile(`([^\s=]+)=("(?:[^"\\]|\\.)*"|\S*)`)

func parseLine(t *testing.T, s string) line {
	t.Helper()
	l := line{}
	if strings.HasPrefix(s, "{") {
		var attributes map[string]any
		if err := json.Unmarshal([]byte(s), &attributes); err != nil {
			t.Fatalf("%v: %s", err, s)
		}
		for k, v := range attributes {
			l[k] = fmt.Sprint(v)
		}
		return l
	}
	for _, m := range textAttribute.FindAllStringSubmatch(s, -1) {
		v := m[2]
		if strings.HasPrefix(v, `"`) {
			if err := json.Unmarshal([]byte(v), &v); err != nil {
				v = m[2]
			}
		}
		l[m[1]] = v
	}
	return l
}

// logged is what the node has logged from an offset on.
func (r *rig) logged(t *testing.T, node string, from int64) (lines []line) {
	t.Helper()
	f, err := os.Open(r.LogPath(node))
	must(t, err)
	defer f.Close()
	_, err = f.Seek(from, io.SeekStart)
	must(t, err)
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if s := sc.Text(); strings.HasPrefix(s, "{") || strings.HasPrefix(s, "time=") { // not a stack, nor what a library prints
			lines = append(lines, parseLine(t, s))
		}
	}
	must(t, sc.Err())
	return lines
}

// chapter is a line that a log must have: attributes, each with a part of its value.
type chapter map[string]string

func (c chapter) fits(l line) bool {
	for k, v := range c {
		if got, ok := l[k]; !ok || !strings.Contains(got, v) {
			return false
		}
	}
	return true
}

// tells requires that the node's log alone tells the story, in this order. The node is waited for: its last chapter may be under way.
func (r *rig) tells(t *testing.T, node string, from int64, story ...chapter) {
	t.Helper()
	deadline := time.Now().Add(armWithin)
	for {
		rest := story
		lines := r.logged(t, node, from)
		for _, l := range lines {
			if len(rest) > 0 && rest[0].fits(l) {
				rest = rest[1:]
			}
		}
		if len(rest) == 0 {
			return
		}
		if time.Now().After(deadline) {
			var all []string
			for _, l := range lines {
				all = append(all, fmt.Sprint(map[string]string(l)))
			}
			t.Errorf("the log of %s does not tell, after %d of %d chapters: %v\n%s", node, len(story)-len(rest), len(story), rest[0], strings.Join(all, "\n"))
			return
		}
		time.Sleep(100 * time.Millisecond) // a file tells nobody that it has grown
	}
}

// takeOver is how a new primary's log tells of its promotion.
func takeOver(node, why, epoch string) []chapter {
	return []chapter{
		{"msg": "leads"},
		{"msg": "decided", "rule": "take-over", "command": "promote", "why": why},
		{"msg": "cluster record changed", "kind": "promote", "node": node, "primary": node, "why": why, "epoch": epoch},
		{"msg": "PostgreSQL is promoted", "epoch": epoch, "timeline": "", "switchLSN": "/"},
		{"msg": "the engine is ready", "epoch": epoch},
		{"msg": "gate open", "epoch": epoch, "timeline": ""},
	}
}

// The primary is killed: the survivor's log says how that was noticed, who decided what by which rule and why, and each step; that of the other one,
// started again, who took over, when and why, and how it came back.
func failoverIsTold(t *testing.T, r *rig) {
	p := r.primary(t)
	s := cluster.Other(p)
	before, err := r.StatusOf(t.Context(), s)
	must(t, err)
	epoch := fmt.Sprint(before.GetEpoch() + 1)
	fromS, fromP := r.logSize(t, s), r.logSize(t, p)
	must(t, r.Kill(p))
	r.waitServes(t, s)
	r.start(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, r.WaitArmed(ctx))
	// Its deathwatch may tell the voter first, which is elected then before anybody has looked.
	r.tells(t, s, fromS, chapter{"msg": "the other node", "node": p})
	r.tells(t, s, fromS, takeOver(s, "the primary", epoch)...)
	r.tells(t, p, fromP,
		chapter{"msg": "kineshim starts", "node": p},
		chapter{"msg": "cluster record changed", "kind": "promote", "primary": s, "why": "the primary", "epoch": epoch},
		chapter{"msg": "decided", "rule": "", "why": "the other node is the primary"},
		chapter{"msg": "cluster record changed", "kind": "pair", "primary": s, "why": ""})
	r.tells(t, s, fromS, chapter{"msg": "decided", "rule": "pair", "why": "all three are healthy"}, chapter{"msg": "cluster record changed", "kind": "pair"})
}

// switchoverIsTold is the same for a switchover, which both nodes live through.
func switchoverIsTold(t *testing.T, r *rig) {
	p := r.primary(t)
	s := cluster.Other(p)
	before, err := r.StatusOf(t.Context(), s)
	must(t, err)
	epoch := fmt.Sprint(before.GetEpoch() + 1)
	fromS, fromP := r.logSize(t, s), r.logSize(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, r.Switchover(ctx, s))
	must(t, r.WaitArmed(ctx))
	r.tells(t, p, fromP,
		chapter{"msg": "switchover begins", "to": s},
		chapter{"msg": "gate closed", "why": "switching over to " + s},
		chapter{"msg": "the standby has everything", "lsn": "/"},
		chapter{"msg": "asks the other node to take over", "why": "switchover"},
		chapter{"msg": "cluster record changed", "kind": "promote", "primary": s, "epoch": epoch},
		chapter{"msg": "cluster record changed", "kind": "pair"})
	r.tells(t, s, fromS, chapter{"msg": "the primary asks to be relieved", "node": p, "why": "switchover"})
	r.tells(t, s, fromS, takeOver(s, "the primary asks to be relieved", epoch)...)
}

func (r *rig) waitServes(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
	defer cancel()
	must(t, r.WaitStatus(ctx, node, node+" serves", func(s *proto.StatusResponse) string {
		if !cluster.Self(s).GetGateOpen() {
			return "its gate is closed: " + cluster.Self(s).GetGateReason()
		}
		return ""
	}))
}

func TestEitherNodesLogTellsAFailover(t *testing.T) { failoverIsTold(t, armed(t)) }

// seen is a cluster that is looked at from outside, and logs text.
type seen struct{ *rig }

func newSeen(t *testing.T) seen {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	s := seen{newRig(t, func(o *cluster.Options) { o.JSONLogs = false })}
	t.Cleanup(func() {
		s.log.set(nil)
		if t.Failed() {
			s.keepEvidence(t)
		}
		s.destroy()
	})
	return s
}

// page asks for one, and returns the code and the body.
func (s seen) page(t *testing.T, node, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.HTTPURL(node)+path, nil)
	must(t, err)
	a, err := http.DefaultClient.Do(q)
	must(t, err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	must(t, err)
	return a.StatusCode, string(b)
}

// expectPages waits until the pages answer so: what they show is as old as the last decision, and the other node's state older.
func (s seen) expectPages(t *testing.T, node string, want map[string]int) {
	t.Helper()
	deadline := time.Now().Add(failoverWithin)
	for path, code := range want {
		for {
			got, body := s.page(t, node, path)
			if got == code {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s of %s: %d, want %d: %s", path, node, got, code, body)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

var (
	primaryPages = map[string]int{"/": 200, "/primary": 200, "/readyz": 200, "/healthz": 200, "/standby": 503, "/replica?lag=1MB": 503}
	standbyPages = map[string]int{"/": 503, "/primary": 503, "/readyz": 200, "/healthz": 200, "/standby": 200, "/replica?lag=1MB": 200}
)

// metrics of the node.
func (s seen) metrics(t *testing.T, node string) map[string]*dto.MetricFamily {
	t.Helper()
	code, body := s.page(t, node, "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil || code != 200 {
		t.Fatalf("/metrics of %s: %d, %v", node, code, err)
	}
	return all
}

// value is that of a metric whose labels have this value; "" takes the first.
func value(t *testing.T, all map[string]*dto.MetricFamily, name, label string) float64 {
	t.Helper()
	for _, m := range all[name].GetMetric() {
		if label != "" && !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetValue() == label }) {
			continue
		}
		switch {
		case m.Counter != nil:
			return m.Counter.GetValue()
		case m.Histogram != nil:
			return float64(m.Histogram.GetSampleCount())
		}
		return m.Gauge.GetValue()
	}
	t.Errorf("there is no %s %s", name, label)
	return -1
}

// notAlways are the metrics that a small, healthy cluster without virtual addresses and certificates lacks, or that need a minute.
var notAlways = regexp.MustCompile(`_vip_|_certificate_`)

// A cluster is looked at from outside, through a switchover and the death of its primary.
func TestLoadBalancersAndPrometheusSeeTheCluster(t *testing.T) {
	s := newSeen(t)
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, s.StartAll(ctx))
	must(t, s.WaitArmed(ctx))
	p := s.primary(t)
	b := cluster.Other(p)
	s.expectPages(t, p, primaryPages)
	s.expectPages(t, b, standbyPages)
	s.expectPages(t, cluster.Witness, map[string]int{"/healthz": 200, "/readyz": 200, "/primary": 404})

	watch := s.clients[p].Watch(ctx, "seen/", clientv3.WithPrefix())
	_, err := s.clients[p].Put(ctx, "seen/key", "value")
	must(t, err)
	if r := <-watch; r.Err() != nil || len(r.Events) != 1 {
		t.Fatalf("the watch brought %v", r)
	}
	s.waitEssentials(t, p)
	all := s.metrics(t, p)
	for _, m := range nodemetrics.Metrics() {
		if all[m.Name] == nil && !notAlways.MatchString(m.Name) && m.Name != "kineshim_postgres_wal_replayed_bytes" {
			t.Errorf("the primary has no %s", m.Name)
		}
	}
	w := s.metrics(t, cluster.Witness)
	for _, m := range monitor.WitnessMetrics() {
		if w[m.Name] == nil && !notAlways.MatchString(m.Name) {
			t.Errorf("the witness has no %s", m.Name)
		}
	}
	for _, c := range []struct {
		name, label string
		ok          func(float64) bool
	}{
		{"kineshim_gate_open", "", is(1)}, {"kineshim_armed", "", is(1)}, {"kineshim_paired", "", is(1)}, {"kineshim_role", "primary", is(1)}, {"kineshim_role", "standby", is(0)},
		{"kineshim_raft_leader", "", is(1)}, {"kineshim_lease_seconds", "", within(0.001, 10)}, {"kineshim_requests_total", "KV/Put", within(1, 1e6)},
		{"kineshim_commit_seconds", "", within(1, 1e6)}, {"kineshim_queue_seconds", "", within(1, 1e6)}, {"kineshim_batch_seconds", "", within(1, 1e6)},
		{"kineshim_watch_lag_seconds", "", within(1, 1e6)}, {"kineshim_watchers", "", within(1, 1e6)}, {"kineshim_revision", "", within(1, 1e9)},
		{"kineshim_replication_streaming", "", is(1)}, {"kineshim_replication_lag_bytes", "", within(0, 1e8)}, {"kineshim_replication_lag_seconds", "", within(0, 60)},
		{"kineshim_postgres_sessions", "", within(1, 100)}, {"kineshim_postgres_database_bytes", "", within(1e6, 1e12)}, {"kineshim_disk_free_bytes", "", within(1, 1e15)},
		{"kineshim_postgres_slot_wal_bytes", "", within(0, 1e10)}, {"kineshim_unknown_outcomes_total", "", is(0)},
	} {
		if v := value(t, all, c.name, c.label); !c.ok(v) {
			t.Errorf("%s %s of the primary is %v", c.name, c.label, v)
		}
	}
	s.eventually(t, "the witness has heard that they are paired", func(context.Context) error { // a leader tells what is committed a moment later
		if v := value(t, s.metrics(t, cluster.Witness), "raftwitness_paired", ""); v != 1 {
			return fmt.Errorf("raftwitness_paired is %v", v)
		}
		return nil
	})
	checkResident(t, s.PID(cluster.Witness))

	switchoverIsTold(t, s.rig)
	s.expectPages(t, b, primaryPages)
	s.expectPages(t, p, standbyPages)
	if v := value(t, s.metrics(t, b), "kineshim_failovers_total", "switchover"); v != 1 {
		t.Errorf("%v switchovers are counted", v)
	}
	failoverIsTold(t, s.rig)
	s.expectPages(t, p, primaryPages)
	s.expectPages(t, b, standbyPages)
	after := s.metrics(t, p)
	if v := value(t, after, "kineshim_failovers_total", "process_ended") + value(t, after, "kineshim_failovers_total", "silence"); v != 1 {
		t.Errorf("%v failovers are counted", v)
	}
	if v := value(t, after, "kineshim_watch_lag_seconds", ""); v < 1 {
		t.Errorf("nothing was measured of watches, through two changes of role: %v", v)
	}
}

func is(want float64) func(float64) bool { return func(v float64) bool { return v == want } }
func within(least, most float64) func(float64) bool {
	return func(v float64) bool { return v >= least && v <= most }
}

// waitEssentials waits until PostgreSQL has been asked, which takes some seconds after a start.
func (s seen) waitEssentials(t *testing.T, node string) {
	t.Helper()
	deadline := time.Now().Add(failoverWithin)
	for s.metrics(t, node)["kineshim_postgres_slot_wal_bytes"] == nil {
		if time.Now().After(deadline) {
			return // what is missing is named next
		}
		time.Sleep(200 * time.Millisecond)
	}
}
