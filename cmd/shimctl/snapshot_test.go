package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/kineshim/snapshot"
	"kineshim/proto"
)

// snapshotOf is a snapshot of so many keys, with some megabytes if large.
func snapshotOf(t *testing.T, keys int, large bool) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := snapshot.NewWriter(&b, snapshot.Header{
		ClusterID: "c-7f3a", Software: "kineshim v0.1", Taken: time.Now().Add(-90 * time.Second), Revision: 1234, Compacted: 1000, Keys: int64(keys), Leases: 1})
	if err == nil {
		err = w.Lease(snapshot.Lease{ID: 7, TTL: 60, Remaining: time.Second})
	}
	value := []byte("value")
	if large {
		value = bytes.Repeat(value, 100_000)
	}
	for i := range keys {
		if err == nil {
			err = w.Row(snapshot.Row{Key: fmt.Sprintf("/registry/pods/%03d", i), Value: value, Create: 2, Mod: 1234, Version: 3, Lease: 7})
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func snapshotFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.snap")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// saver is an etcd endpoint that sends parts, then ends with err.
type saver struct {
	etcdserverpb.UnimplementedMaintenanceServer
	parts [][]byte
	err   error
}

func (s *saver) Snapshot(_ *etcdserverpb.SnapshotRequest, out etcdserverpb.Maintenance_SnapshotServer) error {
	for i, p := range s.parts {
		if err := out.Send(&etcdserverpb.SnapshotResponse{Blob: p, RemainingBytes: uint64(len(s.parts) - 1 - i)}); err != nil {
			return err
		}
	}
	return s.err
}

// serveSaver starts a node whose etcd API is s, and returns its socket.
func serveSaver(t *testing.T, s *saver) string {
	t.Helper()
	return serve(t, &control{status: always(paired())}, func(g *grpc.Server) { etcdserverpb.RegisterMaintenanceServer(g, s) })
}

func TestSavedSnapshotIsTheOneThatWasSent(t *testing.T) {
	whole := snapshotOf(t, 20, true)
	socket := serveSaver(t, &saver{parts: [][]byte{whole[:1000], nil, whole[1000:]}})
	path := filepath.Join(t.TempDir(), "today.snap")
	r := invoke(t, []string{socket}, "", "snapshot", "save", path)
	r.expect(t, exitFine, "Saved to "+path+" in ", "20 keys and 1 leases at revision 1234, 9.5 MiB")
	if r.stderr != "" {
		t.Errorf("stderr: %q", r.stderr)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d bytes of %d, %v", len(got), len(whole), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(path + ".part"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestFailedSaveKeepsTheFileThatWasThere(t *testing.T) {
	whole := snapshotOf(t, 3, false)
	damaged := bytes.Clone(whole)
	damaged[200] ^= 1
	for name, c := range map[string]struct {
		saver *saver
		says  string
	}{
		"cut short":        {&saver{parts: [][]byte{whole[:300]}}, "cut short"},
		"broken off":       {&saver{parts: [][]byte{whole[:300]}, err: status.Error(codes.Unavailable, "the primary has changed")}, "the primary has changed; see shimctl status"},
		"damaged":          {&saver{parts: [][]byte{damaged}}, "damaged"},
		"no snapshots":     {&saver{err: status.Error(codes.Unimplemented, "not supported")}, "pg_dump"},
		"etcd's own":       {&saver{parts: [][]byte{[]byte(strings.Repeat("x", 544))}}, "not a snapshot of kineshim"},
		"nobody serves it": {&saver{err: status.Error(codes.Unavailable, "etcdserver: no leader")}, "no leader"},
	} {
		t.Run(name, func(t *testing.T) {
			path := snapshotFile(t, []byte("yesterday's"))
			invoke(t, []string{serveSaver(t, c.saver)}, "", "snapshot", "save", path).expect(t, exitFailed, "stderr: nothing was saved: ", "stderr: "+c.says)
			if got, _ := os.ReadFile(path); string(got) != "yesterday's" {
				t.Errorf("the file holds %q", got)
			}
			if _, err := os.Stat(path + ".part"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left behind: %v", err)
			}
		})
	}
}

// Of two that save to one file, the second must not empty what the first is about to give its name.
func TestOnlyOneSavesToAFileAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "all.snap")
	first, err := openPart(path + ".part")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.WriteString("verified"); err != nil {
		t.Fatal(err)
	}
	if f, err := openPart(path + ".part"); err == nil || !strings.Contains(err.Error(), "another snapshot save") {
		t.Errorf("%v, %v", f, err)
	}
	if err := replaceFile(path+".part", path); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := openPart(path + ".part") // a new one
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if b, err := os.ReadFile(path); string(b) != "verified" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestSaveNeedsANodeThatKnowsIt(t *testing.T) {
	s := serve(t, &control{status: always(paired())})
	invoke(t, []string{s}, "", "snapshot", "save", filepath.Join(t.TempDir(), "x")).expect(t, exitFailed, "stderr: give all nodes the same version")
}

func TestSaveShowsProgressOnATerminal(t *testing.T) {
	whole := snapshotOf(t, 20, true)
	socket := serveSaver(t, &saver{parts: [][]byte{whole[:len(whole)/2], whole[len(whole)/2:]}})
	term := openTerminal(t)
	var out bytes.Buffer
	code := run(t.Context(), withSockets([]string{socket}, []string{"snapshot", "save", filepath.Join(t.TempDir(), "x")}), strings.NewReader(""), &out, term.tty)
	if code != exitFine {
		t.Fatalf("exit code %d: %s", code, term.shown())
	}
	waitFor(t, "progress", func() bool { return strings.Contains(term.shown(), "saving: 4.8 MiB, ") })
}

func TestSnapshotStatusNeedsNoNode(t *testing.T) {
	path := snapshotFile(t, snapshotOf(t, 3, false))
	none := []string{deadSocket(t)}
	r := invoke(t, none, "", "snapshot", "status", path)
	r.expect(t, exitFine, path+" is whole.", "cluster   c-7f3a", "revision  1234", "keys      3", "leases    1", "1 min 30 s ago", "kineshim v0.1")
	r = invoke(t, none, "", "snapshot", "status", path, "-o", "json")
	r.expect(t, exitFine)
	var got map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"file", "sizeBytes", "clusterId", "software", "taken", "revision", "compacted", "keys", "leases"} {
		if _, ok := got[key]; !ok {
			t.Errorf("no field %q in %v", key, got)
		}
	}
	if got["revision"] != 1234.0 || got["compacted"] != 1000.0 {
		t.Errorf("%v", got)
	}
}

func TestSnapshotStatusOfWhatIsNone(t *testing.T) {
	whole := snapshotOf(t, 3, false)
	for says, content := range map[string][]byte{"cut short": whole[:500:500], "damaged": append(bytes.Clone(whole), 'x'), "not a snapshot of kineshim": []byte(strings.Repeat("no", 100))} {
		invoke(t, nil, "", "snapshot", "status", snapshotFile(t, content)).expect(t, exitFailed, "stderr: "+says)
	}
	invoke(t, nil, "", "snapshot", "status", "/nowhere/x.snap").expect(t, exitFailed, "stderr: no such file")
}

// restoreControl is a node that takes snapshots.
type restoreControl struct {
	*control
	// answer is what comes of it; after says how many bytes are read before, -1: all.
	answer func() (*proto.RestoreResponse, error)
	after  int

	mu    sync.Mutex // guards the fields below
	first *proto.RestoreRequest
	data  []byte
}

func (c *restoreControl) Restore(s proto.Control_RestoreServer) error {
	for first := true; c.after < 0 || len(c.data) < c.after; first = false {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		if first {
			c.first = m
		} else if m.Replace || m.Operator != "" {
			c.data = append(c.data, "said again"...)
		}
		c.data = append(c.data, m.Data...)
		c.mu.Unlock()
	}
	r, err := c.answer()
	if err != nil {
		return err
	}
	return s.SendAndClose(r)
}

// got is what has arrived; nil: nothing was asked for.
func (c *restoreControl) got() (*proto.RestoreRequest, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first, c.data
}

func restored() (*proto.RestoreResponse, error) {
	return &proto.RestoreResponse{Keys: 20, Revision: 1_001_234, TookMs: 2500}, nil
}

func failing(code codes.Code, why string) func() (*proto.RestoreResponse, error) {
	return func() (*proto.RestoreResponse, error) { return nil, status.Error(code, why) }
}

// serveRestore starts a primary that takes snapshots, and returns its socket.
func serveRestore(t *testing.T, c *restoreControl) string {
	t.Helper()
	if c.control == nil {
		c.control = &control{status: always(paired())}
	}
	path := filepath.Join(socketDir(t), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	proto.RegisterControlServer(s, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return path
}

func TestRestoreSendsTheFileAndSaysWhatCameOfIt(t *testing.T) {
	whole := snapshotOf(t, 20, true)
	c := &restoreControl{answer: restored, after: -1}
	r := invoke(t, []string{serveRestore(t, c)}, "", "snapshot", "restore", snapshotFile(t, whole))
	r.expect(t, exitFine, "20 keys and 1 leases at revision 1234", "of this cluster", "Restored: 20 keys, revision 1001234, took 2.5 s.")
	first, data := c.got()
	if !bytes.Equal(data, whole) || first.Replace || first.KeepRevision || !strings.Contains(first.Operator, "@") {
		t.Errorf("%d bytes of %d, %+v", len(data), len(whole), first.Operator)
	}
}

func TestReplacingAsksFirst(t *testing.T) {
	path := snapshotFile(t, snapshotOf(t, 1, false))
	for name, c := range map[string]struct {
		stdin string
		args  []string
		code  int
		done  bool
	}{
		"typed":     {"replace all keys\n", nil, exitFine, true},
		"not typed": {"yes\n", nil, exitFailed, false},
		"nobody":    {"", nil, exitFailed, false},
		"--yes":     {"", []string{"--yes"}, exitFine, true},
	} {
		t.Run(name, func(t *testing.T) {
			node := &restoreControl{answer: restored, after: -1}
			r := invoke(t, []string{serveRestore(t, node)}, c.stdin, append([]string{"snapshot", "restore", path, "--replace"}, c.args...)...)
			r.expect(t, c.code, "ALL KEYS of cluster c-7f3a are lost")
			first, _ := node.got()
			if (first != nil) != c.done || c.done && !first.Replace {
				t.Errorf("asked for %+v", first)
			}
		})
	}
	invoke(t, nil, "", "snapshot", "restore", path, "--yes").expect(t, exitUsage, "stderr: --replace")
}

func TestKeepRevisionIsPassedOn(t *testing.T) {
	c := &restoreControl{answer: restored, after: -1}
	invoke(t, []string{serveRestore(t, c)}, "", "snapshot", "restore", snapshotFile(t, snapshotOf(t, 1, false)), "--keep-revision").expect(t, exitFine)
	if first, _ := c.got(); !first.GetKeepRevision() {
		t.Error("not passed on")
	}
}

func TestABadFileIsNotEvenSent(t *testing.T) {
	c := &restoreControl{answer: restored, after: -1}
	whole := snapshotOf(t, 3, false)
	invoke(t, []string{serveRestore(t, c)}, "", "snapshot", "restore", snapshotFile(t, whole[:len(whole)-10])).expect(t, exitFailed, "stderr: cut short", "stderr: nothing has changed")
	if first, _ := c.got(); first != nil {
		t.Error("sent")
	}
}

func TestRestoreGoesToThePrimaryOnly(t *testing.T) {
	standby := &restoreControl{answer: restored, after: -1, control: &control{status: always(variant(paired, func(st *proto.StatusResponse) { st.Node = "b" }))}}
	primary := &restoreControl{answer: restored, after: -1}
	path := snapshotFile(t, snapshotOf(t, 1, false))
	s := serveRestore(t, standby)
	invoke(t, []string{s}, "", "snapshot", "restore", path).expect(t, exitFailed, "stderr: this is b: a snapshot is restored on the primary, a")
	invoke(t, []string{s, serveRestore(t, primary)}, "", "snapshot", "restore", path).expect(t, exitFine)
	if first, _ := standby.got(); first != nil {
		t.Error("sent to the standby")
	}
	if first, _ := primary.got(); first == nil {
		t.Error("not sent to the primary")
	}
}

func TestRestoreThatDidNotComeAbout(t *testing.T) {
	path := snapshotFile(t, snapshotOf(t, 40, true)) // more than what gRPC buffers
	for name, c := range map[string]struct {
		answer func() (*proto.RestoreResponse, error)
		after  int
		code   int
		says   string
	}{
		"there are keys":     {failing(codes.FailedPrecondition, "there are 7 keys here already"), 1, exitUnsafe, "not restored: there are 7 keys here already"},
		"damaged on arrival": {failing(codes.InvalidArgument, "the snapshot is damaged"), -1, exitFailed, "not restored: the snapshot is damaged"},
		"lost on the way":    {failing(codes.Unavailable, "stopping"), 1, exitFailed, "nothing has changed: the snapshot had not been sent to its end"},
		"lost at the end":    {failing(codes.Unavailable, "this node stopped being the primary"), -1, exitFailed, "the snapshot may have been restored"},
		"an older node":      {failing(codes.Unimplemented, "unknown method"), -1, exitFailed, "give all nodes the same version"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveRestore(t, &restoreControl{answer: c.answer, after: c.after})
			r := invoke(t, []string{s}, "", "snapshot", "restore", path)
			r.expect(t, c.code, "stderr: "+c.says)
			if strings.Contains(r.stdout, "Restored") {
				t.Errorf("stdout: %s", r.stdout)
			}
		})
	}
}

func TestInterruptedRestoreSaysWhatIsKnown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan struct{})
	c := &restoreControl{after: -1, answer: func() (*proto.RestoreResponse, error) {
		cancel()
		<-over
		return restored()
	}}
	var out, errs syncBuffer
	code := run(ctx, withSockets([]string{serveRestore(t, c)}, []string{"snapshot", "restore", snapshotFile(t, snapshotOf(t, 1, false))}), strings.NewReader(""), &out, &errs)
	close(over)
	if code != exitFailed || !strings.Contains(errs.String(), "may have been restored") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}

func TestWrongSnapshotCommandLinesAskNothing(t *testing.T) {
	s := serve(t, &control{status: func(context.Context) (*proto.StatusResponse, error) { return nil, errors.New("asked") }})
	for _, args := range [][]string{{"snapshot", "frobnicate"}, {"snapshot", "save"}, {"snapshot", "save", "a", "b"}, {"snapshot", "restore"}, {"snapshot", "status"},
		{"snapshot", "status", "a", "-o", "xml"}} {
		r := invoke(t, []string{s}, "", args...)
		r.expect(t, exitUsage)
		if strings.Contains(r.stderr, "asked") {
			t.Errorf("%v asked the node", args)
		}
	}
	for _, args := range [][]string{{"snapshot"}, {"snapshot", "save", "--help"}, {"snapshot", "restore", "--help"}, {"snapshot", "status", "--help"}} {
		invoke(t, nil, "", args...).expect(t, exitFine, "Examples:\n  ")
	}
}
