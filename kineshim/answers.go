package kineshim

import (
	"errors"
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

const (
	// largeAnswer is from where on answers are counted. Smaller ones are not worth it: there are as many at most as streams.
	largeAnswer = 64 << 10
	// maxAnswers bounds the large answers that their clients have not taken yet, in bytes: a client that asks for everything a thousand times and does not
	// read would have the node hold everything a thousand times. One answer alone may be larger.
	maxAnswers = 512 << 20
)

// errManyAnswers takes the place of an answer. gRPC gives it to the client as Internal.
var errManyAnswers = errors.New("too many large answers wait for clients that do not read them")

// answers counts the large ones that are on their way. Nil: they are not counted.
type answers struct {
	most    int64
	waiting atomic.Int64 // bytes
}

// hold counts an answer until gRPC has sent it, or has dropped it.
func (a *answers) hold(b mem.BufferSlice) (mem.BufferSlice, error) {
	size := int64(b.Len())
	if a == nil || size < largeAnswer {
		return b, nil
	}
	if now := a.waiting.Add(size); now > a.most && now > size {
		a.waiting.Add(-size)
		b.Free()
		return nil, errManyAnswers
	}
	h := &heldAnswer{answers: a, inner: b, size: size}
	h.unheard = runtime.AddCleanup(h, func(size int64) { a.waiting.Add(-size) }, size)
	data := b[0].ReadOnlyData()
	if len(b) > 1 {
		data = b.Materialize()
	}
	return mem.BufferSlice{mem.NewBuffer(&data, h)}, nil
}

// heldAnswer is told, as the pool of the buffer around it, when gRPC needs the answer no more.
type heldAnswer struct {
	answers *answers
	inner   mem.BufferSlice
	size    int64
	// unheard is for answers that gRPC forgets without saying so, as it may when a connection breaks: they are counted until they are collected.
	unheard runtime.Cleanup
}

// Get is not for this pool: it has one buffer, which is in use.
func (h *heldAnswer) Get(length int) *[]byte { b := make([]byte, length); return &b }

// Put gives the answer back, once.
func (h *heldAnswer) Put(*[]byte) {
	h.unheard.Stop()
	h.answers.waiting.Add(-h.size)
	h.inner.Free()
}
