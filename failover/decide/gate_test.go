package decide

import (
	"slices"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

func TestTheGateIsClosedUnlessAllHolds(t *testing.T) {
	for _, c := range []struct {
		name string
		in   func() *Input
		set  func(*Input)
		want string // part of the reason; "" is open
	}{
		{"a paired primary", pairedPrimary, nil, ""},
		{"a solo primary", soloPrimary, nil, ""},
		{"a solo primary without a quorum", soloPrimary, func(in *Input) { in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never} }, ""},
		// The lease is not decide's: the gate itself asks for it on every request.
		{"a paired primary without a lease", pairedPrimary, func(in *Input) { in.Raft.LeaseLeft = 0 }, ""},
		{"a solo primary restarted under its own epoch, timeline unrecorded", soloPrimary, func(in *Input) { in.Local.Timeline, in.Raft = 3, Raft{} }, ""},
		{"paused changes nothing", pairedPrimary, func(in *Input) { setRecord(in, paused(*in.Record)) }, ""},
		{"a solo primary of a later process, confirmed, on the recorded timeline", soloPrimary, func(in *Input) { in.Local.Served = false }, ""},

		{"no cluster", freshFounder, nil, "not initialised"},
		{"a standby", pairedStandby, nil, "a is the primary"},
		{"a PostgreSQL promoted by hand", pairedStandby, func(in *Input) { in.Local.Role, in.Local.PromotedEpoch = Primary, 1 }, "a is the primary"},
		{"the old primary after a failover", pairedPrimary, func(in *Input) { setRecord(in, failedOver()) }, "b is the primary"},
		{"PostgreSQL died", pairedPrimary, died, "PostgreSQL is stopped"},
		{"PostgreSQL is a standby", promoted, nil, "PostgreSQL is standby"},
		{"another database", promoted, func(in *Input) { in.Local.SystemID = 8 }, "not the cluster's"},
		{"an old image of the data", restartedPrimary, func(in *Input) { in.Local.Timeline = 1 }, "older than the cluster remembers"},
		{"an old image of the WAL", restartedPrimary, func(in *Input) { in.Local.LSN = 99 }, "older than the cluster remembers"},
		{"promoted in an earlier epoch", soloPrimary, func(in *Input) { setRecord(in, after(*in.Record, promotionOf("a", 2))) }, "not been promoted in this epoch"},
		{"a new life of PostgreSQL", pairedPrimary, func(in *Input) { in.Local.Session = false }, "just started"},
		{"no barrier", pairedPrimary, func(in *Input) { in.Local.EpochCommitted = false }, "first commit"},
		{"no engine", pairedPrimary, func(in *Input) { in.Local.Engine = false }, "engine is starting"},
		{"an unrecorded timeline in a new epoch", newPrimary, func(in *Input) { ready(in) }, "not in the record"},
		{"an unrecorded timeline in a new epoch, with no majority left to record it", newPrimary, func(in *Input) { ready(in); in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never} }, ""},
		{"the same, not confirmed", newPrimary, func(in *Input) { ready(in); in.Raft, in.Confirmed = Raft{}, false }, "not in the record"},
		{"the same, while pairing", newPrimary, func(in *Input) { ready(in); in.Raft, in.Pairing = Raft{}, true }, "not in the record"},
		{"the same, a timeline that somebody else began before", newPrimary, func(in *Input) { ready(in); in.Raft, in.Local.Timeline = Raft{}, 2 }, "belongs to an earlier epoch"},
		{"an unrecorded timeline, this process has not served", soloPrimary, func(in *Input) { in.Local.Timeline, in.Local.Served = 3, false }, "not in the record"},
		{"an unrecorded timeline, not confirmed", soloPrimary, func(in *Input) { in.Local.Timeline, in.Confirmed = 3, false }, "not in the record"},
		{"an unrecorded timeline while pairing", soloPrimary, func(in *Input) { in.Local.Timeline, in.Pairing = 3, true }, "not in the record"},
		{"an unrecorded timeline while paired", pairedPrimary, func(in *Input) { in.Local.Timeline = 3 }, "not in the record"},
		{"a timeline that somebody else began before", newPrimary, func(in *Input) { ready(in); in.Local.Timeline = 2 }, "belongs to an earlier epoch"},
		{"solo, not confirmed since the start", soloPrimary, func(in *Input) { in.Confirmed = false }, "no majority has confirmed"},
		{"a switchover", pairedPrimary, func(in *Input) { in.Wish.SwitchTo = "b" }, "switching over to b"},
		{"the end of the process", soloPrimary, func(in *Input) { in.Wish.Stopping = true }, "stopping"},
		{"hung, with a standby to take over", pairedPrimary, func(in *Input) { in.Local.UnwellFor = unwellAfter + 1 }, "takes no writes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Decide(with(c.in(), c.set)).Closed
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("Closed = %q, want %q", got, c.want)
			}
		})
	}
}

// ready is a PostgreSQL on which everything runs.
func ready(in *Input) { in.Local.Session, in.Local.EpochCommitted, in.Local.Engine = true, true, true }

// Solo that is perhaps paired is open only as far as the lease goes, like paired: that is for the gate to check, so decide
// must not say closed, and must not count on solo either.
func TestAPrimaryThatMayBePairedAlreadyIsNotHeldBackByConfirmation(t *testing.T) {
	in := with(soloPrimary(), func(in *Input) { in.Pairing, in.Confirmed = true, false })
	if got := Decide(in).Closed; got != "" {
		t.Errorf("Closed = %q", got)
	}
}

func TestNotArmedSaysEverythingThatIsMissing(t *testing.T) {
	streaming := func(in *Input) { in.Local.Solo, in.Local.Proven = true, false }
	for _, c := range []struct {
		name string
		in   func() *Input
		set  func(*Input)
		want []string // parts, in order
	}{
		{"armed", pairedPrimary, nil, nil},
		{"armed, seen from the standby", pairedStandby, nil, nil},
		{"no cluster", freshFounder, nil, []string{"not initialised"}},
		{"paused", pairedPrimary, func(in *Input) { setRecord(in, paused(*in.Record)) }, []string{"paused"}},
		{"no standby", soloPrimary, nil, []string{"standby b is not reachable"}},
		{"paused and no standby", soloPrimary, func(in *Input) { setRecord(in, paused(*in.Record)) }, []string{"paused", "standby b is not reachable"}},
		{"a standby without data", joiningPrimary, func(in *Input) { in.Peer.Role = Absent }, []string{"no whole copy"}},
		{"a standby that is rebuilt", joiningPrimary, func(in *Input) { in.Peer.Role = Broken }, []string{"no whole copy"}},
		{"a standby whose PostgreSQL is down", joiningPrimary, func(in *Input) { in.Peer.Role = Stopped }, []string{"does not run"}},
		{"a standby that does not stream", joiningPrimary, func(in *Input) { in.Peer.Streaming = false }, []string{"does not stream"}},
		{"a standby that lags", joiningPrimary, func(in *Input) { streaming(in); in.Local.LagBytes = joinLagBytes + 1 }, []string{"catching up"}},
		{"no witness", joiningPrimary, func(in *Input) { in.Raft.WitnessHeard = Never }, []string{"witness w is not reachable"}},
		{"no voter of the standby's", joiningPrimary, func(in *Input) { in.Raft.OtherHeard = Never }, []string{"standby b does not answer at its port for Raft"}},
		{"no majority", soloPrimary, func(in *Input) { in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never} }, []string{"standby b is not reachable", "no contact to a majority"}},
		{"nearly there", joiningPrimary, streaming, []string{"being proved"}},
		{"nearly there, and paused", joiningPrimary, func(in *Input) { setRecord(in, paused(*in.Record)) }, []string{"paused", "being proved"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := NotArmed(with(c.in(), c.set))
			if !slices.EqualFunc(got, c.want, strings.Contains) {
				t.Errorf("NotArmed = %q, want %q", got, c.want)
			}
		})
	}
}

func TestNotArmedIsNeverEmptyWhileTheRecordIsSolo(t *testing.T) {
	for _, in := range []*Input{soloPrimary(), joiningPrimary(), blankStandby(), restartedPrimary(), newPrimary(), promoted(), oldPrimary()} {
		if len(NotArmed(in)) == 0 {
			t.Errorf("nothing is missing, says %s, while the record says %s", in.Self, in.Record.Mode())
		}
	}
}

func TestRelief(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Input)
		want string // part; "" is none
	}{
		{"a primary that is well", nil, ""},
		{"PostgreSQL died under it", died, "has died"},
		{"PostgreSQL does not start after a restart", func(in *Input) { died(in); in.Local.Served, in.Local.DownFor = false, startGrace+1 }, "does not start"},
		{"PostgreSQL is still starting after a restart", func(in *Input) { died(in); in.Local.Served, in.Local.DownFor = false, startGrace }, ""},
		{"the data are gone", func(in *Input) {
			died(in)
			in.Local.Role, in.Local.Served, in.Local.DownFor = Absent, false, startGrace+1
		}, "does not start"},
		{"PostgreSQL is back as a standby", func(in *Input) { died(in); in.Local.Role, in.Local.Frozen = Standby, true }, ""},
		{"it is back with another database", func(in *Input) { died(in); in.Local.Role, in.Local.SystemID = Standby, 8 }, "not the cluster's"},
		{"it is back as an old image", func(in *Input) { died(in); in.Local.Role, in.Local.Timeline = Standby, 1 }, "older than the cluster remembers"},
		{"writes fail", func(in *Input) { in.Local.UnwellFor = unwellAfter + 1 }, "takes no writes"},
		{"a write is slow", func(in *Input) { in.Local.UnwellFor = unwellAfter }, ""},
		{"a drained switchover", func(in *Input) { in.Wish.SwitchTo, in.Wish.Drained = "b", true }, "switchover"},
		{"a switchover that is not drained", func(in *Input) { in.Wish.SwitchTo = "b" }, ""},
		{"a drained switchover while paused", func(in *Input) { pause(in); in.Wish.SwitchTo, in.Wish.Drained = "b", true }, "switchover"},
		{"PostgreSQL died while paused", func(in *Input) { pause(in); died(in) }, ""},
		{"writes fail while paused", func(in *Input) { pause(in); in.Local.UnwellFor = time.Hour }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Decide(with(pairedPrimary(), c.set)).Relief
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("Relief = %q, want %q", got, c.want)
			}
		})
	}
}

func pause(in *Input) { setRecord(in, paused(*in.Record)) }

// To ask for relief when nobody can give it would close the gate for nothing.
func TestReliefIsAskedOnlyOfAStandbyThatCanTakeOver(t *testing.T) {
	for name, not := range map[string]func(*Input){
		"solo":                      func(in *Input) { setRecord(in, soloRecord()) },
		"the standby is silent":     func(in *Input) { in.Peer.Age = 600 * ms },
		"its process is dead":       func(in *Input) { in.Peer.Refused = true },
		"it is leaving":             func(in *Input) { in.Peer.Leaving = true },
		"its PostgreSQL is down":    func(in *Input) { in.Peer.Role = Stopped },
		"its data are half made":    func(in *Input) { in.Peer.Role = Broken },
		"its data are not whole":    func(in *Input) { in.Peer.Whole = false },
		"its database is another":   func(in *Input) { in.Peer.SystemID = 8 },
		"it is on another timeline": func(in *Input) { in.Peer.Timeline = 1 },
		"this is not the primary":   func(in *Input) { setRecord(in, failedOver()) },
	} {
		in := with(pairedPrimary(), died, not)
		if got := in.relief(); got != "" || in.CanHandOver() {
			t.Errorf("%s: relief %q, CanHandOver %v", name, got, in.CanHandOver())
		}
	}
	if in := with(pairedPrimary(), died); in.relief() == "" || !in.CanHandOver() {
		t.Error("no relief from a standby that can take over")
	}
}

// What the primary believes of the standby and what the standby believes of itself must agree, or one asks for relief and
// the other hands the leadership back, for ever.
func TestAStandbyThatThePrimaryCountsOnIsACandidateByItsOwnRules(t *testing.T) {
	for name, change := range map[string]func(role *Role, systemID *uint64, timeline *uint32){
		"well":             func(*Role, *uint64, *uint32) {},
		"down":             func(r *Role, _ *uint64, _ *uint32) { *r = Stopped },
		"half made":        func(r *Role, _ *uint64, _ *uint32) { *r = Broken },
		"another database": func(_ *Role, s *uint64, _ *uint32) { *s = 8 },
		"older timeline":   func(_ *Role, _ *uint64, t *uint32) { *t = 1 },
		"newer timeline":   func(_ *Role, _ *uint64, t *uint32) { *t = 3 },
	} {
		p, s := pairedPrimary(), leadingStandby()
		change(&p.Peer.Role, &p.Peer.SystemID, &p.Peer.Timeline)
		change(&s.Local.Role, &s.Local.SystemID, &s.Local.Timeline)
		if p.CanHandOver() != (s.notCandidate() == "") {
			t.Errorf("%s: the primary would hand over: %v; the standby: %q", name, p.CanHandOver(), s.notCandidate())
		}
	}
}

func TestPrimaryGone(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Input)
		want string
	}{
		{"well", nil, ""},
		{"its process is dead", func(in *Input) { in.Peer.Refused = true }, "process is dead"},
		{"its process is dead, says a port, before anybody asked", func(in *Input) { in.Peer.Refused, in.Peer.SinceLeader = true, false }, "process is dead"},
		{"silent", func(in *Input) { in.Peer.Age = 501 * ms }, "silent"},
		{"never heard", func(in *Input) { in.Peer = Peer{Age: Never, Silent: time.Second} }, "silent"},
		{"silent, and the network may have come back this moment", func(in *Input) { in.Peer.Age, in.Raft.Regained = time.Minute, true }, ""},
		{"dead, and the network has come back this moment", func(in *Input) { in.Peer.Age, in.Peer.Refused, in.Raft.Regained = time.Minute, true, true }, "process is dead"},
		{"nearly silent", func(in *Input) { in.Peer.Age = 500 * ms }, ""},
		{"asks for relief", func(in *Input) { in.Peer.Relief = true }, "asks to be relieved"},
		{"asked for relief before this node led", func(in *Input) { in.Peer.Relief, in.Peer.SinceLeader = true, false }, ""},
		{"its PostgreSQL is down", func(in *Input) { in.Peer.Role, in.Peer.NotReadyFor = Stopped, notReadyGrace+1 }, "does not run"},
		{"its data are gone", func(in *Input) { in.Peer.Role, in.Peer.NotReadyFor = Absent, notReadyGrace+1 }, "does not run"},
		{"its PostgreSQL has only just gone down", func(in *Input) { in.Peer.Role, in.Peer.NotReadyFor = Stopped, notReadyGrace }, ""},
		{"its PostgreSQL was down before this node led", func(in *Input) {
			in.Peer.Role, in.Peer.NotReadyFor, in.Peer.SinceLeader = Stopped, time.Minute, false
		}, ""},
		{"its PostgreSQL waits for the leadership", func(in *Input) { in.Peer.Role = Standby }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := with(leadingStandby(), c.set).primaryGone()
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("primaryGone = %q, want %q", got, c.want)
			}
		})
	}
}

func TestStandbyEligible(t *testing.T) {
	if !joiningPrimary().standbyEligible() {
		t.Fatal("a standby that keeps up is not eligible")
	}
	for name, not := range map[string]func(*Input){
		"it is silent":                     func(in *Input) { in.Peer.Age = 501 * ms },
		"its process is dead":              func(in *Input) { in.Peer.Refused = true },
		"it is leaving":                    func(in *Input) { in.Peer.Leaving = true },
		"its PostgreSQL is down":           func(in *Input) { in.Peer.Role = Stopped },
		"its PostgreSQL is a primary":      func(in *Input) { in.Peer.Role = Primary },
		"its data are not whole":           func(in *Input) { in.Peer.Whole = false },
		"it has not heard of the epoch":    func(in *Input) { in.Peer.Epoch = 0 },
		"its database is another":          func(in *Input) { in.Peer.SystemID = 8 },
		"it says it does not stream":       func(in *Input) { in.Peer.Streaming = false },
		"it is on an earlier timeline":     func(in *Input) { in.Peer.Timeline = 1 },
		"this timeline is not recorded":    func(in *Input) { in.Local.Timeline, in.Peer.Timeline = 3, 3 },
		"its walsender does not stream":    func(in *Input) { in.Local.StandbyStreams = false },
		"it has stalled, however briefly":  func(in *Input) { in.Local.StandbyStalled = 1 },
		"it lags":                          func(in *Input) { in.Local.LagBytes = joinLagBytes + 1 },
		"it has leave to destroy its data": func(in *Input) { in.Local.Granted = true },
		"no timeline is known at all": func(in *Input) {
			setRecord(in, after(record.Record{}, initOf("a")))
			in.Local.Timeline, in.Peer.Timeline = 0, 0
		},
	} {
		if with(joiningPrimary(), not).standbyEligible() {
			t.Errorf("eligible though %s", name)
		}
	}
}
