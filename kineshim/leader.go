package kineshim

import (
	"context"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// lookForLeader is how often a stream that requires a leader looks whether there is one.
const lookForLeader = time.Second

// leaderless knows since when this node has been without a primary that answers, as far as anybody has looked.
type leaderless struct{ since atomic.Int64 } // Unix nanoseconds; 0: there was one at the last look

// wantsLeader: the client asks, as Kubernetes does on every watch, to be told when there is no leader (clientv3's WithRequireLeader).
func wantsLeader(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// leads says whether this node may answer as the primary now, or knows of one that does.
func (e *Endpoint) leads() bool {
	route := e.opt.Router.Route()
	if !route.Local {
		return route.Target != ""
	}
	_, err := e.opt.Gate.Enter() // the route stays local while a lease that has run out may come back
	return err == nil
}

// withoutLeader is for how long there has been none.
func (e *Endpoint) withoutLeader(now time.Time) time.Duration {
	if e.leads() {
		e.leaderless.since.Store(0)
		return 0
	}
	e.leaderless.since.CompareAndSwap(0, now.UnixNano())
	return now.Sub(time.Unix(0, e.leaderless.since.Load()))
}

// endWithoutLeader calls end with etcd's error once this node has known no primary for as long as requests wait for one, so that a client does not take a watch
// on which nothing can come for one on which nothing happens. A failover that requests live through is none of its business. It returns when ctx ends.
func (e *Endpoint) endWithoutLeader(ctx context.Context, end context.CancelCauseFunc) {
	patience := e.opt.MaxWait
	if patience < 0 {
		patience = DefaultMaxWait
	}
	tick := time.NewTicker(min(lookForLeader, max(patience/4, time.Millisecond)))
	defer tick.Stop()
	for {
		if e.withoutLeader(time.Now()) > patience {
			end(rpctypes.ErrGRPCNoLeader)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
