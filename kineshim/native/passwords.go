package native

import (
	"context"
	"runtime"
	"sync/atomic"

	"kineshim/kineshim"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// waitForPassword bounds those who wait for each password that is being computed: one takes some 50 ms of a processor, so nobody waits for much longer
// than a second, and neither does a switchover, for which requests are waited for.
const waitForPassword = 16

// errPasswords refuses who would have to wait for longer. It is not Unavailable: the endpoint would try again by itself, and again.
var errPasswords = status.Error(codes.ResourceExhausted, "etcdserver: too many passwords are being checked at the moment, try again later")

// passwords bounds the hashes of passwords that are computed at a time. Anybody who reaches the endpoint can ask for one, and each keeps a processor
// busy for long: one is left for heartbeats and for those who have a token.
type passwords struct {
	slots   chan struct{}
	waiting atomic.Int64
}

func newPasswords() *passwords {
	return &passwords{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))}
}

// do computes when it is its turn. An error means that it did not: errPasswords, that of ctx, or because ended was closed.
func (p *passwords) do(ctx context.Context, ended <-chan struct{}, compute func()) error {
	select {
	case p.slots <- struct{}{}:
	default:
		defer p.waiting.Add(-1)
		if p.waiting.Add(1) > int64(waitForPassword*cap(p.slots)) {
			return errPasswords
		}
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			return kineshim.Unavailable("the engine ended before the password was checked")
		}
	}
	defer func() { <-p.slots }()
	compute()
	return nil
}
