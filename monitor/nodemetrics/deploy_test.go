package nodemetrics

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"kineshim/monitor"

	"go.yaml.in/yaml/v3"
)

const deployDir = "../../deploy/prometheus/"

// What Prometheus itself adds to every value, and the label of a histogram's buckets.
var (
	targetLabels = []string{"job", "instance", "cluster"}
	bucketLabel  = "le"
)

// series are the names under which a metric's values are asked for, with their labels.
func series() map[string][]string {
	all := map[string][]string{
		"up":                        nil, // Prometheus' own
		"process_cpu_seconds_total": nil, // client_golang's
	}
	for _, m := range append(Metrics(), monitor.WitnessMetrics()...) {
		if m.Type != monitor.Histogram {
			all[m.Name] = m.Labels
			continue
		}
		all[m.Name+"_sum"], all[m.Name+"_count"] = m.Labels, m.Labels
		all[m.Name+"_bucket"] = append(slices.Clone(m.Labels), bucketLabel)
	}
	return all
}

var (
	seriesForm    = regexp.MustCompile(`\b(up|(?:kineshim|raftwitness|process|go)_[a-z0-9_]+)\b(?:\{([^}]*)\})?`)
	matcherForm   = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*("[^"]*")`)
	groupForm     = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	labelUseForm  = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
	functionsForm = regexp.MustCompile(`\b([a-z_]+)\s*\(`)
	rangeForm     = regexp.MustCompile(`\[([^\]]*)\]`)
)

// leastRange holds two samples, which rate and its like need, whatever happens to one.
const leastRange = 5 * time.Minute

// functions are those of PromQL that the files may use.
var functions = []string{"max", "min", "sum", "avg", "by", "increase", "rate", "changes", "histogram_quantile", "time"}

// mistakesOf says what is wrong with an expression and with the labels that its texts use.
func mistakesOf(expr string, texts ...string) (mistakes []string) {
	known := series()
	labels := slices.Clone(targetLabels)
	found := seriesForm.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		mistakes = append(mistakes, "it asks for no metric")
	}
	for _, f := range found {
		own, ok := known[f[1]]
		if !ok {
			mistakes = append(mistakes, "there is no metric "+f[1])
			continue
		}
		labels = append(labels, own...)
		for _, m := range matcherForm.FindAllStringSubmatch(f[2], -1) {
			if !slices.Contains(own, m[1]) && !slices.Contains(targetLabels, m[1]) {
				mistakes = append(mistakes, fmt.Sprintf("%s has no label %s", f[1], m[1]))
			}
		}
	}
	kept := labels
	for _, g := range groupForm.FindAllStringSubmatch(expr, -1) {
		kept = nil
		for l := range strings.SplitSeq(g[1], ",") {
			kept = append(kept, strings.TrimSpace(l))
			if !slices.Contains(labels, strings.TrimSpace(l)) {
				mistakes = append(mistakes, "none of its metrics has a label "+l)
			}
		}
	}
	for _, text := range texts {
		for _, l := range labelUseForm.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(kept, l[1]) {
				mistakes = append(mistakes, fmt.Sprintf("the result has no label %s, which %q shows", l[1], text))
			}
		}
	}
	for _, f := range functionsForm.FindAllStringSubmatch(seriesForm.ReplaceAllString(expr, ""), -1) {
		if !slices.Contains(functions, f[1]) {
			mistakes = append(mistakes, "no function is called "+f[1])
		}
	}
	for _, f := range rangeForm.FindAllStringSubmatch(expr, -1) {
		if r, err := time.ParseDuration(strings.Replace(f[1], "d", "0h", 1)); err != nil || r < leastRange {
			mistakes = append(mistakes, fmt.Sprintf("%s is too short a range: Prometheus looks once a minute, if it is not told otherwise (%v)", f[0], err))
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") {
		mistakes = append(mistakes, "its brackets do not match")
	}
	return mistakes
}

func TestExpressionsWithMistakesAreFound(t *testing.T) {
	for expr, want := range map[string]string{
		`kineshim_gate_opened == 0`:                                        "no metric",
		`kineshim_commit_seconds > 1`:                                      "no metric",
		`kineshim_failovers_total{reason="x"}`:                             "no label reason",
		`sum by (primary) (kineshim_epoch)`:                                "label primary",
		`histogram_quantil(0.9, rate(kineshim_commit_seconds_bucket[5m]))`: "no function",
		`max(kineshim_epoch`:                                               "brackets",
		`1 == 0`:                                                           "no metric",
		`changes(kineshim_epoch[1m]) > 0`:                                  "too short a range",
	} {
		if got := strings.Join(mistakesOf(expr), "; "); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
	if got := mistakesOf(`max by (cluster) (kineshim_epoch)`, "at {{ $labels.instance }}"); len(got) != 1 {
		t.Errorf("a label that is summed away: %q", got)
	}
}

func TestAlertsNameMetricsThatExistAndSayWhatToDo(t *testing.T) {
	b, err := os.ReadFile(deployDir + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr         string
				For                 *string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			for _, m := range mistakesOf(r.Expr, r.Annotations["summary"], r.Annotations["action"]) {
				t.Errorf("%s: %s", r.Alert, m)
			}
			switch {
			case names[r.Alert]:
				t.Errorf("%s is there twice", r.Alert)
			case r.For == nil:
				t.Errorf("%s has no for", r.Alert)
			case r.Annotations["summary"] == "" || r.Annotations["action"] == "":
				t.Errorf("%s has no summary, or no action", r.Alert)
			case r.Labels["severity"] != "critical" && r.Labels["severity"] != "warning":
				t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
			}
			names[r.Alert] = true
			if r.For != nil {
				if _, err := time.ParseDuration(*r.For); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
		}
	}
	if len(names) < 20 {
		t.Errorf("only %d alerts", len(names))
	}
}

func TestTheDashboardNamesMetricsThatExist(t *testing.T) {
	b, err := os.ReadFile(deployDir + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title, UID  string
		Annotations struct{ List []struct{ Expr string } }
		Templating  struct {
			List []struct{ Name, Definition string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	// Grafana puts its variables in place first.
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$cluster", ".*")
	ids, shown := map[int]bool{}, map[string]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q: the ID is taken, or there is no title, or it is wider than the page", p.ID, p.Title)
		}
		ids[p.ID] = true
		if len(p.Targets) == 0 && p.Type != "row" {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, q := range p.Targets {
			for _, m := range mistakesOf(grafana.Replace(q.Expr), q.LegendFormat) {
				t.Errorf("%s: %s: %s", p.Title, q.Expr, m)
			}
			for _, f := range seriesForm.FindAllStringSubmatch(q.Expr, -1) {
				shown[f[1]] = true
			}
		}
	}
	for _, a := range board.Annotations.List {
		for _, m := range mistakesOf(grafana.Replace(a.Expr)) {
			t.Errorf("annotation: %s", m)
		}
	}
	for _, name := range []string{
		"kineshim_gate_open", "kineshim_armed", "kineshim_lease_seconds", "kineshim_replication_lag_bytes", "kineshim_replication_lag_seconds",
		"kineshim_commit_seconds_bucket", "kineshim_queue_seconds_bucket", "kineshim_watch_lag_seconds_bucket", "kineshim_unknown_outcomes_total", "kineshim_failovers_total",
		"kineshim_vip_held", "kineshim_certificate_expiry_timestamp_seconds", "raftwitness_votes",
	} {
		if !shown[name] {
			t.Errorf("%s is not shown", name)
		}
	}
}
