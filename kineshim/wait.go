package kineshim

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// DefaultMaxWait bounds the wait of a request for a primary. k3s ends when its datastore has failed for that long.
	DefaultMaxWait = 10 * time.Second
	// maxWaiting bounds the requests that wait, and maxWaitingBytes what they hold in memory. Kubernetes' API server has some hundreds of
	// requests under way; ten thousand that wait are a goroutine each, about 100 MB.
	maxWaiting      = 10_000
	maxWaitingBytes = 256 << 20
	// lookEvery is how often it is looked whether requests that wait can be answered: nobody tells when a gate opens.
	lookEvery = 2 * time.Millisecond
	// maxReturning bounds the requests that have waited and are being tried: those of both nodes leave room in the engine for others.
	maxReturning = maxCalls / 4
)

// Why a wait was given up.
var (
	errTimeIsUp = errors.New("the time to wait is over")
	errFull     = errors.New("too many requests wait already")
)

// visit is the stay of one request in the room, over all its waits. It belongs to the goroutine of the request.
type visit struct {
	arrived, deadline time.Time
	req               any // its size counts
	size              int
	counted           bool
}

// visit is that of a request that arrives now.
func (e *Endpoint) visit(req any) visit {
	now := time.Now()
	return visit{arrived: now, deadline: now.Add(e.opt.MaxWait), req: req}
}

// refuse is what the client gets whose request's last attempt came to last, and which has given up waiting for another.
func (v *visit) refuse(last error, unknown bool, gaveUp error) error {
	what := "a primary"
	if doubtful(last) && unknown {
		what = "certainty about what became of it"
	}
	switch gaveUp {
	case errTimeIsUp:
		if !v.counted {
			return last
		}
		return v.timeIsUp(last, unknown, what)
	case errFull, errSessionEnded:
		return waited(last, unknown, fmt.Sprintf("no wait for %s: %v", what, gaveUp))
	}
	return contextError(gaveUp)
}

func (v *visit) timeIsUp(last error, unknown bool, what string) error {
	return waited(last, unknown, fmt.Sprintf("waited %v for %s", time.Since(v.arrived).Round(time.Millisecond), what))
}

// place is where requests can be answered at the moment. Places are compared.
type place struct {
	// open: there is one.
	open bool
	// session is this node's; nil when requests are forwarded.
	session *session
	// epoch is the primary's; 0: not known.
	epoch  uint64
	target string
	route  <-chan struct{} // ends with the route to target
}

// place looks.
func (e *Endpoint) place(route Route) place {
	switch {
	case route.Local:
		token, s, err := e.enter()
		if err != nil || s.ctx.Err() != nil {
			return place{}
		}
		return place{open: true, session: s, epoch: token.Epoch}
	case route.Target != "" && e.conns.reachable(route.Target):
		return place{open: true, epoch: route.Epoch, target: route.Target, route: route.Done}
	}
	return place{}
}

// waiter is a request in one of its waits.
type waiter struct {
	// due says whether the wait is over; nil: when requests can be answered, as far as can be seen.
	due   func(place) bool
	woken chan struct{}
	at    *list.Element // nil: woken
}

// room is where requests wait until they can be answered. One goroutine looks for all of them, while there are any.
type room struct {
	endpoint *Endpoint
	// returning has an element for each request that has waited and is being tried.
	returning chan struct{}

	mu      sync.Mutex // guards the fields below
	calls   int
	bytes   int
	waiters list.List // of *waiter, those that wait longest first
	looking bool
}

func newRoom(e *Endpoint) room {
	return room{endpoint: e, returning: make(chan struct{}, maxReturning)}
}

// wait returns nil when the wait is over; errTimeIsUp, errFull, errSessionEnded when the endpoint is closed, or the error of ctx.
func (r *room) wait(ctx context.Context, v *visit, due func(place) bool) error {
	left := time.Until(v.deadline)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case left <= 0:
		return errTimeIsUp
	}
	w := &waiter{due: due, woken: make(chan struct{})}
	if err := r.enter(v, w); err != nil {
		return err
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-w.woken:
		return nil
	case <-ctx.Done():
	case <-timer.C:
	case <-r.endpoint.closing:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.at == nil {
		return nil
	}
	r.waiters.Remove(w.at)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case r.endpoint.life.Err() != nil:
		return errSessionEnded
	}
	return errTimeIsUp
}

// enter counts the request in, for its first wait, and has somebody look.
func (r *room) enter(v *visit, w *waiter) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !v.counted {
		if sized, ok := v.req.(interface{ Size() int }); ok {
			v.size = sized.Size()
		}
		if r.calls >= maxWaiting || r.bytes+v.size > maxWaitingBytes {
			return errFull
		}
		v.counted = true
		r.calls++
		r.bytes += v.size
	}
	if !r.looking {
		if !r.endpoint.spawn(r.look) {
			return errSessionEnded
		}
		r.looking = true
	}
	w.at = r.waiters.PushBack(w)
	return nil
}

// leave counts the request out.
func (r *room) leave(v *visit) {
	if !v.counted {
		return
	}
	v.counted = false
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls--
	r.bytes -= v.size
}

// comeBack returns when a request that has waited may be tried, with the errors of wait. goOn ends that.
func (r *room) comeBack(ctx context.Context, v *visit) error {
	select {
	case r.returning <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(time.Until(v.deadline))
	defer timer.Stop()
	select {
	case r.returning <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errTimeIsUp
	case <-r.endpoint.closing:
		return errSessionEnded
	}
}

func (r *room) goOn() { <-r.returning }

// look wakes those whose wait is over. It returns when nobody waits.
func (r *room) look() {
	e := r.endpoint
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last place
	var ended <-chan struct{}
	for {
		route := e.opt.Router.Route()
		done := route.Done
		if done == ended {
			done = nil // seen, and nothing has come in its place yet
		}
		select {
		case <-tick.C:
		case <-done:
			ended = route.Done
		case <-e.closing:
			return
		}
		route = e.opt.Router.Route()
		now := e.place(route)
		if !r.wake(now, now.open && now != last) {
			return
		}
		last = now
	}
}

// wake wakes whose wait is over; false: nobody waits. When the place is a fresh one, all who wait for any are woken. Later only one at a time:
// they have been refused there, and whoever is answered wakes the others.
func (r *room) wake(now place, fresh bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiters.Len() == 0 {
		r.looking = false
		return false
	}
	one := now.open
	for at := r.waiters.Front(); at != nil; {
		w := at.Value.(*waiter)
		at = at.Next()
		switch {
		case w.due != nil:
			if w.due(now) {
				r.release(w)
			}
		case fresh || one:
			one = false
			r.release(w)
		}
	}
	return true
}

// flow is called when a request that has waited was answered: others that wait can be, too.
func (r *room) flow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := r.waiters.Front(); at != nil; {
		w := at.Value.(*waiter)
		at = at.Next()
		if w.due == nil {
			r.release(w)
		}
	}
}

// release is called with mu held.
func (r *room) release(w *waiter) {
	r.waiters.Remove(w.at)
	w.at = nil
	close(w.woken)
}

// Waiting is how many requests wait for a primary at the moment, or have waited and are being tried again.
func (e *Endpoint) Waiting() int {
	e.room.mu.Lock()
	defer e.room.mu.Unlock()
	return e.room.calls
}
