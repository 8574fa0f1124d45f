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
	// Epoch is the one in which whoever answers is the primary; 0 if nobody does.
	Epoch uint64
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
	if next.Local == r.now.Local && next.Target == r.now.Target && next.Node == r.now.Node && next.Epoch == r.now.Epoch {
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

// applyRoute directs the clients of this node's endpoint. To forward is always safe: the other node's gate decides.
func (a *Agent) applyRoute(in *decide.Input, plan decide.Plan) {
	switch {
	case plan.Closed == "":
		a.routes.set(Route{Local: true, Node: in.Self, Epoch: in.Record.Epoch})
	case otherAnswers(in):
		a.routes.set(Route{Target: a.cfg.PeerAddress, Node: in.Other, Epoch: in.Peer.Epoch})
	case in.Record.Primary == in.Other:
		a.routes.set(Route{Why: "the primary " + in.Other + " does not answer clients at the moment"})
	default:
		a.routes.set(Route{Why: plan.Closed})
	}
}

// otherAnswers: the other node says that its gate is open, in this record's epoch or in a later one, of which a follower hears from
// it sooner than through Raft.
func otherAnswers(in *decide.Input) bool {
	p := &in.Peer
	return in.Record.Initialised() && p.GateOpen && p.Age <= in.Timing.Silence+routeGrace && !p.Refused &&
		(p.Epoch > in.Record.Epoch || p.Epoch == in.Record.Epoch && in.Record.Primary == in.Other)
}

// routeGrace lets a forwarded request outlive one lost exchange between the nodes.
const routeGrace = exchangeEvery
