package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kineshim/proto"
)

func TestMissingSocketSaysWhatToDo(t *testing.T) {
	path := filepath.Join(socketDir(t), "none.sock")
	invoke(t, []string{path}, "", "status").expect(t, exitFailed,
		"stderr: shimctl: no node answers\n  "+path+": there is no such socket: is kineshim running on this machine", "stderr: --socket PATH or KINESHIM_SOCKET")
}

func TestSocketOfADeadNodeIsSaidToBeDead(t *testing.T) {
	path := deadSocket(t)
	invoke(t, []string{path}, "", "status").expect(t, exitFailed, "stderr: "+path+": nobody listens there: kineshim has stopped or crashed")
}

func TestPermissionDeniedPointsToSudo(t *testing.T) {
	err := explainDial("/x", &net.OpError{Op: "dial", Err: syscall.EACCES})
	if !strings.Contains(err.Error(), "sudo shimctl") {
		t.Errorf("got %v", err)
	}
}

func TestFrozenNodeIsGivenUpAndTheNextOneAsked(t *testing.T) {
	frozen := serve(t, &control{status: func(ctx context.Context) (*proto.StatusResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	well := serve(t, &control{status: always(paired())})
	invoke(t, []string{frozen, well}, "", "status", "--timeout=1s").expect(t, exitFine, "a serves.",
		"stderr: "+frozen+": no answer within 1s: kineshim is frozen or overloaded", "stderr: asking a through "+well+" instead")
}

func TestSocketsAreTriedInOrder(t *testing.T) {
	first := serve(t, &control{status: always(paired())})
	second := serve(t, &control{status: always(orphaned())})
	r := invoke(t, []string{deadSocket(t), first, second}, "", "status")
	r.expect(t, exitFine, "seen by a")
}

func TestSocketsComeFromTheEnvironmentUnlessGiven(t *testing.T) {
	env := serve(t, &control{status: always(orphaned())})
	given := serve(t, &control{status: always(paired())})
	t.Setenv(socketEnv, filepath.Join(socketDir(t), "none.sock")+":"+env)
	invoke(t, nil, "", "status").expect(t, exitNotServing, "seen by b")
	invoke(t, []string{given}, "", "status").expect(t, exitFine, "seen by a")
}

func TestNodeOfAnOlderVersionIsNamedAsSuch(t *testing.T) {
	s := serve(t, &control{status: always(paired())})
	invoke(t, []string{s}, "", "pause").expect(t, exitFailed, "stderr: does not know this command: give all nodes the same version")
}

func TestWrongCommandLinesAskNothing(t *testing.T) {
	c := &control{status: func(context.Context) (*proto.StatusResponse, error) { return nil, errors.New("asked") }}
	s := serve(t, c)
	for _, args := range [][]string{
		{"frobnicate"}, {"status", "extra"}, {"status", "--watch", "5s"}, {"status", "--watch=1ms"}, {"status", "-o", "xml"}, {"status", "--nonsense"},
		{"promote"}, {"promote", "a", "b"}, {"history", "x"}, {"pause", "x"}, {"version", "x"}, {"status", "--timeout=0"},
	} {
		r := invoke(t, []string{s}, "", args...)
		r.expect(t, exitUsage, "stderr: See shimctl --help.")
		if strings.Contains(r.stderr, "asked") {
			t.Errorf("%v asked the node", args)
		}
	}
}

func TestHelpTeachesByExample(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {}, {"status", "--help"}, {"promote", "--help"}, {"history", "--help"}, {"pause", "--help"}, {"resume", "--help"}} {
		invoke(t, nil, "", args...).expect(t, exitFine, "Examples:\n  ")
	}
}

// deadSocket is the socket that a killed process leaves behind.
func deadSocket(t *testing.T) string {
	t.Helper()
	path := filepath.Join(socketDir(t), "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	return path
}
