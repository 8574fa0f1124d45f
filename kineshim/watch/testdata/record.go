//go:build ignore

// Record runs the steps of etcd.txt against an etcd in this process, and writes etcd.txt anew. It needs a module that requires
// go.etcd.io/etcd/server/v3: copy it there and run "go run record.go etcd.txt".
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// quiet is how long nothing must come until a step is over; etcd looks for watchers that lag every 100 ms.
const quiet = 250 * time.Millisecond

func main() {
	text, err := os.ReadFile(os.Args[1])
	must(err)
	var out strings.Builder
	var r *recorder
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		step, is := strings.CutPrefix(line, "> ")
		switch {
		case is && step == "new":
			if r != nil {
				r.stop()
			}
			r = start()
			fmt.Fprintln(&out, line)
		case is:
			fmt.Fprintln(&out, line)
			for _, sent := range r.do(step) {
				fmt.Fprintln(&out, sent)
			}
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		}
	}
	r.stop()
	must(os.WriteFile(os.Args[1], []byte(out.String()), 0o644))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

type recorder struct {
	etcd   *embed.Etcd
	dir    string
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	stream pb.Watch_WatchClient
	sent   chan *pb.WatchResponse
}

func start() *recorder {
	dir, err := os.MkdirTemp("", "record-")
	must(err)
	c := embed.NewConfig()
	c.Dir, c.LogLevel = dir+"/data", "error"
	c.UnsafeNoFsync = true
	peer, err := url.Parse("unix://" + dir + "/p.sock:0")
	must(err)
	client, err := url.Parse("unix://" + dir + "/c.sock:0")
	must(err)
	c.ListenPeerUrls, c.ListenClientUrls = []url.URL{*peer}, []url.URL{*client}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2"}}
	c.InitialCluster = c.Name + "=http://127.0.0.1:1"
	e, err := embed.StartEtcd(c)
	must(err)
	<-e.Server.ReadyNotify()
	conn, err := grpc.NewClient("unix://"+dir+"/c.sock:0", grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	must(err)
	r := &recorder{etcd: e, dir: dir, conn: conn, cancel: cancel, stream: stream, sent: make(chan *pb.WatchResponse)}
	go func() {
		for {
			w, err := stream.Recv()
			if err != nil {
				return
			}
			r.sent <- w
		}
	}()
	return r
}

func (r *recorder) stop() {
	r.cancel()
	_ = r.conn.Close()
	r.etcd.Close()
	_ = os.RemoveAll(r.dir)
}

func (r *recorder) do(step string) (shown []string) {
	ctx := context.Background()
	kv := pb.NewKVClient(r.conn)
	var err error
	switch name, rest, _ := strings.Cut(step, " "); name {
	case "compact":
		revision, _ := strconv.ParseInt(rest, 10, 64)
		_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: revision, Physical: true})
	case "create", "cancel", "progress":
		err = r.stream.Send(request(name, rest))
	default:
		var ops []*pb.RequestOp
		for _, o := range strings.Split(strings.TrimPrefix(step, "txn "), "; ") {
			f := strings.Fields(unescape(o))
			if f[0] == "put" {
				p := &pb.PutRequest{Key: []byte(f[1]), Value: []byte(f[2])}
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
			} else {
				d := &pb.DeleteRangeRequest{Key: []byte(f[1])}
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}})
			}
		}
		_, err = kv.Txn(ctx, &pb.TxnRequest{Success: ops})
	}
	must(err)
	var sent []*pb.WatchResponse
	for {
		select {
		case w := <-r.sent:
			sent = append(sent, w)
			continue
		case <-time.After(quiet):
		}
		break
	}
	sort.SliceStable(sent, func(i, j int) bool { return sent[i].WatchId < sent[j].WatchId })
	for _, w := range sent {
		shown = append(shown, show(w))
	}
	return shown
}

func unescape(s string) string { return strings.ReplaceAll(s, `\x00`, "\x00") }

func request(name, rest string) *pb.WatchRequest {
	switch name {
	case "cancel":
		id, _ := strconv.ParseInt(rest, 10, 64)
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
	case "progress":
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	}
	c := &pb.WatchCreateRequest{}
	for _, f := range strings.Fields(unescape(rest)) {
		field, value, _ := strings.Cut(f, "=")
		number, _ := strconv.ParseInt(value, 10, 64)
		switch field {
		case "key":
			c.Key = []byte(value)
		case "end":
			c.RangeEnd = []byte(value)
		case "rev":
			c.StartRevision = number
		case "id":
			c.WatchId = number
		case "prev":
			c.PrevKv = true
		case "notify":
			c.ProgressNotify = true
		case "noput":
			c.Filters = append(c.Filters, pb.WatchCreateRequest_NOPUT)
		case "nodelete":
			c.Filters = append(c.Filters, pb.WatchCreateRequest_NODELETE)
		}
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}}
}

func show(w *pb.WatchResponse) string {
	text := fmt.Sprintf("%d@%d", w.WatchId, w.Header.Revision)
	if w.Created {
		text += " created"
	}
	if w.Canceled {
		text += " canceled"
	}
	if w.CompactRevision != 0 {
		text += fmt.Sprintf(" compacted=%d", w.CompactRevision)
	}
	if w.CancelReason != "" {
		text += fmt.Sprintf(" %q", w.CancelReason)
	}
	if w.Fragment {
		text += " fragment"
	}
	for _, e := range w.Events {
		text += " " + showEvent(e)
	}
	return strings.ReplaceAll(text, "\x00", `\x00`)
}

func showEvent(e *mvccpb.Event) string {
	text := fmt.Sprintf("%d+%s=%s", e.Kv.ModRevision, e.Kv.Key, e.Kv.Value)
	if e.Type == mvccpb.DELETE {
		text = fmt.Sprintf("%d-%s", e.Kv.ModRevision, e.Kv.Key)
		if e.Kv.Value != nil || e.Kv.CreateRevision != 0 || e.Kv.Version != 0 || e.Kv.Lease != 0 {
			text += "!"
		}
	}
	if e.PrevKv != nil {
		text += fmt.Sprintf("(%s)", e.PrevKv.Value)
	}
	return text
}
