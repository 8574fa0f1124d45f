package kineshim

import (
	"context"
	"time"
)

// routeGrace is how long what was forwarded may still be answered when its route has ended and no other has come: a primary that hands over
// answers what it has begun. It is far less than a failover that needs an election.
const routeGrace = 500 * time.Millisecond

// routeLife is what lasts as long as what is forwarded to a primary can be answered.
type routeLife struct {
	route Route
	ctx   context.Context
}

// serves says whether what goes the route can share the life.
func (l *routeLife) serves(r Route) bool {
	return l != nil && l.ctx.Err() == nil && (l.route.Done == r.Done || samePrimary(l.route, r))
}

// samePrimary says whether two routes lead to the same primary for certain.
func samePrimary(a, b Route) bool {
	return !a.Local && !b.Local && a.Target != "" && a.Target == b.Target && a.Epoch != 0 && a.Epoch == b.Epoch
}

// withRoute is a context that ends with the life of the route too; errRouteEnded is its cause then.
func (e *Endpoint) withRoute(ctx context.Context, route Route) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if route.Done == nil {
		return ctx, cancel
	}
	unhook := context.AfterFunc(e.routeLife(route), func() { cancel(errRouteEnded) })
	return ctx, func(cause error) {
		unhook()
		cancel(cause)
	}
}

// routeLife is a context that ends when another route leads elsewhere, when none leads anywhere for longer than the grace, or with the
// endpoint. Calls share it.
func (e *Endpoint) routeLife(route Route) context.Context {
	if l := e.lastRoute.Load(); l.serves(route) {
		return l.ctx
	}
	ctx, cancel := context.WithCancel(e.life)
	if !e.spawn(func() {
		defer cancel()
		for same := true; same; {
			select {
			case <-route.Done:
				route, same = e.successor(route)
			case <-ctx.Done():
				return
			}
		}
	}) {
		cancel()
	}
	e.lastRoute.Store(&routeLife{route: route, ctx: ctx})
	return ctx
}

// successor waits for the route that comes after one that has ended, and says whether it leads to the same primary.
func (e *Endpoint) successor(ended Route) (next Route, same bool) {
	grace := time.NewTimer(routeGrace)
	defer grace.Stop()
	for {
		next = e.opt.Router.Route()
		if next.Local || next.Target != "" && next.Done != ended.Done {
			return next, samePrimary(ended, next)
		}
		changed := next.Done
		var again <-chan time.Time
		if changed == ended.Done { // nothing has come in its place yet
			changed, again = nil, time.After(lookEvery)
		}
		select {
		case <-changed:
		case <-again:
		case <-grace.C:
			return next, false
		case <-e.closing:
			return next, false
		}
	}
}
