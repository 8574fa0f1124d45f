package watch

// Stats are numbers of a hub.
type Stats struct {
	// Streams are clients' streams, Watchers the watches in them. Lagging are those of the watches that are reading on from what was published before.
	Streams, Watchers, Lagging int
}

// Stats looks.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := Stats{Streams: len(h.streams)}
	for s := range h.streams {
		s.mu.Lock()
		st.Watchers += len(s.watchers) - s.ended
		st.Lagging += s.lagging
		s.mu.Unlock()
	}
	return st
}
