package doctor

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/failover/postgres"
	"kineshim/proto"
)

type fakeSystemd map[string]unit

func (s fakeSystemd) Show(_ context.Context, name string) (map[string]string, error) {
	return s[name], nil
}

// fakeProbes are of a machine on which all is well and kineshim runs, but nobody else answers.
func fakeProbes(n *node) Probes {
	return Probes{
		Files: owned(n.cfg.DataDir), Users: fakeUsers{kineshim}, Systemd: fakeSystemd{ourUnit: installedUnit()}, Network: deaf{}, Clock: fakeClock{yes: true},
		Disk: fakeDisk{took: syncs(100, 0, 0), space: Space{State: state(10240, 20480)}}, Postgres: fakePostgres{found: postgres.Programs{Major: 16}}, Host: fakeHost{}, Ports: fakePorts{},
		StatusOf: func(context.Context, string) (*proto.StatusResponse, error) { return runningStatus(), nil }, Version: "v1", Now: func() time.Time { return noon },
	}
}

func TestTheReportHasAllChecksInOneOrder(t *testing.T) {
	n := newNode(t, "vips: [{address: 192.168.1.50}]")
	r := Run(t.Context(), n.path, fakeProbes(n))
	var order []string
	for _, f := range r.Findings {
		order = append(order, f.Check)
	}
	want := []string{configCheck, enrolmentCheck, portsCheck, clocksCheck, diskCheck, postgresCheck, vipCheck, bindCheck, systemdCheck, daemonCheck}
	if got := slices.Compact(order); !slices.Equal(got, want) {
		t.Errorf("order of the checks: %v, want %v", got, want)
	}
	if r.Node != "a" || r.Other != "b" || r.Cluster != "" || !r.Failed || r.Count(OK)+r.Count(Warn)+r.Count(Fail) != len(r.Findings) {
		t.Errorf("%+v", r)
	}
	b, err := json.Marshal(r.Findings[0])
	if want := `{"check":"configuration","level":"fail","found":"`; err != nil || !strings.HasPrefix(string(b), want) {
		t.Errorf("as JSON: %s, %v", b, err)
	}
}

func TestWithoutAConfigurationNothingElseIsChecked(t *testing.T) {
	r := Run(t.Context(), filepath.Join(t.TempDir(), "none.yaml"), Probes{})
	expect(t, r.Findings, "FAIL there is no", "warn nothing else was checked // correct that first")
	if !r.Failed {
		t.Error("not failed")
	}
}

// A file system that hangs must not keep the other checks' results from being shown.
func TestACheckThatHangsInTheKernelIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), checkingFor)
		defer cancel()
		hang := make(chan struct{})
		defer close(hang)
		began := time.Now()
		all := runAll(ctx, []check{
			{"quick", func(context.Context) []Finding { return []Finding{{Found: "quick"}} }},
			{"hanging", func(context.Context) []Finding { <-hang; return nil }},
			{"slow", func(ctx context.Context) []Finding { <-ctx.Done(); return []Finding{{Found: "slow"}} }},
		})
		expect(t, slices.Concat(all...), "ok quick", "FAIL something hangs in the kernel // dmesg", "ok slow")
		if took := time.Since(began); took > 15*time.Second-askingFor {
			t.Errorf("took %v", took)
		}
	})
}

func TestWhatARunRestsOnIsAskedWithABound(t *testing.T) {
	n := newNode(t)
	p := fakeProbes(n)
	p.StatusOf = func(ctx context.Context, _ string) (*proto.StatusResponse, error) {
		if left, ok := ctx.Deadline(); !ok || time.Until(left) > askingFor {
			t.Error("the question to kineshim has no bound")
		}
		return nil, ErrNotRunning
	}
	r := Run(t.Context(), n.path, p)
	if got := r.Findings[len(r.Findings)-1]; got.Level != Fail || !strings.Contains(got.Found, "kineshim's unit runs") {
		t.Errorf("of a unit that runs and a kineshim that does not answer: %+v", got)
	}
	if total := askingFor + checkingFor + endsWithin; total > 15*time.Second {
		t.Errorf("%v in all", total)
	}
}
