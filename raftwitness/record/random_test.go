package record

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// node draws a name: mostly a member, sometimes a stranger.
var node = rapid.SampledFrom([]string{"a", "b", "a", "b", "w", "x", ""})

// command draws a command that a node, with a right or wrong idea of r, might propose.
func command(t *rapid.T, r *Record) Command {
	c := Command{
		Kind:        rapid.SampledFrom([]Kind{Init, Pair, Solo, Promote, Timeline, Force, Pause, Resume, Revoke, Pair, Timeline, Promote, "nonsense"}).Draw(t, "kind"),
		By:          node.Draw(t, "by"),
		AtUnixMilli: rapid.Int64().Draw(t, "at"),
		Timeline:    r.Timeline,
	}
	c.Epoch = r.Epoch
	switch rapid.IntRange(0, 7).Draw(t, "epoch") {
	case 0:
		c.Epoch--
	case 1:
		c.Epoch++
	}
	switch rapid.IntRange(0, 3).Draw(t, "node") {
	case 0:
		c.Node = node.Draw(t, "other")
	case 1:
		c.Node = "b"
	default:
		c.Node = c.By
	}
	if c.Kind == Timeline || rapid.IntRange(0, 5).Draw(t, "wrong timeline") == 0 {
		c.Timeline = rapid.Uint32Range(0, 40).Draw(t, "timeline")
		c.SwitchLSN = LSN(rapid.Uint64().Draw(t, "lsn"))
	}
	if c.Kind == Init {
		c.ClusterID, c.SystemID, c.Members = "c1", rapid.Uint64Range(0, 3).Draw(t, "system"), threeVoters
	}
	return c
}

func TestRandomCommandsKeepTheRecordSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Record{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			c := command(t, &r)
			before := r.Clone()
			next, err := r.Apply(c)
			if d := cmp.Diff(before, r); d != "" {
				t.Fatalf("%+v changed its receiver: %s", c, d)
			}
			if err != nil {
				if !errors.Is(err, ErrStaleEpoch) && !errors.Is(err, ErrUnknownKind) && !errors.Is(err, ErrNotAllowed) && !(c.Kind == Init && errors.Is(err, ErrInvariant)) {
					t.Fatalf("%+v: only init may break an invariant: %v", c, err)
				}
				continue
			}
			checkStep(t, &r, &next, c)
			r = next
		}
		again := Record{}
		b, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if d := cmp.Diff(r, again); err != nil || d != "" {
			t.Fatalf("JSON: %v %s", err, d)
		}
	})
}

// checkStep states independently of CheckInvariants what one command may do.
func checkStep(t *rapid.T, old, r *Record, c Command) {
	if c.Epoch != old.Epoch {
		t.Fatalf("%+v was applied in epoch %d", c, old.Epoch)
	}
	switch c.Kind {
	case Init, Promote, Force:
		if r.Epoch != old.Epoch+1 || r.Primary != c.By || len(r.InSync) != 1 || r.InSync[0] != c.By || r.Timeline != 0 {
			t.Fatalf("%+v led to %+v", c, r)
		}
	default:
		if r.Epoch != old.Epoch || r.Primary != old.Primary {
			t.Fatalf("%+v moved the primary: %+v", c, r)
		}
	}
	if c.Kind == Promote && !old.InSyncHas(c.By) {
		t.Fatalf("%+v promoted a node outside %v", c, old.InSync)
	}
	if !r.InSyncHas(r.Primary) || r.InSyncHas("w") || len(r.InSync) > 2 {
		t.Fatalf("in sync: %v, primary %q", r.InSync, r.Primary)
	}
	for i := 1; i < len(r.Forks); i++ {
		if p, f := r.Forks[i-1], r.Forks[i]; f.Timeline <= p.Timeline || f.Epoch < p.Epoch {
			t.Fatalf("forks out of order: %+v", r.Forks)
		}
	}
	if n := len(r.Forks); n < len(old.Forks) && c.Kind != Force || n > maxForks {
		t.Fatalf("%d forks after %d", n, len(old.Forks))
	}
	if n := len(r.History); n != min(len(old.History)+1, maxHistory) || r.History[n-1].Kind != c.Kind {
		t.Fatalf("history of %d after %d", n, len(old.History))
	}
	if n := len(r.Revoked) - len(old.Revoked); n != 0 && (n != 1 || c.Kind != Revoke || old.IsRevoked(c.Node) || !r.IsRevoked(c.Node)) {
		t.Fatalf("%+v led from %v to %v revoked", c, old.Revoked, r.Revoked)
	}
	if err := r.CheckInvariants(old); err != nil {
		t.Fatal(err)
	}
}

func TestHistoryAndForksAreBounded(t *testing.T) {
	r := solo(t)
	for i := range uint32(2 * maxHistory) {
		r = apply(t, r, Command{Kind: Promote, By: "a", Node: "a"}, Command{Kind: Timeline, By: "a", Timeline: i + 2, SwitchLSN: LSN(i)})
	}
	if len(r.History) != maxHistory || len(r.Forks) != maxForks {
		t.Fatalf("%d events, %d forks", len(r.History), len(r.Forks))
	}
	if last := r.History[maxHistory-1]; last.Epoch != r.Epoch || last.Kind != Timeline {
		t.Errorf("the newest event is lost: %+v", last)
	}
	if first := r.Forks[0]; first.Timeline != r.Timeline-maxForks+1 {
		t.Errorf("the oldest forks are not those that went: %+v", first)
	}
	b, err := json.Marshal(r)
	if err != nil || len(b) > 64<<10 {
		t.Errorf("a full record is %d bytes, %v", len(b), err)
	}
}

// Replicas keep what Apply returns for as long as they like: two successors of one record must not share what append and delete
// write to.
func TestSuccessorsOfOneRecordShareNothing(t *testing.T) {
	r := solo(t)
	for i := range uint32(maxHistory + 3) {
		before := r.Clone()
		one := apply(t, r, Command{Kind: Promote, By: "a", Node: "a", Why: "one"})
		kept := one.Clone()
		other := apply(t, r, Command{Kind: Timeline, By: "a", Timeline: i + 2, Why: "other"})
		if d := cmp.Diff(before, r); d != "" {
			t.Fatalf("step %d: the record has changed: %s", i, d)
		}
		if d := cmp.Diff(kept, one); d != "" {
			t.Fatalf("step %d: the first successor has changed with the second: %s", i, d)
		}
		r = other
	}
}
