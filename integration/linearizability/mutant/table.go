package mutant

// The mutants. A replacement is to be as small as the bug can be made with it.
var (
	// LeaseIgnored answers after a pause that the primary has not noticed.
	LeaseIgnored = Mutant{
		Name: "lease-ignored",
		Bug:  "a primary answers although it has not heard from a majority for longer than its lease",
		Replacements: []Replacement{{
			File: "failover/gate.go",
			Old:  "	case g.right.LeaseLeft() > 0:\n		return nil\n",
			New:  "	case true:\n		return nil\n",
		}},
	}
	// BarrierSkipped shows what the last life of PostgreSQL has left before it is known to be durable.
	BarrierSkipped = Mutant{
		Name: "barrier-skipped",
		Bug:  "a primary opens without a commit behind which all that its PostgreSQL shows is at the standby",
		Replacements: []Replacement{
			{
				File: "failover/perform.go",
				Old:  "	if err := a.pg.CommitEpoch(ctx, epoch, a.cfg.Self, timeline); err != nil {\n",
				New:  "	if err := ctx.Err(); err != nil && epoch > 0 && timeline > 0 {\n",
			},
			{
				File: "kineshim/native/load.go",
				Old:  "	if err := commit(ctx, store, b); err != nil {\n		return fmt.Errorf(\"make what",
				New:  "	if err := ctx.Err(); err != nil && store != nil && b.LeaseClock > 0 {\n		return fmt.Errorf(\"make what",
			},
		},
	}
	// CatchUpSkipped serves a copy that may lack the last rows.
	CatchUpSkipped = Mutant{
		Name: "catch-up-skipped",
		Bug:  "a promoted primary serves its copy without the rows that its PostgreSQL has on top of it",
		Replacements: []Replacement{{
			File: "kineshim/native/load.go",
			Old:  "		fresh = append(fresh, changeOf(r))\n",
			New:  "		_ = changeOf(r)\n",
		}},
	}
	// NotAsked makes linearizable reads serializable.
	NotAsked = Mutant{
		Name: "not-asked",
		Bug:  "the standby answers linearizable reads without asking the primary for its revision",
		Replacements: []Replacement{{
			File: "kineshim/copy.go",
			Old:  "	if !c.serializable {\n		at, err := e.asker.revision(ctx)",
			New:  "	if c.serializable && !c.serializable {\n		at, err := e.asker.revision(ctx)",
		}},
	}
	// FalseClaim leaves out that it is not known whether a request was done.
	FalseClaim = Mutant{
		Name: "false-claim",
		Bug:  "a client is told that its write was not done although that is not known",
		Replacements: []Replacement{{
			File: "kineshim/outcome.go",
			Old:  `const OutcomeUnknown = "; whether the request was done is not known"`,
			New:  `const OutcomeUnknown = "; sorry"`,
		}},
	}
	// LostCommitRepeated has the endpoint do a write anew that may have been done.
	LostCommitRepeated = Mutant{
		Name: "lost-commit-repeated",
		Bug:  "an engine that does not know what became of a commit says that its writes were not done, and the endpoint repeats them",
		Replacements: []Replacement{{
			File: "kineshim/native/sequencer.go",
			Old:  "		op.err = kineshim.InDoubt(q.e.reason())\n",
			New:  "		op.err = kineshim.Unavailable(q.e.reason())\n",
		}},
	}
	// NotLookedUp does a repeated write without looking for what the attempt before has done.
	NotLookedUp = Mutant{
		Name: "not-looked-up",
		Bug:  "a repeated write is done without looking whether it was done before",
		Replacements: []Replacement{{
			File: "kineshim/native/attempt.go",
			Old:  "	if !ok || !a.Again {\n		return nil, nil\n",
			New:  "	if !ok || !a.Again || a.ID != 0 {\n		return nil, nil\n",
		}},
	}
	// ProgressAhead tells a revision that has not been delivered.
	ProgressAhead = Mutant{
		Name: "progress-ahead",
		Bug:  "watches are told of a revision before they have been sent its events",
		Replacements: []Replacement{{
			File: "kineshim/watch/sender.go",
			Old:  "s.deliver(progress(noID, r.revision))",
			New:  "s.deliver(progress(noID, r.revision+1))",
		}},
	}
)

// All are all mutants.
var All = []Mutant{LeaseIgnored, BarrierSkipped, CatchUpSkipped, NotAsked, FalseClaim, LostCommitRepeated, NotLookedUp, ProgressAhead}
