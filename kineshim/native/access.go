package native

import (
	"context"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// theOperator is whoever came by the control socket.
var theOperator = auth.Caller{Name: "root", Known: true}

// callerOf is who a context says that he is, by what s knows of tokens. ahead is how far the clock by which tokens end is ahead of this node's.
func callerOf(ctx context.Context, s *auth.State, ahead time.Duration) (auth.Caller, error) {
	c := kineshim.CredentialsOf(ctx)
	switch {
	case c.Operator:
		return theOperator, nil
	case c.Token != "":
		at := time.Now().Add(ahead)
		if !c.Since.IsZero() { // so that a stream can be used for as long as it lasts: a client shows no other token on it
			at = at.Add(-time.Since(c.Since))
		}
		return s.Token(c.Token, at)
	}
	return auth.Caller{Name: c.CommonName, Known: c.Certified}, nil
}

// permit says why the caller of ctx may not ask for it, by s and a clock that is ahead of this node's.
func (k *keyspace) permit(ctx context.Context, s *auth.State, ahead time.Duration, request any) error {
	if !s.Enabled() {
		return nil
	}
	if _, ok := request.(*pb.AuthenticateRequest); ok {
		return nil // whatever token the client still has
	}
	c, err := callerOf(ctx, s, ahead)
	if err != nil {
		return err
	}
	return s.Permit(c, request, attached{k})
}

// primaryAhead is how far the clock of the primary, which makes the tokens, is ahead of this node's, as far as is known.
func (k *keyspace) primaryAhead() time.Duration { return time.Duration(k.ahead.Load()) }

// attached are the keys of leases.
type attached struct{ k *keyspace }

func (a attached) Keys(id int64) []string { return a.k.leases.Keys(id) }

func (a attached) AllKeys() []string {
	var keys []string
	for _, l := range a.k.leases.All() {
		keys = append(keys, a.k.leases.Keys(l.ID)...)
	}
	return keys
}

// permitWatch is asked when a watch is made. What a watch may see is not looked at again, as in etcd.
func (k *keyspace) permitWatch(ctx context.Context, r *pb.WatchCreateRequest) error {
	return k.permit(ctx, k.access.Load(), k.primaryAhead(), r)
}

// Permit says why the caller of ctx may not ask for it, by what is durable.
func (e *Engine) Permit(ctx context.Context, request any) error {
	return e.permit(ctx, e.access.Load(), 0, request)
}

// AccessVersion is the version of access control that is durable.
func (e *Engine) AccessVersion() uint64 { return e.access.Load().Version() }

// permit is asked when an operation's turn has come, so that nobody does what he was told before that he may not any more.
func (q *sequencer) permit(op *operation) error {
	if op.request == nil {
		return nil
	}
	return q.e.keyspace.permit(op.ctx, q.access, 0, op.request)
}

// Permit says why the caller of ctx may not ask for it, by what the copy knows.
func (r *Replica) Permit(ctx context.Context, request any, at kineshim.AccessPoint) error {
	k := r.copy.Load()
	if k == nil {
		return kineshim.ErrNotHere
	}
	s, err := k.reachAccess(ctx, at.Version)
	if err != nil {
		return err
	}
	if at != (kineshim.AccessPoint{}) {
		k.ahead.Store(int64(at.Clock))
	}
	if r.serving.Load() != nil { // since a moment ago: open has set it to 0, or is about to
		k.ahead.Store(0)
	}
	return k.permit(ctx, s, k.primaryAhead(), request)
}

// Guarded says whether callers need permission, as far as the copy knows.
func (r *Replica) Guarded() bool {
	k := r.copy.Load()
	return k != nil && k.access.Load().Enabled()
}

// reachAccess is access control as of the version or a later one.
func (k *keyspace) reachAccess(ctx context.Context, version uint64) (*auth.State, error) {
	if s := k.access.Load(); s.Version() >= version {
		return s, nil
	}
	bounded, cancel := context.WithTimeout(ctx, reachBound)
	defer cancel()
	for {
		k.mu.Lock()
		if k.advanced == nil {
			k.advanced = make(chan struct{})
		}
		advanced := k.advanced
		k.mu.Unlock()
		if s := k.access.Load(); s.Version() >= version {
			return s, nil
		}
		select {
		case <-advanced:
		case <-k.gone:
			return nil, kineshim.ErrNotHere
		case <-bounded.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, kineshim.ErrNotHere
		}
	}
}

// setAccess publishes what is durable, and wakes those who wait for it.
func (k *keyspace) setAccess(s *auth.State) {
	k.access.Store(s)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.advanced != nil {
		close(k.advanced)
		k.advanced = nil
	}
}
