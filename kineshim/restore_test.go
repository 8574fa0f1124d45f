package kineshim

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// restoringEngine restores as its function says.
type restoringEngine struct {
	*fakeEngine
	restore func(context.Context, io.Reader, RestoreOptions) (RestoreResult, error)
}

func (e restoringEngine) Restore(ctx context.Context, r io.Reader, o RestoreOptions) (RestoreResult, error) {
	return e.restore(ctx, r, o)
}

// startRestorer starts a primary whose engine restores as f says.
func startRestorer(t *testing.T, f func(*node, io.Reader, RestoreOptions) (RestoreResult, error)) *node {
	t.Helper()
	n := startNode(t, "a")
	n.endpoint.opt.Engine = func(context.Context, Session) (Engine, error) {
		return restoringEngine{n.engine, func(_ context.Context, r io.Reader, o RestoreOptions) (RestoreResult, error) { return f(n, r, o) }}, nil
	}
	n.lead(t)
	return n
}

func TestRestoreIsAnsweredAlthoughItBreaksTheEngine(t *testing.T) {
	n := startRestorer(t, func(n *node, r io.Reader, o RestoreOptions) (RestoreResult, error) {
		b, err := io.ReadAll(r)
		if err != nil || string(b) != "snapshot" || o != (RestoreOptions{Replace: true, Bump: true, TempDir: "/tmp"}) {
			t.Errorf("%q, %+v, %v", b, o, err)
		}
		close(n.engine.failed)
		return RestoreResult{Keys: 3, Revision: 9}, nil
	})
	got, err := n.endpoint.Restore(soon(t), strings.NewReader("snapshot"), RestoreOptions{Replace: true, Bump: true, TempDir: "/tmp"})
	if err != nil || got != (RestoreResult{Keys: 3, Revision: 9}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRestoreOfADeposedPrimaryIsNotCalledDone(t *testing.T) {
	n := startRestorer(t, func(n *node, _ io.Reader, _ RestoreOptions) (RestoreResult, error) {
		n.gate.set(func(g *fakeGate) { g.check, g.dead = errors.New("another is the primary"), true })
		return RestoreResult{Keys: 3, Revision: 9}, nil
	})
	_, err := n.endpoint.Restore(soon(t), strings.NewReader(""), RestoreOptions{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), OutcomeUnknown) {
		t.Error(err)
	}
}

func TestRestoreWaitsForALeaseThatWasMissed(t *testing.T) {
	n := startRestorer(t, func(n *node, _ io.Reader, _ RestoreOptions) (RestoreResult, error) {
		n.gate.set(func(g *fakeGate) { g.check = errors.New("no contact to a majority") })
		go n.gate.set(func(g *fakeGate) { g.check = nil })
		return RestoreResult{Keys: 1}, nil
	})
	if _, err := n.endpoint.Restore(soon(t), strings.NewReader(""), RestoreOptions{}); err != nil {
		t.Error(err)
	}
}

func TestRestoreIsRefusedWhereItCannotBeDone(t *testing.T) {
	restore := func(n *node) error {
		_, err := n.endpoint.Restore(soon(t), strings.NewReader(""), RestoreOptions{})
		return err
	}
	_, standby := startPair(t)
	if err := restore(standby); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "b is not the primary: restore on a") {
		t.Errorf("on the standby: %v", err)
	}
	if err := restore(startNode(t, "a")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nobody yet") {
		t.Errorf("without a primary: %v", err)
	}
	if err := restore(startPrimary(t, "a")); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "engine: native") {
		t.Errorf("with an engine that cannot: %v", err)
	}
	closed := startRestorer(t, func(*node, io.Reader, RestoreOptions) (RestoreResult, error) {
		t.Error("restored behind a closed gate")
		return RestoreResult{}, nil
	})
	closed.gate.set(func(g *fakeGate) { g.closed = errors.New("starting") })
	if err := restore(closed); status.Code(err) != codes.Unavailable {
		t.Errorf("behind a closed gate: %v", err)
	}
}

func TestRestoreKeepsTheEnginesReason(t *testing.T) {
	n := startRestorer(t, func(*node, io.Reader, RestoreOptions) (RestoreResult, error) {
		return RestoreResult{}, status.Error(codes.InvalidArgument, "the snapshot is damaged")
	})
	if _, err := n.endpoint.Restore(soon(t), strings.NewReader(""), RestoreOptions{}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

func TestTheEndOfTheSessionEndsAnUpload(t *testing.T) {
	began := make(chan struct{})
	n := startNode(t, "a")
	n.endpoint.opt.Engine = func(context.Context, Session) (Engine, error) {
		return restoringEngine{n.engine, func(ctx context.Context, _ io.Reader, _ RestoreOptions) (RestoreResult, error) {
			close(began)
			<-ctx.Done()
			return RestoreResult{}, ctx.Err()
		}}, nil
	}
	n.lead(t)
	go func() {
		<-began
		n.endpoint.StopEngine()
	}()
	_, err := n.endpoint.Restore(soon(t), strings.NewReader(""), RestoreOptions{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), errSessionEnded.Error()) {
		t.Error(err)
	}
}
