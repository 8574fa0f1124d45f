package workload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim.example/linearizability/history"
)

func TestOnlyAServersWordMakesARequestNotDone(t *testing.T) {
	for _, test := range []struct {
		err  error
		want history.Outcome
	}{
		{status.Error(codes.Unavailable, "etcdserver: no leader: no primary is known"), history.NotDone},
		{status.Error(codes.Unavailable, "etcdserver: no leader: forwarding to x: lost"+outcomeUnknown), history.Unknown},
		{status.Error(codes.ResourceExhausted, "etcdserver: too many requests"), history.NotDone},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), history.Unknown},
		{status.Error(codes.Unavailable, "connection error: desc = connection refused"), history.Unknown},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), history.Unknown},
		{status.Error(codes.DeadlineExceeded, "etcdserver: request timed out"), history.Unknown},
		{status.Error(codes.Internal, "etcdserver: what"), history.Unknown},
		{context.Canceled, history.Unknown},
		{malformedError{"x"}, history.Unknown},
		{errors.New("x"), history.Unknown},
	} {
		if have := outcomeOf(test.err); have != test.want {
			t.Errorf("%v: %s, not %s", test.err, have, test.want)
		}
	}
}

func TestTheTextOfUnknownOutcomesIsKineshims(t *testing.T) {
	files, err := filepath.Glob("../../../kineshim/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), `OutcomeUnknown = "`+outcomeUnknown+`"`) {
			return
		}
	}
	t.Errorf("kineshim.OutcomeUnknown is not %q any more", outcomeUnknown)
}
