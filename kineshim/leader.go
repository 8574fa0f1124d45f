package kineshim

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// wantsLeader: the client asks, as Kubernetes does on every watch, to be told when there is no leader (clientv3's WithRequireLeader).
func wantsLeader(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// endWithoutLeader calls end with etcd's error once this node has known no primary for as long as requests wait for one, so that a client does not take a watch
// on which nothing can come for one on which nothing happens. A failover that requests live through is none of its business. It returns when ctx ends.
func (e *Endpoint) endWithoutLeader(ctx context.Context, end context.CancelCauseFunc) {
	patience := e.opt.MaxWait
	if patience < 0 {
		patience = DefaultMaxWait
	}
	var since time.Time
	for ctx.Err() == nil {
		route := e.opt.Router.Route()
		var over <-chan time.Time
		if route.Local || route.Target != "" {
			since = time.Time{}
		} else {
			if since.IsZero() {
				since = time.Now()
			}
			over = time.After(time.Until(since.Add(patience)))
		}
		select {
		case <-route.Done:
		case <-over:
			end(rpctypes.ErrGRPCNoLeader)
			return
		case <-ctx.Done():
		}
	}
}
