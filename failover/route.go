package failover

import (
	"sync"

	"kineshim/failover/decide"
)

// Route says who answers the clients of this node's endpoint.
type Route struct {
	// Local: this node does.
	Local bool
	// Target is the peer address of the primary, to which requests are forwarded; "" if they are not.
	Target string
	// Node is the name of whoever answers.
	Node string
	// Why says why nobody does.
	Why string
	// Done is closed when the route no longer holds.
	Done <-chan struct{}
}

type routes struct {
	mu   sync.Mutex // guards the fields below
	now  Route
	done chan struct{}
}

func newRoutes() *routes {
	r := &routes{done: make(chan struct{})}
	r.now = Route{Why: "starting", Done: r.done}
	return r
}

func (r *routes) set(next Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next.Local == r.now.Local && next.Target == r.now.Target && next.Node == r.now.Node {
		r.now.Why = next.Why
		return
	}
	close(r.done)
	r.done = make(chan struct{})
	next.Done = r.done
	r.now = next
}

// Route says who answers at the moment.
func (a *Agent) Route() Route {
	a.routes.mu.Lock()
	defer a.routes.mu.Unlock()
	return a.routes.now
}

// applyRoute directs the clients of this node's endpoint.
func (a *Agent) applyRoute(in *decide.Input, plan decide.Plan) {
	switch {
	case plan.Closed == "":
		a.routes.set(Route{Local: true, Node: in.Self})
	case in.Record.Primary == in.Other && in.Peer.GateOpen && in.Peer.Age <= in.Timing.Silence+routeGrace && !in.Peer.Refused:
		a.routes.set(Route{Target: a.cfg.PeerAddress, Node: in.Other})
	case in.Record.Primary == in.Other:
		a.routes.set(Route{Why: "the primary " + in.Other + " does not answer clients at the moment"})
	default:
		a.routes.set(Route{Why: plan.Closed})
	}
}

// routeGrace lets a forwarded request outlive one lost exchange between the nodes.
const routeGrace = exchangeEvery
