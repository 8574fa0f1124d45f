package failover

import (
	"testing"

	"kineshim/raftwitness/record"
)

func TestCausesOfNewEpochs(t *testing.T) {
	promote := func(why string) record.Command { return record.Command{Kind: record.Promote, Node: "b", Why: why} }
	const relieved = "the primary asks to be relieved"
	for _, c := range []struct {
		command      record.Command
		relief, want string
	}{
		{promote("the primary's process is dead"), "", CauseProcess},
		{promote("the primary is silent"), "switchover", CauseSilence}, // what it asked for once does not count
		{promote("the primary's PostgreSQL does not run"), "", CausePostgres},
		{promote(relieved), "switchover", CauseSwitchover},
		{promote(relieved), "its PostgreSQL has died", CausePostgres},
		{promote(relieved), "its PostgreSQL does not start", CausePostgres},
		{promote(relieved), "its PostgreSQL takes no writes", CausePostgres},
		{promote(relieved), "its database is older than the standby's", CauseData},
		{promote(relieved), "it may lack acknowledged writes", CauseData},
		{promote(relieved), "", CauseOther},
		{record.Command{Kind: record.Promote, Node: "a", Why: "this primary was restarted"}, "", CauseRestart},
		{record.Command{Kind: record.Force, Node: "b", Why: "an operator ordered it"}, "", CauseForced},
	} {
		if got := causeOf(c.command, "a", c.relief); got != c.want {
			t.Errorf("%s %q, relief %q: %s, want %s", c.command.Kind, c.command.Why, c.relief, got, c.want)
		}
	}
}

// An epoch counts once, when it is in the record, and only on the node that has proposed it: also when the outcome was unknown at first.
func TestAnEpochIsCountedOnceItIsInTheRecord(t *testing.T) {
	f := newFailovers()
	f.propose(2, CauseSilence)
	f.look(pairedRecord(), "b") // epoch 1: not yet
	if n := f.count[CauseSilence]; n != 0 {
		t.Fatalf("counted %d before it was so", n)
	}
	f.look(failedOver(), "b")
	f.look(failedOver(), "b")
	if n := f.count[CauseSilence]; n != 1 {
		t.Errorf("counted %d", n)
	}
	f.propose(2, CauseForced)
	f.look(failedOver(), "a") // it is b's
	if n := f.count[CauseForced]; n != 0 {
		t.Errorf("counted %d of the other node's", n)
	}
	if len(f.count) != len(Causes) {
		t.Errorf("%d causes have a count, of %d", len(f.count), len(Causes))
	}
}
