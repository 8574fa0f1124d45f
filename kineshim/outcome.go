package kineshim

import (
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// OutcomeUnknown is appended to what a client reads when its request may have been done.
const OutcomeUnknown = "; whether the request was done is not known"

// refusal is an error of code Unavailable that says whether anything may have been done.
type refusal struct {
	status  *status.Status
	notDone bool
	// forGood: no later attempt can tell what was done either.
	forGood bool
}

// Error is that of the status.
func (r *refusal) Error() string { return r.status.Err().Error() }

// GRPCStatus is what the client gets.
func (r *refusal) GRPCStatus() *status.Status { return r.status }

// Unavailable is how a request is refused that cannot be answered now and of which nothing was begun. It has the code and the first words of
// etcd's ErrGRPCNoLeader, on which clients retry reads but not writes, and then says why. A why that ends in OutcomeUnknown makes it InDoubt.
func Unavailable(why string) error {
	if known, unknown := strings.CutSuffix(why, OutcomeUnknown); unknown {
		return InDoubt(known)
	}
	return &refusal{status: noLeader(why), notDone: true}
}

// InDoubt is how a request is refused that may have been done.
func InDoubt(why string) error { return &refusal{status: noLeader(why + OutcomeUnknown)} }

// InDoubtForGood is InDoubt when it is no use to try again.
func InDoubtForGood(why string) error {
	return &refusal{status: noLeader(why + OutcomeUnknown), forGood: true}
}

// forGood says whether an error is of InDoubtForGood.
func forGood(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.forGood
}

func noLeader(why string) *status.Status { return status.New(codes.Unavailable, noLeaderPrefix+why) }

var noLeaderPrefix = rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) + ": "

// NotDone says whether an error is a refusal of something of which nothing was begun: it may be repeated, whatever it is.
func NotDone(err error) bool {
	if err == nil {
		return false
	}
	r, ok := errors.AsType[*refusal](err)
	return ok && r.notDone
}

// doubtful says whether an error leaves open what was done. Other codes than Unavailable are an engine's decision.
func doubtful(err error) bool {
	return err != nil && status.Code(err) == codes.Unavailable && !NotDone(err)
}

// crowded says whether an error means that too many requests are under way. Nothing was begun.
func crowded(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && status.Convert(err).Message() == rpctypes.ErrorDesc(errTooManyCalls)
}

// waited is what a client reads whose request could not be answered in time: the last reason and what else there is to say. The details of the
// last reason are kept.
func waited(last error, unknown bool, more string) error {
	s := status.Convert(last).Proto()
	s.Code = int32(codes.Unavailable)
	s.Message = strings.TrimSuffix(s.Message, OutcomeUnknown) + "; " + more
	if unknown {
		s.Message += OutcomeUnknown
	}
	return &refusal{status: status.FromProto(s), notDone: !unknown}
}
