package kineshim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Attempt identifies a write across its repetitions, so that the store can tell whether it has been done already.
type Attempt struct {
	// ID is random and greater than 0. It is kept with the rows that the write makes.
	ID int64
	// Again says that the write may have been done by an attempt before, which can no longer come into effect if it has not.
	Again bool
	// After is the ID of a row that is older than the first attempt.
	After int64
}

// attemptKey is the context key of an *Attempt.
type attemptKey struct{}

// WithAttempt returns a context that carries the attempt to an engine.
func WithAttempt(ctx context.Context, a Attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, &a)
}

// AttemptOf returns the attempt that a context carries.
func AttemptOf(ctx context.Context) (Attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(*Attempt)
	if !ok || a.ID == 0 {
		return Attempt{}, false
	}
	return *a, true
}

// newAttempt is the attempt of a write that arrives now; the zero Attempt, which cannot be repeated, if there is no copy whose position could
// bound the search for it.
func (e *Endpoint) newAttempt() Attempt {
	if e.opt.Replica == nil {
		return Attempt{}
	}
	after := e.opt.Replica.Position()
	if after <= 0 {
		return Attempt{}
	}
	for {
		if id := rand.Int64(); id != 0 {
			return Attempt{ID: id, After: after}
		}
	}
}

// The metadata of a forwarded call: the epoch of the primary that is meant, as a decimal number, and the attempt: its ID, After and Again, each
// a value of its own.
const (
	epochMetadata   = "kineshim-epoch"
	attemptMetadata = "kineshim-attempt"
)

// mark puts what the primary must know of a forwarded call into its metadata, in place of what a client may have put there.
func mark(md metadata.MD, epoch uint64, a Attempt) {
	delete(md, epochMetadata)
	delete(md, attemptMetadata)
	if epoch != 0 {
		md[epochMetadata] = []string{strconv.FormatUint(epoch, 10)}
	}
	if a.ID != 0 {
		md[attemptMetadata] = []string{strconv.FormatInt(a.ID, 10), strconv.FormatInt(a.After, 10), strconv.FormatBool(a.Again)}
	}
}

// marks reads what mark has written; 0 and the zero Attempt if there is nothing.
func marks(ctx context.Context) (epoch uint64, a Attempt, err error) {
	if v := metadata.ValueFromIncomingContext(ctx, epochMetadata); len(v) > 0 {
		if epoch, err = strconv.ParseUint(v[0], 10, 64); err != nil {
			return 0, a, badMark(epochMetadata, v)
		}
	}
	v := metadata.ValueFromIncomingContext(ctx, attemptMetadata)
	if len(v) == 0 {
		return epoch, a, nil
	}
	if len(v) != 3 {
		return 0, a, badMark(attemptMetadata, v)
	}
	var errs [3]error
	a.ID, errs[0] = strconv.ParseInt(v[0], 10, 64)
	a.After, errs[1] = strconv.ParseInt(v[1], 10, 64)
	a.Again, errs[2] = strconv.ParseBool(v[2])
	if errs != [3]error{} || a.ID <= 0 {
		return 0, Attempt{}, badMark(attemptMetadata, v)
	}
	return epoch, a, nil
}

func badMark(key string, v []string) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf("forwarded with metadata %s that cannot be read: %q", key, v))
}
