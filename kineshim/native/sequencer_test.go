package native

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/kineshim/kinetable"
)

// What such an operation has seen may have been in the batch that was lost.
func TestTurnAfterTheEndIsNotAnsweredAsDurable(t *testing.T) {
	k := newKeyspace(Config{}, slog.New(slog.DiscardHandler))
	k.begin(kinetable.Meta{Untouched: true})
	e := &Engine{keyspace: k, failed: make(chan struct{})}
	q := newSequencer(e)
	e.seq = q
	compared := errors.New("a comparison failed")
	for _, does := range []error{nil, compared} {
		for _, stopped := range []bool{false, true} {
			q.stopped = stopped
			op := &operation{ctx: context.Background(), do: func(*turn) error { return does }, done: make(chan struct{})}
			q.turn(op)
			select {
			case <-op.done:
			default:
				t.Fatal("not answered")
			}
			if want := does; !stopped && op.err != want || stopped && status.Code(op.err) != codes.Unavailable {
				t.Errorf("stopped: %v, operation: %v: answered with %v", stopped, does, op.err)
			}
		}
	}
}
