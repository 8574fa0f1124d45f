package storm

import "time"

// kind is a way to strike.
type kind struct {
	name string
	// targets are what is drawn from; one that is named twice is drawn twice as often. None: the kind needs no target.
	targets []string
	// weight is how often it is drawn, beside the others'.
	weight int
	// longest is how long it lasts at most, as drawn; 0: it is over at once.
	longest time.Duration
	// strike does it. It returns how it is undone, nil if it is not.
	strike func(x *striker, b Blow) (undo func() error, err error)
}

// Whom blows hit. The primary is hit more often: that is what brings failovers.
var (
	dataHosts = []string{primary, primary, standby}
	allHosts  = []string{primary, primary, standby, witness}
	manyHosts = []string{primary, primary, primary, standby, standby, witness, everything, bothData}
	links     = []string{"primary-standby", "primary-standby", "primary-witness", "standby-witness", "primary>standby", "standby>primary",
		"primary>witness", "witness>primary", "standby>witness", "witness>standby"}
	senders      = []string{primary}
	receivers    = []string{standby}
	onStandby    = []string{standby}
	sometimesAll = []string{primary, primary, standby, witness, everything}
)

// Words for hosts, beside the nodes' own names.
const (
	primary    = "primary"
	standby    = "standby"
	witness    = "witness"
	everything = "all"
	bothData   = "data"
)

const (
	short  = 4 * time.Second
	longer = 6 * time.Second
	// brief is for what only matters while something else happens.
	brief = 2500 * time.Millisecond
)

// kinds are all ways to strike.
var kinds = []kind{
	{"kill", allHosts, 10, short, killProcess},
	{"kill-node", dataHosts, 14, short, killNode},
	{"kill-group", dataHosts, 4, short, killGroup},
	{"kill-postmaster", dataHosts, 8, 0, killPostmaster},
	{"kill-backend", dataHosts, 4, 0, killBackend},
	{"kill-walsender", senders, 2, 0, killOf("walsender")},
	{"kill-walreceiver", receivers, 2, 0, killOf("walreceiver")},
	{"kill-checkpointer", dataHosts, 2, 0, killOf("checkpointer")},
	{"kill-deathwatch", dataHosts, 3, 0, killDeathwatch},
	{"freeze-deathwatch", dataHosts, 3, longer, freezeDeathwatch},
	{"freeze", allHosts, 10, longer, freezeProcess},
	{"freeze-node", manyHosts, 10, longer, freezeNode},
	{"freeze-postgres", dataHosts, 4, short, freezePostgres},
	{"freeze-postmaster", dataHosts, 3, longer, freezePostmaster},
	{"freeze-walsender", senders, 2, short, freezeOf("walsender")},
	{"freeze-walreceiver", receivers, 2, short, freezeOf("walreceiver")},
	{"freeze-checkpointer", dataHosts, 2, longer, freezeOf("checkpointer")},
	{"freeze-walwriter", senders, 1, short, freezeOf("walwriter")},
	{"freeze-startup", receivers, 2, short, freezeOf("startup")},
	{"power-cut", manyHosts, 18, short, powerCut},
	{"stop", allHosts, 10, short, stopCleanly},
	{"cut", links, 10, longer, cutLink},
	{"isolate", sometimesAll, 8, longer, isolate},
	{"interface-down", allHosts, 3, longer, interfaceDown},
	{"unplug", sometimesAll, 4, longer, unplug},
	{"flap", allHosts, 3, longer, flap},
	{"lose-packets", links, 4, longer, losePackets},
	{"disk-full", allHosts, 3, longer, diskFull},
	{"disk-nearly-full", dataHosts, 3, longer, diskNearlyFull},
	{"disk-read-only", allHosts, 5, longer, diskReadOnly},
	{"disk-broken", dataHosts, 5, longer, diskBroken},
	{"wipe", dataHosts, 5, brief, wipe},
	{"switchover", onStandby, 28, 0, switchover},
	{"pause", nil, 2, longer, pauseFailover},
	{"reload", dataHosts, 2, 0, reloadPostgres},
}

// kindOf is the kind of that name; nil if there is none.
func kindOf(name string) *kind {
	for i := range kinds {
		if kinds[i].name == name {
			return &kinds[i]
		}
	}
	return nil
}
