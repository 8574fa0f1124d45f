package native

import "sync"

// holds lets readers keep the rows that they are about to read, and the compactor wait for those that began before it. A
// reader that begins after the compacted revision has moved needs nothing that is garbage below it. The zero value is ready.
type holds struct {
	mu  sync.Mutex // guards the fields below, and the generations'
	gen *generation
	// before are the generations before gen that have not ended, the oldest first.
	before []*generation
}

// generation is the readers that began between two compactions.
type generation struct {
	readers int
	ended   chan struct{} // closed when it is over, and nobody is left of it nor of those before
}

func newGeneration() *generation { return &generation{ended: make(chan struct{})} }

// enter is called before the compacted revision is read.
func (h *holds) enter() *generation {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gen == nil {
		h.gen = newGeneration()
	}
	h.gen.readers++
	return h.gen
}

func (h *holds) leave(g *generation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g.readers--
	h.end()
}

// end closes what has ended. h.mu is held.
func (h *holds) end() {
	for len(h.before) > 0 && h.before[0].readers == 0 {
		close(h.before[0].ended)
		h.before = h.before[1:]
	}
}

// next begins a new generation and returns what is closed when everybody of those before has left, also of one whose end nobody has waited for.
func (h *holds) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.gen
	if old == nil {
		old = newGeneration()
	}
	h.gen, h.before = newGeneration(), append(h.before, old)
	h.end()
	return old.ended
}
