package main

import (
	"os"
	"path/filepath"
	"testing"

	"kineshim/proto"
)

// replacing answers as a primary that replaces what may be replaced.
func replacing(asked *[]*proto.ReplaceRequest) *control {
	return &control{status: always(paired()), replace: func(q *proto.ReplaceRequest) *proto.ReplaceResponse {
		*asked = append(*asked, q)
		r := &proto.ReplaceResponse{Done: true, OldServerId: q.Node + "-1", Role: "data"}
		if q.Node == "w" {
			r.Role = "witness"
		}
		if r.Alive = q.Node == "b"; r.Alive && !q.Alive {
			r.Done, r.Reason = false, "b is alive"
		}
		if r.Done && !q.Check {
			r.ServerId, r.Enrolment = q.Node+"-2", []byte("the enrolment")
		}
		return r
	}}
}

func TestWitnessReplaceWritesTheEnrolmentAndSaysWhatToDo(t *testing.T) {
	var asked []*proto.ReplaceRequest
	s, out := serve(t, replacing(&asked)), filepath.Join(t.TempDir(), "w.json")
	invoke(t, []string{s}, "", "witness", "replace", "--out", out, "--raft", "10.0.0.9:7100").expect(t, exitFine,
		"w, w-1 so far, is enrolled anew.", "changed to solo first", "w is w-2 now. w-1 is void.", "raftwitness join w.json",
		"systemctl restart raftwitness", "members.w.raft: 10.0.0.9:7100")
	b, err := os.ReadFile(out)
	st, serr := os.Stat(out)
	if err != nil || serr != nil || string(b) != "the enrolment" || st.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v", b, err, serr)
	}
	if len(asked) != 2 || !asked[0].Check || asked[1].Check || asked[1].Address != "10.0.0.9:7100" || asked[1].Operator == "" {
		t.Errorf("%v", asked)
	}
	asked = nil
	invoke(t, []string{s}, "", "witness", "replace", "--out", out).expect(t, exitUsage, "stderr: exists: remove it")
	if len(asked) != 0 {
		t.Errorf("asked although the file could not be written: %v", asked)
	}
}

func TestNodeReplaceOfALiveNodeNeedsYes(t *testing.T) {
	var asked []*proto.ReplaceRequest
	s, out := serve(t, replacing(&asked)), filepath.Join(t.TempDir(), "b.json")
	invoke(t, []string{s}, "", "node", "replace", "b", "--out", out).expect(t, exitUnsafe, "stderr: b was not replaced, nothing has changed: b is alive")
	invoke(t, []string{s}, "", "node", "replace", "b", "--out", out, "--yes", "--dry-run").expect(t, exitFine, "It is alive", "Nothing has changed.")
	if _, err := os.Stat(out); err == nil {
		t.Error("a file was written")
	}
	for _, q := range asked {
		if !q.Check {
			t.Errorf("asked for more than a look: %v", q)
		}
	}
	invoke(t, []string{s}, "", "node", "replace", "b", "--out", out, "--yes").expect(t, exitFine, "kineshim join b.json")
	invoke(t, []string{s}, "", "node", "replace", "w").expect(t, exitUsage, "stderr: w is the witness")
	invoke(t, []string{s}, "", "node", "replace").expect(t, exitUsage, "stderr: one node's name")
	invoke(t, []string{s}, "", "witness", "replace", "--out", "/nowhere/w.json").expect(t, exitFailed, "stderr: cannot be written")
}
