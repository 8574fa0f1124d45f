package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/proto"
)

func TestStatusExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		st   *proto.StatusResponse
		code int
	}{
		"serving and armed":  {paired(), exitFine},
		"serving, not armed": {cloning(), exitNotArmed},
		"nobody serves":      {orphaned(), exitNotServing},
		"armed but nobody serves": {variant(paired, func(st *proto.StatusResponse) {
			st.Serving = false
		}), exitNotServing},
	} {
		for _, format := range []string{"table", "json"} {
			t.Run(name+" "+format, func(t *testing.T) {
				s := serve(t, &control{status: always(c.st)})
				r := invoke(t, []string{s}, "", "status", "-o", format)
				r.expect(t, c.code)
				if r.stderr != "" {
					t.Errorf("stderr: %q", r.stderr)
				}
			})
		}
	}
}

// TestJSONHasStableNamesAndLayout holds what scripts may rely on: every field is there, also when it is empty, and the text
// is the same for the same answer.
func TestJSONHasStableNamesAndLayout(t *testing.T) {
	s := serve(t, &control{status: always(cloning())})
	r := invoke(t, []string{s}, "", "status", "-o", "json")
	var got struct {
		Nodes []struct{ State map[string]any }
	}
	var cluster map[string]any
	if err := errors.Join(json.Unmarshal([]byte(r.stdout), &got), json.Unmarshal([]byte(r.stdout), &cluster)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   map[string]any
		keys string
	}{
		{cluster, "clusterId node epoch primary mode inSync timeline paused armed notArmed serving nodes leader term version busy"},
		{cluster["nodes"].([]any)[1].(map[string]any), "name role self reachable heardMs state lagBytes lagKnown health inSync"},
		{got.Nodes[1].State, "role roleReason timeline flushLsn replayLsn progress gateOpen gateReason leaseLeftMs witnessContactMs leader term version"},
		{got.Nodes[1].State["progress"].(map[string]any), "what doneBytes totalBytes elapsedMs step"},
	} {
		for key := range strings.FieldsSeq(c.keys) {
			if _, ok := c.in[key]; !ok {
				t.Errorf("no field %q in %v", key, c.in)
			}
		}
	}
	if !strings.HasPrefix(r.stdout, "{\n  \"clusterId\": \"c-7f3a\",\n  \"node\": \"a\",\n") {
		t.Errorf("another layout:\n%s", r.stdout)
	}
	for range 5 {
		if diff := cmp.Diff(r.stdout, invoke(t, []string{s}, "", "status", "-o", "json").stdout); diff != "" {
			t.Fatalf("another text for the same status:\n%s", diff)
		}
	}
}

func TestServerErrorIsShownWithoutGRPCsWords(t *testing.T) {
	s := serve(t, &control{status: func(context.Context) (*proto.StatusResponse, error) {
		return nil, status.Error(codes.Internal, "the record can't be read")
	}})
	r := invoke(t, []string{s}, "", "status")
	r.expect(t, exitFailed, "stderr: the record can't be read")
	if strings.Contains(r.stderr, "rpc error") {
		t.Errorf("stderr: %q", r.stderr)
	}
}

// watching runs shimctl status --watch until stop is called, which returns its exit code.
func watching(t *testing.T, out interface{ Write([]byte) (int, error) }, sockets []string, args ...string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var errs syncBuffer
	go func() {
		done <- run(ctx, withSockets(sockets, append([]string{"status"}, args...)), strings.NewReader(""), out, &errs)
	}()
	return func() int {
		cancel()
		select {
		case code := <-done:
			return code
		case <-time.After(10 * time.Second):
			t.Fatal("status --watch does not end")
			return -1
		}
	}
}

func TestWatchIsPlainWhenNotOnATerminal(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, &control{status: func(context.Context) (*proto.StatusResponse, error) {
		if asked.Add(1) == 1 {
			return paired(), nil
		}
		return cloning(), nil
	}})
	var out syncBuffer
	stop := watching(t, &out, []string{s}, "--watch=100ms")
	waitFor(t, "two statuses shown", func() bool { return strings.Count(out.String(), "NODE  ROLE") >= 3 })
	if code := stop(); code != exitNotArmed {
		t.Errorf("exit code %d, want the last status's, %d", code, exitNotArmed)
	}
	text := out.String()
	if strings.Contains(text, "\x1b") {
		t.Errorf("control sequences in a file: %q", text)
	}
	if strings.Index(text, "is armed") > strings.Index(text, "NOT ARMED") {
		t.Errorf("the first status is not the first shown:\n%s", text)
	}
}

func TestWatchOfJSONIsOneObjectALine(t *testing.T) {
	s := serve(t, &control{status: always(paired())})
	var out syncBuffer
	stop := watching(t, &out, []string{s}, "--watch=100ms", "-o", "json")
	waitFor(t, "three lines", func() bool { return strings.Count(out.String(), "\n") >= 3 })
	stop()
	lines := bufio.NewScanner(strings.NewReader(out.String()))
	for lines.Scan() {
		var st struct{ Primary string }
		if err := json.Unmarshal(lines.Bytes(), &st); err != nil || st.Primary != "a" {
			t.Errorf("line %q: %v", lines.Text(), err)
		}
	}
}

func TestWatchOutlivesTheNodeItAsked(t *testing.T) {
	var dead atomic.Bool
	first := serve(t, &control{status: func(context.Context) (*proto.StatusResponse, error) {
		if dead.Load() {
			return nil, status.Error(codes.Unavailable, "stopping")
		}
		return paired(), nil
	}})
	second := serve(t, &control{status: func(context.Context) (*proto.StatusResponse, error) {
		if !dead.Load() {
			return nil, status.Error(codes.Unavailable, "starting")
		}
		return orphaned(), nil
	}})
	var out syncBuffer
	stop := watching(t, &out, []string{first, second}, "--watch=100ms")
	waitFor(t, "a's view", func() bool { return strings.Contains(out.String(), "seen by a") })
	dead.Store(true)
	waitFor(t, "b's view", func() bool { return strings.Contains(out.String(), "seen by b") })
	if code := stop(); code != exitNotServing {
		t.Errorf("exit code %d, want %d", code, exitNotServing)
	}
}

func TestWatchShowsThatNoNodeAnswers(t *testing.T) {
	var out syncBuffer
	stop := watching(t, &out, []string{deadSocket(t)}, "--watch=100ms")
	waitFor(t, "the error twice", func() bool { return strings.Count(out.String(), "no node answers\n  /tmp/") >= 2 })
	if code := stop(); code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
}

func TestWatchDrawsOverItselfOnATerminal(t *testing.T) {
	s := serve(t, &control{status: always(paired())})
	term := openTerminal(t)
	stop := watching(t, term.tty, []string{s}, "--watch=100ms")
	waitFor(t, "drawn twice", func() bool { return strings.Count(term.shown(), "\x1b[J") >= 2 })
	stop()
	text := term.shown()
	if strings.Count(text, "\x1b[2J") != 1 || !strings.Contains(text, "\x1b[H") || !strings.Contains(text, "every 100ms; Ctrl-C ends") {
		t.Errorf("not drawn over: %q", text)
	}
}
