package native

import "sync"

// holds lets readers keep the rows that they are about to read, and the compactor wait for those that began before it. A
// reader that begins after the compacted revision has moved needs nothing that is garbage below it. The zero value is ready.
type holds struct {
	mu  sync.Mutex // guards gen and the generations' fields
	gen *generation
}

// generation is the readers that began between two compactions.
type generation struct {
	readers int
	ended   chan struct{} // closed when it is over and nobody of it is left
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
	if g.readers == 0 && g != h.gen {
		close(g.ended)
	}
}

// next begins a new generation and returns what is closed when everybody of those before has left. Of two calls the second
// waits for the first's channel by itself: the caller is one goroutine that waits each time.
func (h *holds) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.gen
	h.gen = newGeneration()
	if old == nil {
		old = newGeneration()
	}
	if old.readers == 0 {
		close(old.ended)
	}
	return old.ended
}
