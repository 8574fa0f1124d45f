package lab

import "slices"

// simulated is why a row is not tried here.
const simulated = "sim: it cannot be made here, or not in bearable time; the simulation tries it"

// Rows are the rows of the failure matrix, in its order. A is the primary, B the standby, W the witness.
var Rows = slices.Concat(processRows, networkRows, diskRows, sequenceRows)

// RowOf is the row with the number; nil if there is none.
func RowOf(number string) *Row {
	for i := range Rows {
		if Rows[i].Number == number {
			return &Rows[i]
		}
	}
	return nil
}

const (
	soloA = "A (S1)"
	aOrB  = "A or B"
)

var processRows = []Row{
	{Number: "1", Failure: "PostgreSQL on A crashes", Right: "restart within 2 s or promote B; no read of rows that B lacks", Serves: aOrB, Run: postgresCrashes},
	{Number: "2", Failure: "one backend on A crashes (crash-reinit)", Right: "postmaster reinitialises; no read of unreplicated rows becomes visible", Serves: "A", Run: backendCrashes},
	{Number: "3", Failure: "A's postmaster frozen (SIGSTOP)", Right: "found by a real write probe, not by a port check; fail over", Serves: "B", Run: postmasterFrozen},
	{Number: "4", Failure: "A's walsender hangs", Right: "commits wait; A goes solo through Raft", Serves: soloA, Run: walsenderHangs},
	{Number: "5", Failure: "A's checkpointer frozen while B joins", Right: "B is not recorded in-sync until gating is proven", Serves: "A", Run: checkpointerFrozen},
	{Number: "6", Failure: "kineshim on A crashes", Right: "PostgreSQL on A dies with it; B takes over", Serves: "B", Run: kineshimCrashes, Quick: true},
	{Number: "7", Failure: "kineshim on A frozen (SIGSTOP), later resumed", Right: "B promotes; VIP leaves A by itself; A answers nothing stale on resume", Serves: "B", Run: kineshimFrozen},
	{Number: "8", Failure: "PostgreSQL on B crashes", Right: "commits wait, then A goes solo", Serves: soloA, Run: standbyPostgresCrashes},
	{Number: "9", Failure: "PostgreSQL or walreceiver on B frozen", Right: "as 8, by our timeout, not by PostgreSQL's 60 s", Serves: soloA, Run: standbyPostgresFrozen},
	{Number: "10", Failure: "kineshim on B crashes or is frozen", Right: "as 8; B rejoins by itself", Serves: soloA, Run: standbyKineshimLost},
	{Number: "11", Failure: "W crashes or is frozen", Right: "full service; status warns", Serves: "A", Run: witnessLost},
	{Number: "12", Failure: "OOM killer takes PostgreSQL", Right: "as 1", Serves: aOrB, Run: postgresOutOfMemory},
}

var networkRows = []Row{
	{Number: "13", Failure: "node A loses power", Right: "promote B", Serves: "B", Run: primaryLosesPower, Quick: true},
	{Number: "14", Failure: "node A reboots cleanly", Right: "switchover first, then stop", Serves: "B", Run: primaryReboots},
	{Number: "15", Failure: "node B lost", Right: "solo", Serves: soloA, Run: standbyLosesPower},
	{Number: "16", Failure: "link A-B cut, both still see W", Right: "exactly one keeps serving; the current primary is preferred", Serves: soloA, Run: linkBetweenDataNodesCut, Quick: true},
	{Number: "17", Failure: "link A-W cut", Right: "nothing changes", Serves: "A", Run: func(t *Trial) { linkToWitnessCut(t, t.A) }},
	{Number: "18", Failure: "link B-W cut", Right: "nothing changes", Serves: "A", Run: func(t *Trial) { linkToWitnessCut(t, t.B) }},
	{Number: "19", Failure: "{A} cut off from {B,W}", Right: "A stops answering within its lease, B promotes", Serves: "B", Run: primaryCutOff, Quick: true},
	{Number: "20", Failure: "{B} cut off from {A,W}", Right: "solo", Serves: soloA, Run: standbyCutOff},
	{Number: "20b", Failure: "B's port for Raft out of reach, the rest of B is not", Right: "solo, and the status says where to look; A goes on when W is lost too", Serves: soloA, Run: standbyVoterCutOff},
	{Number: "21", Failure: "{W} cut off from {A,B}", Right: "full service", Serves: "A", Run: witnessCutOff},
	{Number: "22", Failure: "all three isolated", Right: "nobody answers; nobody promotes", Serves: "none", Run: allIsolated},
	{Number: "23", Failure: "one-way loss A->B, B->A", Right: "A goes solo through W", Serves: soloA, Run: oneWayBetweenDataNodes},
	{Number: "24", Failure: "one-way loss to or from W", Right: "no election churn", Serves: "A", Run: oneWayWitness},
	{Number: "25", Failure: "A's NIC down", Right: "as 19; local clients get errors, not stale data", Serves: "B", Run: interfaceDown},
	{Number: "26", Failure: "NIC flapping, 30 % packet loss", Right: "no flapping of roles; rate of failovers is limited", Serves: "last", Lacks: simulated},
	{Number: "27", Failure: "switch reboot: all links down 30-60 s", Right: "block, no promotion, resume", Serves: "A", Run: switchReboots},
	{Number: "28", Failure: "VIP taken by a foreign host", Right: "detected by an ARP probe; alarm; service stays reachable by node IP", Serves: "A", Run: vipTakenByForeigner},
	{Number: "29", Failure: "both nodes briefly hold the VIP", Right: "harmless: the node without the role refuses or forwards", Serves: "primary", Run: bothHaveVIPs},
}

var diskRows = []Row{
	{Number: "30", Failure: "disk nearly full on A", Right: "warn, then switch over before PostgreSQL panics", Serves: "B", Run: primaryDiskNearlyFull},
	{Number: "31", Failure: "disk full on B", Right: "solo, alarm", Serves: soloA, Run: standbyDiskFull},
	{Number: "32", Failure: "disk full on W", Right: "W stops voting cleanly, alarm", Serves: "A", Run: witnessDiskFull},
	{Number: "33", Failure: "slow disk on A", Right: "switch over if it lasts", Serves: aOrB, Lacks: simulated},
	{Number: "34", Failure: "slow disk on B", Right: "tolerate, then solo", Serves: soloA, Lacks: simulated},
	{Number: "35", Failure: "A's disk remounted read-only, or EIO on fsync", Right: "write probe fails; B; the disk is not reused blindly", Serves: "B", Run: primaryDiskFails},
	{Number: "36", Failure: "clock jumps by +-1 h on any node", Right: "no effect", Serves: "A", Run: clocksJump, Options: fakeClocks},
	{Number: "37", Failure: "A suspended (VM pause) for 60 s, then resumed", Right: "A sees the higher epoch and answers nothing stale", Serves: "B", Run: nodeSuspended},
	{Number: "38", Failure: "W's Raft log damaged", Right: "W refuses to start, says how to re-enrol", Serves: "A", Run: witnessLogDamaged},
	{Number: "39", Failure: "A's or B's Raft log damaged", Right: "re-enrolled as a new voter; PostgreSQL data kept", Serves: "other", Run: dataNodeLogDamaged},
	{Number: "40", Failure: "W's disk wiped, same identity comes back", Right: "it does not vote until re-enrolled", Serves: "A", Run: witnessWiped},
	{Number: "41", Failure: "W restored from an old image", Right: "refused: peers know a later incarnation", Serves: "A", Run: witnessRestored},
	{Number: "42", Failure: "A or B restored from an old image", Right: "refused as primary: epoch, timeline or LSN below the Raft record", Serves: "other", Run: restored},
	{Number: "43", Failure: "B's data directory lost", Right: "re-clone by itself", Serves: soloA, Run: standbyDataLost},
	{Number: "44", Failure: "A's data directory lost", Right: "promote B; A re-clones", Serves: "B", Run: primaryDataLost},
	{Number: "45", Failure: "checksum failure in A's table", Right: "alarm, switch over, re-clone A", Serves: "B", Run: primaryTableDamaged},
	{Number: "46", Failure: "replication slot lost", Right: "re-clone B; A's disk never fills because of B", Serves: soloA, Run: slotLost, Options: smallSlots},
	{Number: "47", Failure: "certificates expired", Right: "warned 30 days before; renewed by any live node", Serves: "A", Run: certificatesExpired, Options: shortCertificates},
	{Number: "48", Failure: "version skew between nodes", Right: "unknown Raft commands refused, not guessed", Serves: "A", Lacks: simulated},
}
