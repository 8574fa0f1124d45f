package watch

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// progress says that the watcher, or all of the stream's, have been sent everything up to a revision.
func progress(id, revision int64) *pb.WatchResponse {
	return &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}, WatchId: id}
}

// events sends a batch, in as few responses as the size bound allows; in one if it may be sent in fragments. A commit is
// never split. It sends nothing if nothing passes the watcher's filters. Of an event at the compacted revision it shows no
// previous value, as etcd: Kubernetes takes that for a watch that began too far back.
func (s *stream) events(b batch) error {
	var events []*mvccpb.Event
	bytes := 0
	for i, p := range b.parts {
		if len(events) > 0 && bytes+p.bytes > s.hub.responseBytes && !b.w.fragment {
			if err := s.respond(b.w, events, b.parts[i-1].commit.revision); err != nil {
				return err
			}
			events, bytes = nil, 0
		}
		for _, e := range p.entries {
			if !b.w.wants(e) {
				continue
			}
			event := &e.plain
			if b.w.prevKV && p.commit.revision > b.compacted {
				var err error
				if event, err = e.with(s.ctx, s.hub.source); err != nil {
					return status.Errorf(codes.Unavailable, "etcdserver: watch: read the previous value: %v", err)
				}
			}
			events = append(events, event)
			bytes += e.bytes
		}
	}
	if len(events) == 0 {
		return nil
	}
	return s.respond(b.w, events, b.through)
}

// respond sends events, in fragments if the watcher asked for them. Nothing is sent between the fragments of a response:
// clientv3 would lose it.
func (s *stream) respond(w *watcher, events []*mvccpb.Event, revision int64) error {
	w.quiet = false
	r := pb.WatchResponse{WatchId: w.id}
	header := pb.ResponseHeader{Revision: revision}
	if !w.fragment {
		r.Header, r.Events = &header, events
		return s.deliver(&r)
	}
	for len(events) > 0 {
		empty := &pb.WatchResponse{Header: &header, WatchId: w.id, Fragment: true}
		n := fragment(empty, events, s.hub.responseBytes+fragmentOverhead)
		// The sender of each message may fill in its header: each has its own.
		own := header
		r := &pb.WatchResponse{Header: &own, WatchId: w.id, Events: events[:n:n], Fragment: n < len(events)}
		if err := s.deliver(r); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// fragment returns how many of the events fit with the empty response below a limit in bytes, at least one.
func fragment(empty *pb.WatchResponse, events []*mvccpb.Event, limit int) int {
	bytes := empty.Size()
	for i, e := range events {
		size := e.Size()
		if bytes += 1 + varintSize(size) + size; bytes >= limit && i > 0 {
			return i
		}
	}
	return len(events)
}

// varintSize is the length of a number on the wire.
func varintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
