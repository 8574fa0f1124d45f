package decide

import "time"

var syncRuleCases = []ruleCase{
	{
		rule: "wait-for-standby-no-longer", name: "the standby has stalled, solo is recorded", in: joiningPrimary, action: ConnectSolo, why: "commits go on without it",
		set: func(in *Input) { in.Local.StandbyStalled = 1001 * ms },
		not: map[string]func(*Input){
			"the record says paired":      func(in *Input) { setRecord(in, pairedRecord()) },
			"the record might say paired": func(in *Input) { in.Pairing = true },
			"the standby may catch up":    func(in *Input) { in.Local.StandbyStalled = time.Second },
			"it is so already":            func(in *Input) { in.Local.Solo = true },
			"PostgreSQL is fenced":        func(in *Input) { in.Local.PromotedEpoch = 0 },
		},
	},
	{
		rule: "wait-for-standby-no-longer", name: "the standby is not connected", in: joiningPrimary, action: ConnectSolo, why: "commits go on without it",
		set: func(in *Input) { in.Local.StandbyStreams, in.Local.StandbyStalled = false, 1 },
		not: map[string]func(*Input){
			"it streams": func(in *Input) { in.Local.StandbyStreams = true },
			"paired":     func(in *Input) { setRecord(in, pairedRecord()) },
		},
	},
	{
		rule: "wait-for-standby-no-longer", name: "a new epoch without a standby", in: newPrimary, action: ConnectSolo, why: "commits go on without it",
		set: func(in *Input) { in.Local.Session, in.Local.StandbyStalled = true, 0 },
		not: map[string]func(*Input){
			"the epoch is committed": func(in *Input) { in.Local.EpochCommitted = true },
		},
	},
	{
		rule: "wait-for-standby", name: "a standby keeps up", in: joiningPrimary, action: DisconnectSolo, why: "commits wait for the standby",
		set: soloAcknowledged,
		not: map[string]func(*Input){
			"it waits already":             func(in *Input) { in.Local.Solo = false },
			"the epoch is not committed":   func(in *Input) { in.Local.EpochCommitted = false },
			"the engine does not run":      func(in *Input) { in.Local.Engine = false },
			"the last attempt failed":      func(in *Input) { in.Local.JoinBackoff = true },
			"the standby is not eligible":  func(in *Input) { in.Local.LagBytes = joinLagBytes + 1 },
			"the standby may be destroyed": func(in *Input) { in.Local.Granted = true },
			"PostgreSQL is fenced":         func(in *Input) { in.Local.PromotedEpoch = 0 },
		},
	},
	{
		rule: "wait-for-standby", name: "paired, whatever else", in: pairedPrimary, action: DisconnectSolo, why: "commits wait for the standby",
		set: func(in *Input) {
			in.Local.Solo, in.Local.StandbyStreams, in.Local.StandbyStalled = true, false, time.Minute
		},
		not: map[string]func(*Input){"it waits already": func(in *Input) { in.Local.Solo = false }},
	},
	{
		rule: "wait-for-standby", name: "perhaps paired, whatever else", in: soloPrimary, action: DisconnectSolo, why: "commits wait for the standby",
		set: func(in *Input) { in.Pairing = true },
		not: map[string]func(*Input){"it is known to be solo": func(in *Input) { in.Pairing = false }},
	},
	{
		rule: "drop-stale-walsender", name: "a walsender serves nobody", in: soloPrimary, action: DropStale, why: "holds the slot",
		set: func(in *Input) { in.Local.StaleWalsender = true },
		not: map[string]func(*Input){
			"there is none":        func(in *Input) { in.Local.StaleWalsender = false },
			"PostgreSQL is fenced": func(in *Input) { in.Local.PromotedEpoch = 0 },
		},
	},
	{
		rule: "make-slot", name: "a new primary", in: soloPrimary, action: EnsureSlot, why: "needs a replication slot",
		set: func(in *Input) { in.Local.Slot = false },
		not: map[string]func(*Input){
			"there is one":               func(in *Input) { in.Local.Slot = true },
			"the epoch is not committed": func(in *Input) { in.Local.EpochCommitted = false },
			"the engine does not run":    func(in *Input) { in.Local.Engine = false },
			"PostgreSQL is fenced":       func(in *Input) { in.Local.PromotedEpoch = 0 },
		},
	},
	{
		rule: "make-slot", name: "the standby is back with a new copy, and the slot was lost meanwhile", in: soloPrimary, action: EnsureSlot, why: "needs a replication slot",
		set: func(in *Input) {
			in.Local.SlotLost, in.Peer = true, Peer{Age: 50 * ms, Silent: 50 * ms, Epoch: 1, Role: Standby}
		},
		not: map[string]func(*Input){
			"it is not":                         func(in *Input) { in.Local.SlotLost = false },
			"the standby is being cloned":       func(in *Input) { in.Peer.Role = Broken },
			"the standby has not been heard of": func(in *Input) { in.Peer.Age = Never },
		},
	},
	{
		rule: "prove-gating", name: "the standby gates, unproved", in: joiningPrimary, action: ProveGating, why: "seen to wait for it",
		set: func(in *Input) { in.Local.Proven = false },
		not: map[string]func(*Input){
			"it is proved":                     func(in *Input) { in.Local.Proven = true },
			"kineshim acknowledges by itself":  func(in *Input) { in.Local.Solo = true },
			"the record says paired":           func(in *Input) { setRecord(in, pairedRecord()) },
			"the standby does not keep up":     func(in *Input) { in.Local.StandbyStalled = 1 },
			"the standby may destroy its data": func(in *Input) { in.Local.Granted = true },
			"PostgreSQL is fenced":             func(in *Input) { in.Local.PromotedEpoch = 0 },
		},
	},
}

func soloAcknowledged(in *Input) { in.Local.Solo, in.Local.Proven = true, false }
