package decide

// syncRules say who acknowledges this primary's commits: the standby, or, in solo, kineshim itself.
var syncRules = []rule{
	{
		name: "wait-for-standby-no-longer",
		when: func(in *Input) bool { return in.serves() && in.wantSolo() && !in.Local.Solo },
		do:   do(ConnectSolo),
		why:  because("the record says solo and no standby keeps up: commits go on without it"),
	},
	{
		name: "wait-for-standby",
		when: func(in *Input) bool { return in.serves() && !in.wantSolo() && in.Local.Solo },
		do:   do(DisconnectSolo),
		why:  because("commits wait for the standby"),
	},
	{
		name: "drop-stale-walsender",
		when: func(in *Input) bool { return in.serves() && in.Local.StaleWalsender },
		do:   do(DropStale),
		why:  because("a walsender serves a standby that has gone, and holds the slot"),
	},
	{
		name: "make-slot",
		when: func(in *Input) bool {
			l := &in.Local
			// One that is lost is left so until the standby has made its copy anew: it would keep WAL for nobody.
			lost := l.SlotLost && in.peerFresh() && in.Peer.Role == Standby
			return in.serves() && l.EpochCommitted && l.Engine && (!l.Slot || lost)
		},
		do:  do(EnsureSlot),
		why: because("the standby needs a replication slot"),
	},
	{
		name: "prove-gating",
		when: func(in *Input) bool {
			return in.serves() && in.Record.Solo() && !in.Local.Solo && !in.Local.Proven && in.standbyEligible()
		},
		do:  do(ProveGating),
		why: because("before the record counts on the standby, every commit must have been seen to wait for it"),
	},
}

// wantSolo: kineshim acknowledges commits itself. Never while the record says paired or might.
func (in *Input) wantSolo() bool {
	if in.Record.Paired() || in.Pairing {
		return false
	}
	l := &in.Local
	if !l.Solo { // the standby gates: as long as it keeps up, let it
		return l.StandbyStalled > in.Timing.ReplicationStall || !l.StandbyStreams && l.StandbyStalled > 0 || !l.EpochCommitted && !in.standbyEligible()
	}
	join := l.EpochCommitted && l.Engine && in.standbyEligible() && !l.JoinBackoff
	return !join
}
