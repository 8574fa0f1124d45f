package workload

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim.example/linearizability/history"
)

const (
	// outcomeUnknown ends the refusal of a request that may have been done: kineshim.OutcomeUnknown.
	outcomeUnknown = "; whether the request was done is not known"
	// serverSays begins all errors that a server gave; others were made by the client's own side of the connection.
	serverSays = "etcdserver: "
)

// outcomeOf is what a client knows of a request that got an error. A refusal of the server's that does not say otherwise claims that nothing was done: it
// is taken at its word, so that a false claim is found.
func outcomeOf(err error) history.Outcome {
	s := status.Convert(err)
	if !strings.HasPrefix(s.Message(), serverSays) || strings.HasSuffix(s.Message(), outcomeUnknown) {
		return history.Unknown
	}
	switch s.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return history.NotDone
	}
	return history.Unknown
}
