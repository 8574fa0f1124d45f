package failover

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	pb "kineshim/proto"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// fakeLink goes through the states that the test sends.
type fakeLink struct {
	state connectivity.State
	next  chan connectivity.State
}

func (l *fakeLink) GetState() connectivity.State { return l.state }

func (l *fakeLink) WaitForStateChange(ctx context.Context, _ connectivity.State) bool {
	select {
	case l.state = <-l.next:
		return true
	case <-ctx.Done():
		return false
	}
}

// A process that ends closes its connections: the other node is asked at once, and its port says that nobody is there.
func TestABrokenConnectionIsFollowedByAQuestionAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "b", pairedRecord())
		link := &fakeLink{next: make(chan connectivity.State)}
		f.cfg.PeerLink = link
		ctx, cancel := context.WithCancel(t.Context())
		f.own(func() { f.watchLink(ctx) })
		asked := func() bool {
			synctest.Wait()
			select {
			case <-f.beatCh:
				return true
			default:
				return false
			}
		}
		for _, c := range []struct {
			state connectivity.State
			asks  bool
		}{
			{connectivity.Connecting, false}, {connectivity.Ready, false}, {connectivity.Idle, true}, {connectivity.Connecting, false},
			{connectivity.TransientFailure, false}, {connectivity.Ready, false}, {connectivity.TransientFailure, true},
		} {
			link.next <- c.state
			if got := asked(); got != c.asks {
				t.Errorf("%v: asks %v, want %v", c.state, got, c.asks)
			}
		}
		cancel()
		f.wg.Wait()
	})
}

// What fails while a process ends is asked again soon; what is known, at the usual time.
func TestAQuestionThatFailedIsRepeatedSoon(t *testing.T) {
	refused := status.Error(codes.Unavailable, "connection error: dial tcp 127.0.0.1:1: connect: connection refused")
	for name, c := range map[string]struct {
		state *pb.NodeState
		err   error
		want  time.Duration
	}{
		"answered": {&pb.NodeState{Node: "a", Role: "primary"}, nil, exchangeEvery},
		"refused":  {nil, refused, exchangeEvery},
		"broken":   {nil, status.Error(codes.Unavailable, "error reading from server: EOF"), exchangeAgain},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newAgent(t, "b", pairedRecord())
				f.peer.state, f.peer.err = c.state, c.err
				ctx, cancel := context.WithCancel(t.Context())
				f.own(func() { f.exchange(ctx) })
				synctest.Wait()
				began, asked := time.Now(), f.peer.count()
				for f.peer.count() == asked {
					time.Sleep(time.Millisecond)
					synctest.Wait()
				}
				if d := time.Since(began); d != c.want {
					t.Errorf("asked again after %v, want %v", d, c.want)
				}
				cancel()
				f.wg.Wait()
			})
		})
	}
}
