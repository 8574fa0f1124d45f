package doctor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kineshim/config"
)

func TestTheOtherDataNodeComesBeforeTheWitness(t *testing.T) {
	cfg := config.Node{Name: "n", Timing: config.Timing{HeartbeatTimeout: config.DefaultHeartbeatTimeout}, Members: map[string]config.Member{
		"arbiter": {Raft: "10.0.0.3:1"}, "n": {Raft: "10.0.0.1:1", Peer: "10.0.0.1:2", Postgres: "10.0.0.1:3"}, "m": {Raft: "10.0.0.2:1", Peer: "10.0.0.2:2", Postgres: "10.0.0.2:3"},
	}}
	ids := founded(cfg)
	id := ids["n"]
	self, others := membersOf(cfg, &id)
	want := []member{
		{"n", id.ServerID, "10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"}, {"m", ids["m"].ServerID, "10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3"},
		{"arbiter", ids["arbiter"].ServerID, "10.0.0.3:1", "", ""},
	}
	if d := cmp.Diff(want, append([]member{self}, others...), cmp.AllowUnexported(member{})); d != "" {
		t.Error(d)
	}
	if got := otherData(others).name; got != "m" {
		t.Errorf("the other data node is %q", got)
	}
	if _, others := membersOf(cfg, nil); others[0].server != "" {
		t.Errorf("a server ID before the enrolment: %+v", others[0])
	}
}

func TestTheNameIsInTheServerID(t *testing.T) {
	for server, want := range map[string]string{"a-1a2b3c4d": "a", "rack-2-1a2b3c4d": "rack-2", "": ""} {
		if got := nameOf(server); got != want {
			t.Errorf("%q is %q's, want %q", server, got, want)
		}
	}
}
