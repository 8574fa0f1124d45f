package failover

import (
	"testing"
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

func TestRoute(t *testing.T) {
	answers := decide.Peer{Age: 50 * time.Millisecond, GateOpen: true, Epoch: 1}
	for _, c := range []struct {
		name   string
		self   string
		rec    *record.Record
		peer   decide.Peer
		closed string
		want   Route
	}{
		{"this node answers", "a", soloRecord(), decide.Peer{}, "", Route{Local: true, Node: "a", Epoch: 1}},
		{"this node is primary and does not answer", "a", soloRecord(), answers, "stopping", Route{Why: "stopping"}},
		{"the primary answers", "b", soloRecord(), answers, "a is the primary", Route{Target: "a:1", Node: "a", Epoch: 1}},
		{"the primary was late once", "b", soloRecord(), decide.Peer{Age: 600 * time.Millisecond, GateOpen: true, Epoch: 1}, "a is the primary", Route{Target: "a:1", Node: "a", Epoch: 1}},
		{"the other node answers in an epoch that is not heard of here yet", "a", pairedRecord(), decide.Peer{Age: time.Millisecond, GateOpen: true, Epoch: 2}, "switching over to b", Route{Target: "b:1", Node: "b", Epoch: 2}},
		{"the primary has served a later epoch than is known here", "b", soloRecord(), decide.Peer{Age: time.Millisecond, GateOpen: true, Epoch: 2}, "a is the primary", Route{Target: "a:1", Node: "a", Epoch: 2}},
		{"the primary still serves an earlier epoch", "a", failedOver(), answers, "b is the primary", Route{Why: "the primary b does not answer clients at the moment"}},
		{"the primary is silent", "b", soloRecord(), decide.Peer{Age: 601 * time.Millisecond, GateOpen: true, Epoch: 1}, "a is the primary", Route{Why: "the primary a does not answer clients at the moment"}},
		{"the primary is dead", "b", soloRecord(), decide.Peer{Age: time.Millisecond, GateOpen: true, Epoch: 1, Refused: true}, "a is the primary", Route{Why: "the primary a does not answer clients at the moment"}},
		{"the primary's gate is closed", "b", soloRecord(), decide.Peer{Age: time.Millisecond, Epoch: 1}, "a is the primary", Route{Why: "the primary a does not answer clients at the moment"}},
		{"no cluster", "b", &record.Record{}, answers, "the cluster is not initialised", Route{Why: "the cluster is not initialised"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newAgent(t, c.self, c.rec)
			in := decide.Input{Self: c.self, Other: f.cfg.Other, Record: c.rec, Peer: c.peer, Timing: f.cfg.Timing}
			f.applyRoute(&in, decide.Plan{Closed: c.closed})
			got := f.Route()
			if got.Done == nil {
				t.Error("Done is nil")
			}
			got.Done = nil
			if got != c.want {
				t.Errorf("route %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestRouteDoneIsClosedWhenTheRouteEnds(t *testing.T) {
	over := func(r Route) bool {
		select {
		case <-r.Done:
			return true
		default:
			return false
		}
	}
	f := newAgent(t, "a", soloRecord())
	starting := f.Route()
	f.routes.set(Route{Local: true, Node: "a"})
	local := f.Route()
	if !over(starting) || over(local) {
		t.Errorf("starting over: %v, local over: %v", over(starting), over(local))
	}
	f.routes.set(Route{Local: true, Node: "a"})
	if over(local) {
		t.Error("the same route again ended it")
	}
	f.routes.set(Route{Why: "stopping"})
	none := f.Route()
	if !over(local) {
		t.Error("the local route goes on after its end")
	}
	f.routes.set(Route{Why: "stopped"})
	if over(none) || f.Route().Why != "stopped" {
		t.Errorf("another reason alone: over %v, why %q", over(none), f.Route().Why)
	}
	f.routes.set(Route{Target: "b:1", Node: "b"})
	toB := f.Route()
	f.routes.set(Route{Target: "c:1", Node: "b"})
	if !over(none) || !over(toB) {
		t.Error("a route goes on to where it no longer leads")
	}
	for _, r := range []Route{{Target: "c:1", Node: "b"}, {Local: true, Node: "a"}} {
		r.Epoch = 4
		f.routes.set(r)
		before := f.Route()
		r.Epoch = 5
		if f.routes.set(r); !over(before) || f.Route().Epoch != 5 {
			t.Errorf("a route goes on into another epoch: %+v", f.Route())
		}
	}
}
