package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"kineshim/proto"
)

// control is a data node's control service as far as shimctl sees it. A nil function answers Unimplemented.
type control struct {
	proto.UnimplementedControlServer
	status  func(context.Context) (*proto.StatusResponse, error)
	promote func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error)
	preview func(*proto.PreviewForceRequest) (*proto.PreviewForceResponse, error)
	paused  func(*proto.SetPausedRequest) error
	revoke  func(*proto.RevokeRequest) error
	replace func(*proto.ReplaceRequest) *proto.ReplaceResponse
	// previewAlone and serveAlone are set together.
	previewAlone *proto.PreviewAloneResponse
	serveAlone   func(*proto.ServeAloneRequest) *proto.ServeAloneResponse
	events       []*proto.HistoryEvent

	mu       sync.Mutex // guards promoted
	promoted []*proto.PromoteRequest
}

func (c *control) Status(ctx context.Context, _ *proto.StatusRequest) (*proto.StatusResponse, error) {
	return c.status(ctx)
}

func (c *control) Promote(ctx context.Context, r *proto.PromoteRequest) (*proto.PromoteResponse, error) {
	c.mu.Lock()
	c.promoted = append(c.promoted, r)
	c.mu.Unlock()
	if c.promote == nil {
		return &proto.PromoteResponse{Done: true, Epoch: 5, TookMs: 280}, nil
	}
	return c.promote(ctx, r)
}

func (c *control) promotions() []*proto.PromoteRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.promoted
}

func (c *control) PreviewForce(ctx context.Context, r *proto.PreviewForceRequest) (*proto.PreviewForceResponse, error) {
	if c.preview == nil {
		return c.UnimplementedControlServer.PreviewForce(ctx, r)
	}
	return c.preview(r)
}

func (c *control) SetPaused(ctx context.Context, r *proto.SetPausedRequest) (*proto.SetPausedResponse, error) {
	if c.paused == nil {
		return c.UnimplementedControlServer.SetPaused(ctx, r)
	}
	return &proto.SetPausedResponse{}, c.paused(r)
}

func (c *control) Revoke(_ context.Context, r *proto.RevokeRequest) (*proto.RevokeResponse, error) {
	return &proto.RevokeResponse{}, c.revoke(r)
}

func (c *control) Replace(ctx context.Context, r *proto.ReplaceRequest) (*proto.ReplaceResponse, error) {
	if c.replace == nil {
		return c.UnimplementedControlServer.Replace(ctx, r)
	}
	return c.replace(r), nil
}

func (c *control) PreviewAlone(context.Context, *proto.PreviewAloneRequest) (*proto.PreviewAloneResponse, error) {
	return c.previewAlone, nil
}

func (c *control) ServeAlone(_ context.Context, r *proto.ServeAloneRequest) (*proto.ServeAloneResponse, error) {
	return c.serveAlone(r), nil
}

func (c *control) History(context.Context, *proto.HistoryRequest) (*proto.HistoryResponse, error) {
	return &proto.HistoryResponse{Events: c.events}, nil
}

// serve starts a node's control socket, with what else is registered on it, and returns its path.
func serve(t *testing.T, c *control, also ...func(*grpc.Server)) string {
	t.Helper()
	path := filepath.Join(socketDir(t), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	proto.RegisterControlServer(s, c)
	for _, register := range also {
		register(s)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return path
}

// socketDir is a directory whose path is short enough for a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "shimctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// always answers each status request with the same.
func always(st *proto.StatusResponse) func(context.Context) (*proto.StatusResponse, error) {
	return func(context.Context) (*proto.StatusResponse, error) { return st, nil }
}

type result struct {
	code           int
	stdout, stderr string
}

// invoke runs shimctl with the sockets given; stdin is not a terminal.
func invoke(t *testing.T, sockets []string, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code := run(ctx, withSockets(sockets, args), strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

func withSockets(sockets, args []string) []string {
	var all []string
	for _, s := range sockets {
		all = append(all, "--socket", s)
	}
	return append(all, args...)
}

// expect checks the exit code and that each text stands in stdout (plain) or stderr ("stderr: ...").
func (r result) expect(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, want := range texts {
		got := r.stdout
		if w, ok := strings.CutPrefix(want, "stderr: "); ok {
			got, want = r.stderr, w
		}
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
	}
}

// syncBuffer is a bytes.Buffer that one goroutine may read while another writes.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// waitFor polls until what it returns is true.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

const gib = 1 << 30

// paired is a healthy cluster as node a, its primary, sees it.
func paired() *proto.StatusResponse {
	return &proto.StatusResponse{
		ClusterId: "c-7f3a", Node: "a", Epoch: 4, Primary: "a", Mode: "paired", InSync: []string{"a", "b"}, Timeline: 4,
		Armed: true, Serving: true, Leader: "a", Term: 9, Version: "v0.1",
		Nodes: []*proto.NodeStatus{
			{Name: "a", Role: "data", Self: true, Reachable: true, Health: "ok", InSync: true, State: &proto.NodeState{
				Node: "a", Version: "v0.1", Role: "primary", Timeline: 4, FlushLsn: 3*gib + 0x148, GateOpen: true, Leader: true, LeaseLeftMs: 420}},
			{Name: "b", Role: "data", Reachable: true, HeardMs: 80, Health: "ok", InSync: true, LagKnown: true, LagBytes: 1536, State: &proto.NodeState{
				Node: "b", Version: "v0.1", Role: "standby", Timeline: 4, FlushLsn: 3*gib + 0x148 - 1536, Streaming: true, GateReason: "standby"}},
			{Name: "w", Role: "witness", Reachable: true, HeardMs: 120, Health: "ok"},
		},
	}
}

// cloning is paired after b was lost and is cloned anew.
func cloning() *proto.StatusResponse {
	st := paired()
	st.Mode, st.InSync, st.Armed, st.NotArmed = "solo", []string{"a"}, false, []string{"b is not in sync: it is being cloned"}
	st.Nodes[0].State.LeaseLeftMs = 0
	st.Nodes[1] = &proto.NodeStatus{Name: "b", Role: "data", Reachable: true, HeardMs: 80, Health: "cloning", State: &proto.NodeState{
		Node: "b", Role: "cloning", GateReason: "no data yet",
		Progress: &proto.Progress{What: "clone", DoneBytes: 64 << 20, TotalBytes: 256 << 20, ElapsedMs: 4000}}}
	return st
}

// orphaned is seen by b, whose primary is gone while it was not in sync.
func orphaned() *proto.StatusResponse {
	st := cloning()
	st.Node, st.Serving, st.Leader = "b", false, "w"
	st.NotArmed = []string{"b may lack acknowledged writes"}
	a := st.Nodes[0]
	a.Self, a.Reachable, a.HeardMs, a.Health = false, false, 754_000, "unreachable"
	b := st.Nodes[1]
	b.Self, b.HeardMs, b.Health = true, 0, "ok"
	b.State.Role, b.State.Progress, b.State.GateReason, b.State.FlushLsn, b.State.Timeline = "standby", nil, "a is the primary", 2*gib, 4
	return st
}

// variant is what base returns, changed.
func variant(base func() *proto.StatusResponse, change func(*proto.StatusResponse)) *proto.StatusResponse {
	st := base()
	change(st)
	return st
}

func event(sec int64, epoch uint64, kind, node, why string) *proto.HistoryEvent {
	return &proto.HistoryEvent{AtUnixMilli: sec * 1000, Epoch: epoch, Kind: kind, Node: node, Why: why}
}
