package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/proto"
	"kineshim/version"
)

func TestHistory(t *testing.T) {
	c := &control{status: always(paired()), events: []*proto.HistoryEvent{
		event(1_760_000_000, 1, "init", "a", "kineshim init"),
		event(1_760_000_060, 1, "pair", "b", "b holds everything"),
		event(1_760_003_600, 2, "promote", "b", "a is silent"),
	}}
	s := []string{serve(t, c)}
	at := time.Unix(1_760_003_600, 0).Format(time.DateTime)
	invoke(t, s, "", "history").expect(t, exitFine, "TIME", "1      init     a     kineshim init\n", at+".000  2      promote  b     a is silent\n")
	r := invoke(t, s, "", "history", "-n", "1")
	r.expect(t, exitFine, "a is silent")
	if strings.Contains(r.stdout, "kineshim init") {
		t.Error("-n 1 shows more than the last event")
	}
	invoke(t, s, "", "history", "-o", "json").expect(t, exitFine, `"atUnixMilli": "1760003600000",`, `"kind": "promote",`)
	invoke(t, []string{serve(t, &control{status: always(paired())})}, "", "history").expect(t, exitFine, "Nothing has happened yet.")
}

func TestPauseAndResume(t *testing.T) {
	var asked []bool
	c := &control{status: always(paired()), paused: func(r *proto.SetPausedRequest) error {
		asked = append(asked, r.Paused)
		if r.Operator == "" {
			return status.Error(codes.InvalidArgument, "nobody asks")
		}
		return nil
	}}
	s := []string{serve(t, c)}
	invoke(t, s, "", "pause").expect(t, exitFine, "paused", "shimctl resume")
	invoke(t, s, "", "resume").expect(t, exitFine, "no longer paused")
	if len(asked) != 2 || !asked[0] || asked[1] {
		t.Errorf("asked for %v", asked)
	}
	c.paused = func(*proto.SetPausedRequest) error { return status.Error(codes.Unavailable, "no majority") }
	invoke(t, s, "", "pause").expect(t, exitFailed, "stderr: no majority")
}

func TestVersionWorksWithoutANode(t *testing.T) {
	invoke(t, []string{deadSocket(t)}, "", "version").expect(t, exitFine, "shimctl  "+version.Version, "stderr: nobody listens there")
	r := invoke(t, []string{serve(t, &control{status: always(paired())})}, "", "version")
	r.expect(t, exitFine, "\na        v0.1", "\nb        v0.1")
	if strings.Contains(r.stdout, "\nw ") {
		t.Error("the witness tells no version")
	}
}
