package honesty

import (
	"sync"
	"sync/atomic"
	"time"
)

// keeper starts the engine anew whenever it fails, as the failover agent does.
type keeper struct {
	r        *rig
	stopping chan struct{}
	ended    sync.WaitGroup
	serving  atomic.Bool
	starts   atomic.Int64 // of engines in place of failed ones

	mu       sync.Mutex // guards refusals
	refusals []error    // of engines to start
}

// keep runs a keeper until stop, or the test's end.
func (r *rig) keep() *keeper {
	k := &keeper{r: r, stopping: make(chan struct{})}
	k.serving.Store(true)
	k.ended.Go(k.run)
	r.t.Cleanup(k.stop)
	return k
}

func (k *keeper) run() {
	for {
		failed := k.r.host.EngineFailed()
		if failed == nil { // the last start was refused
			failed = closed
		}
		select {
		case <-k.stopping:
			return
		case <-failed:
		}
		k.serving.Store(false)
		if err := k.r.host.RestartEngine(); err != nil {
			k.mu.Lock()
			k.refusals = append(k.refusals, err)
			k.mu.Unlock()
			select {
			case <-k.stopping:
				return
			case <-time.After(10 * retryPause):
			}
			continue
		}
		k.starts.Add(1)
		k.serving.Store(true)
	}
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// stop ends the keeper. It may be called twice.
func (k *keeper) stop() {
	k.mu.Lock()
	select {
	case <-k.stopping:
	default:
		close(k.stopping)
	}
	k.mu.Unlock()
	k.ended.Wait()
}

// takeRefusals returns why engines did not start since the last call.
func (k *keeper) takeRefusals() []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	refusals := k.refusals
	k.refusals = nil
	return refusals
}

// wait waits until the engine serves.
func (k *keeper) wait() {
	for deadline := time.Now().Add(recoverBound); !k.serving.Load(); time.Sleep(retryPause) {
		if time.Now().After(deadline) {
			k.r.t.Errorf("no engine has started within %v: %v", recoverBound, k.takeRefusals())
			return
		}
	}
}

// tally counts what calls came to. It is safe for concurrent use.
type tally struct{ tries, answered, refused atomic.Int64 }

// add counts a call. It returns false if it was refused in a way that fails the test, or as it may be.
func (c *tally) add(t tester, what string, err error) bool {
	t.Helper()
	c.tries.Add(1)
	if err == nil {
		c.answered.Add(1)
		return true
	}
	if refused(t, what, err) {
		c.refused.Add(1)
	}
	return false
}
