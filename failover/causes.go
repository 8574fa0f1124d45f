package failover

import (
	"strings"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// The causes of a change of primary, or of a new epoch of the same one, as they are counted.
const (
	CauseProcess    = "process_ended"   // the primary's kineshim has ended, and its machine says so
	CauseSilence    = "silence"         // the primary has not been heard
	CausePostgres   = "postgres"        // the primary's PostgreSQL does not run, or takes no writes
	CauseData       = "data_unfit"      // the primary's copy of the data is not what it should be
	CauseSwitchover = "switchover"      // by an operator, for a stop, or because the primary's disk is unwell
	CauseRestart    = "primary_restart" // the primary was restarted, and serves again in a new epoch
	CauseForced     = "forced"          // an operator forced it
	CauseOther      = "other"
)

// Causes are all causes.
var Causes = []string{CauseProcess, CauseSilence, CausePostgres, CauseData, CauseSwitchover, CauseRestart, CauseForced, CauseOther}

// causeOf says what caused a proposal to begin a new epoch, in place of the one of primary. relief is why that has asked to be relieved, if it has.
func causeOf(c record.Command, primary, relief string) string {
	why := c.Why
	switch {
	case c.Kind == record.Force:
		return CauseForced
	case c.Node == primary:
		return CauseRestart
	case why == decide.WhyRelief:
		why = relief
	}
	switch {
	case why == decide.WhySwitchover:
		return CauseSwitchover
	case why == decide.WhyProcess:
		return CauseProcess
	case why == decide.WhySilent:
		return CauseSilence
	case strings.Contains(why, "PostgreSQL"):
		return CausePostgres
	case strings.HasPrefix(why, decide.WhyDatabase), why == decide.WhyMayLack:
		return CauseData
	}
	return CauseOther
}

// failovers counts the epochs that this node has begun since this process started, by cause. Agent.mu guards it.
type failovers struct {
	count map[string]uint64
	// epoch is the one that was proposed last, and cause why; "": it has been counted, or will not be.
	epoch uint64
	cause string
}

func newFailovers() failovers {
	f := failovers{count: map[string]uint64{}}
	for _, c := range Causes {
		f.count[c] = 0
	}
	return f
}

// propose notes a proposal, before it is made: its outcome may stay unknown for a while.
func (f *failovers) propose(epoch uint64, cause string) { f.epoch, f.cause = epoch, cause }

// look counts the proposed epoch if the record has it.
func (f *failovers) look(rec *record.Record, self string) {
	if f.cause == "" || rec.Epoch < f.epoch {
		return
	}
	if rec.Epoch == f.epoch && rec.Primary == self {
		f.count[f.cause]++
	}
	f.cause = ""
}
