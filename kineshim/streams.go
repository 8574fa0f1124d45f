package kineshim

import (
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxStreams bounds the streams of all clients together, of watches and of keep-alives above all: some 20 KB each, if nothing waits to be sent. It is more
// than two for each client that default limits let connect.
const maxStreams = 50_000

// errTooManyStreams refuses one more. Clients try it again by themselves.
var errTooManyStreams = status.Error(codes.Unavailable, "etcdserver: too many streams are open at this node")

// streams counts clients' streams.
type streams struct{ open atomic.Int64 }

// enter counts one in until leave, or says why not.
func (s *streams) enter() error {
	if s.open.Add(1) > maxStreams {
		s.open.Add(-1)
		return errTooManyStreams
	}
	return nil
}

func (s *streams) leave() { s.open.Add(-1) }
