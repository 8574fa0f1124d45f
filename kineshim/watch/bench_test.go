package watch

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// sink is a stream that takes everything at once.
type sink struct {
	grpc.ServerStream
	ctx    context.Context
	in     chan *pb.WatchRequest
	events func(*pb.WatchResponse)
}

func (s *sink) Context() context.Context { return s.ctx }

func (s *sink) Recv() (*pb.WatchRequest, error) {
	select {
	case r := <-s.in:
		return r, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *sink) Send(r *pb.WatchResponse) error {
	s.events(r)
	return nil
}

// crowd is a hub with 16 watchers of one prefix, each on its own stream, and 1,000 idle ones of others on 10 streams.
func crowd(b *testing.B, events func(*pb.WatchResponse)) *Hub {
	h := NewHub(Config{Source: newStore(), Revision: 1})
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(func() { cancel(); h.Close() })
	created := make(chan struct{}, 2000)
	open := func(prefixes ...string) {
		s := &sink{ctx: ctx, in: make(chan *pb.WatchRequest, len(prefixes))}
		s.events = func(r *pb.WatchResponse) {
			if r.Created {
				created <- struct{}{}
				return
			}
			events(r)
		}
		for _, p := range prefixes {
			s.in <- &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: prefix(p, 0)}}
		}
		go func() { _ = h.Serve(s) }()
	}
	for range 16 {
		open("/registry/pods/")
	}
	for i := range 10 {
		var idle []string
		for j := range 100 {
			idle = append(idle, fmt.Sprintf("/registry/resource%d/namespace%d/", i, j))
		}
		open(idle...)
	}
	for range 1016 {
		<-created
	}
	return h
}

func change(revision int64, key string) Commit {
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: make([]byte, 1000), CreateRevision: 2, ModRevision: revision, Version: 2}
	return Commit{Revision: revision, Events: []Event{{Kv: kv, Prev: kv}}}
}

// BenchmarkPublish publishes one event at a time; per event, with its sending where there are watchers.
func BenchmarkPublish(b *testing.B) {
	for name, key := range map[string]string{
		"to 16 watchers": "/registry/pods/default/pod-1", "to none": "/registry/leases/kube-node-lease/node-1",
	} {
		for _, batch := range []int{1, 20} {
			b.Run(fmt.Sprintf("%s by %d", name, batch), func(b *testing.B) {
				h := crowd(b, func(*pb.WatchResponse) {})
				revision := int64(1)
				commits := make([]Commit, batch)
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += batch {
					for j := range commits {
						revision++
						commits[j] = change(revision, key)
					}
					h.Publish(commits, revision)
				}
			})
		}
	}
}

// BenchmarkLatency is the time from Publish until the last of 16 watchers is sent the event.
func BenchmarkLatency(b *testing.B) {
	sent := make(chan struct{}, 16)
	h := crowd(b, func(*pb.WatchResponse) { sent <- struct{}{} })
	var slowest time.Duration
	for i := range b.N {
		time.Sleep(50 * time.Microsecond) // so that all are asleep
		b.StartTimer()
		start := time.Now()
		h.Publish([]Commit{change(int64(i)+2, "/registry/pods/x")}, int64(i)+2)
		for range 16 {
			<-sent
		}
		slowest = max(slowest, time.Since(start))
		b.StopTimer()
	}
	b.ReportMetric(float64(slowest.Nanoseconds()), "slowest-ns")
}

// BenchmarkProgress is the time from a request for progress to its answer.
func BenchmarkProgress(b *testing.B) {
	h := NewHub(Config{Source: newStore(), Revision: 1})
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(func() { cancel(); h.Close() })
	answers := make(chan struct{})
	s := &sink{ctx: ctx, in: make(chan *pb.WatchRequest), events: func(*pb.WatchResponse) { answers <- struct{}{} }}
	go func() { _ = h.Serve(s) }()
	for i := range 1000 {
		q := prefix(fmt.Sprintf("k%d/", i), 0)
		s.in <- &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}}
		<-answers
	}
	ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	b.ResetTimer()
	for range b.N {
		s.in <- ask
		<-answers
	}
}

// BenchmarkMatch finds the watchers of a key among 10,000 prefixes.
func BenchmarkMatch(b *testing.B) {
	var m matcher
	for i := range 10_000 {
		p := prefix(fmt.Sprintf("/registry/resource%d/namespace%d/", i%100, i/100), 0)
		m.group(newWatcher(nil, p).span)
	}
	key := []byte("/registry/resource50/namespace50/name")
	b.ReportAllocs()
	for range b.N {
		if len(m.match(key)) != 1 {
			b.Fatal("no match")
		}
	}
}

// BenchmarkFollow is the time from Publish until a follower is sent the commit, and what Publish takes while it has one.
func BenchmarkFollow(b *testing.B) {
	h := NewHub(Config{Source: newStore(), Revision: 1})
	ctx, cancel := context.WithCancel(context.Background())
	sent, ended := make(chan int64, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_ = h.Follow(ctx, 1, func(f Followed) error {
			sent <- f.Revision
			return nil
		})
	}()
	<-sent
	var slowest, publishing time.Duration
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		time.Sleep(50 * time.Microsecond) // so that it is asleep
		b.StartTimer()
		start := time.Now()
		h.Publish([]Commit{change(int64(i)+2, "/registry/pods/x")}, int64(i)+2)
		publishing += time.Since(start)
		<-sent
		slowest = max(slowest, time.Since(start))
	}
	b.ReportMetric(float64(slowest.Nanoseconds()), "slowest-ns")
	b.ReportMetric(float64(publishing.Nanoseconds())/float64(b.N), "publish-ns/op")
	cancel()
	<-ended
	h.Close()
}
