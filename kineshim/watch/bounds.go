package watch

import "errors"

const (
	// defaultStreamPending bounds what waits for all watches of one stream together, with what its sending goroutine has taken: a client with ten thousand
	// watches that does not read holds no more. What several watches wait for is counted for each.
	defaultStreamPending = 16 << 20
	// defaultHubPending is for all streams together. When it is used up, streams whose clients have something waiting for them get no more, so that it is
	// those who do not read who have to read on from the ring, and not the others.
	defaultHubPending = 256 << 20
	// defaultMaxWatches and defaultStreamWatches bound the watches of the node, and those of one stream, so that no single client takes all. A watch that is
	// quiet takes about 400 bytes and its key, half a gigabyte all together; Kubernetes' API server has some hundreds.
	defaultMaxWatches    = 800_000
	defaultStreamWatches = 200_000
)

// errTooMany is the reason of a watch that is not made.
var errTooMany = errors.New("etcdserver: too many watches")

// Bounds are those of a hub's memory. Zero stands for the default.
type Bounds struct {
	// StreamPending and HubPending are bytes.
	StreamPending, HubPending int
	// Watches and StreamWatches are numbers.
	Watches, StreamWatches int
}

func (b Bounds) orDefaults() Bounds {
	return Bounds{
		StreamPending: orDefault(b.StreamPending, defaultStreamPending), HubPending: orDefault(b.HubPending, defaultHubPending),
		Watches: orDefault(b.Watches, defaultMaxWatches), StreamWatches: orDefault(b.StreamWatches, defaultStreamWatches),
	}
}

// crowded says whether the stream is to get no more bytes for now. The caller holds mu.
func (s *stream) crowded(bytes int) bool {
	return s.pending > 0 && (s.pending+bytes > s.hub.bounds.StreamPending || s.hub.pending.Load()+int64(bytes) > int64(s.hub.bounds.HubPending))
}

// hold counts bytes that wait for the stream; less than 0: they do not any more. What is counted when the stream has been dropped, nobody holds. The caller
// holds mu.
func (s *stream) hold(bytes int) {
	if s.watchers == nil {
		return
	}
	s.pending += bytes
	s.hub.pending.Add(int64(bytes))
}

// full says why there may be no further watch on the stream; nil: there may. The caller holds the hub's mu and the stream's.
func (h *Hub) full(s *stream) error {
	if h.watchers >= h.bounds.Watches || len(s.watchers) >= h.bounds.StreamWatches {
		return errTooMany
	}
	return nil
}
