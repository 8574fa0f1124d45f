package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"

	"google.golang.org/grpc/codes"
)

// What is left free on a disk of 3 GB: below the mark at which the role goes elsewhere, which is at 220 MB, and above that at which the engine
// refuses writes, at 150 MB; below that one too; and nothing to speak of.
const (
	leaveLittle = 190 << 20
	leaveLess   = 100 << 20
	leaveNone   = 4 << 20
)

// health waits until the primary's status says so of the node.
func (t *Trial) health(of, says string) {
	t.Until(fmt.Sprintf("the status says of %s: %s", of, says), serveWithin, func(ctx context.Context) string {
		p := t.Primary(ctx)
		if p == "" {
			return "nobody serves"
		}
		s, err := t.Status(ctx, p)
		if err != nil {
			return err.Error()
		}
		for _, n := range s.GetNodes() {
			switch {
			case n.GetName() != of:
			case !strings.Contains(n.GetHealth(), says):
				return n.GetHealth()
			default:
				return ""
			}
		}
		return "it does not name " + of
	})
	t.timeline.note("the status says of %s: ... %s ...", of, says)
}

// failedSince are the requests that have ended with an error since an instant.
func (t *Trial) failedSince(since time.Time) []ledger.Entry {
	var out []ledger.Entry
	from := t.load.rec.At(since)
	for _, e := range t.load.rec.Entries() {
		if e.End >= from && e.Code != "" {
			out = append(out, e)
		}
	}
	return out
}

// errorsSince are the errors that clients have met since an instant, by code.
func (t *Trial) errorsSince(since time.Time) map[string]int {
	out := map[string]int{}
	for _, e := range t.failedSince(since) {
		out[e.Code]++
	}
	return out
}

// errorsOfAHandOver are the errors since an instant that a handing over in good order must not bring. The connections to the virtual address end with it, whatever was asked
// on them at that moment (docs/limits.md): of each client there, one such end is none.
func (t *Trial) errorsOfAHandOver(since time.Time) []string {
	var out []string
	cut := map[int]bool{}
	for _, e := range t.failedSince(since) {
		ended := e.Code == codes.Unavailable.String() && strings.Contains(e.Error, "error reading from server: ")
		if e.Endpoint == VIP && ended && !cut[e.Worker] {
			cut[e.Worker] = true
			continue
		}
		out = append(out, fmt.Sprintf("%s at %s: %s", e.Op, e.Endpoint, e.Error))
	}
	return out
}

func primaryDiskNearlyFull(t *Trial) {
	began := time.Now()
	t.Blow("A's disk is nearly full", func() error { return t.site.Disk(t.A).Fill(leaveLittle) })
	t.Serves(t.B)
	t.health(t.A, "nearly full")
	t.PauseAtMost(began, stallAtMost)
	if met := t.errorsOfAHandOver(began); len(met) > 0 {
		t.Failf("clients met errors, though the role was handed over in good order: %q", met)
	}
	t.OnlyServes(t.B, severalLeases)

	began = time.Now()
	t.Blow("B's disk is nearly full too", func() error { return t.site.Disk(t.B).Fill(leaveLess) })
	t.Until("writes are refused for want of room", serveWithin, func(context.Context) string {
		if t.errorsSince(began)["ResourceExhausted"] == 0 {
			return fmt.Sprintf("errors: %v", t.errorsSince(began))
		}
		return ""
	})
	reads := time.Now()
	t.Run(aWhile)
	if p := t.Primary(t.ctx); p != t.B {
		t.Failf("%q serves: the role went to a disk that is no better", p)
	}
	answered := 0
	for _, e := range t.load.rec.Entries() {
		if e.Start >= t.load.rec.At(reads) && !e.Op.Writes() && e.Outcome == ledger.Acknowledged {
			answered++
		}
	}
	if answered == 0 {
		t.Failf("no read was answered while writes were refused")
	}
	// First where the role is: had the other one room before, it would get the role, while what follows looks where that is.
	t.Heal("room again at B", t.site.Disk(t.B).Empty)
	t.health(t.B, "ok")
	t.Heal("room again at A", t.site.Disk(t.A).Empty)
	t.SomebodyServes()
}

func standbyDiskFull(t *Trial) {
	began := time.Now()
	t.Blow("B's disk is full", func() error { return t.site.Disk(t.B).Fill(leaveNone) })
	t.Mode(t.A, "solo")
	t.health(t.B, "disk is full")
	t.OnlyServes(t.A, 2*severalLeases)
	t.Mode(t.A, "solo")
	t.PauseAtMost(began, stallAtMost)
	t.Heal("room again", t.site.Disk(t.B).Empty)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

// witnessDiskFull: each switchover is a new term, which a voter has to write down. Raft's file has some room of its own, so that a full disk may go
// unnoticed; one that takes no writes at all may not.
func witnessDiskFull(t *Trial) {
	t.Blow("W's disk is full", func() error { return t.site.Disk(t.W).Fill(0) })
	t.OnlyServes(t.A, aWhile)
	t.switchOver()
	t.Armed()
	t.switchOver()
	if !t.Running(t.W) {
		t.Failf("the witness has ended because its disk is full")
	}
	t.Heal("room again", t.site.Disk(t.W).Empty)
	t.Armed()

	began := time.Now()
	t.Blow("W's disk takes no writes", t.site.Disk(t.W).ReadOnly)
	t.switchOver()
	t.Until("the witness says that it cannot vote", serveWithin, func(context.Context) string {
		if t.lastLine(t.W, "takes no writes") == "" {
			return "it does not"
		}
		return ""
	})
	if !t.Running(t.W) {
		t.Failf("the witness has ended because its disk takes no writes")
	}
	t.timeline.note("the witness says: %s", t.lastLine(t.W, "takes no writes"))
	t.health(t.W, "not heard since the last election")
	t.OnlyServes(t.SomebodyServes(), aWhile)
	t.PauseAtMost(began, stallAtMost)
	t.Heal("W's disk is repaired", func() error {
		if err := t.KillNode(t.W); err != nil {
			return err
		}
		return t.site.Disk(t.W).Repair()
	})
}

// switchOver makes the standby the primary, as an operator does.
func (t *Trial) switchOver() {
	p := t.SomebodyServes()
	to := cluster.Other(p)
	ctx, cancel := context.WithTimeout(t.ctx, serveWithin)
	defer cancel()
	t.timeline.note("an operator switches over to %s", to)
	t.Must(t.Switchover(ctx, to))
	t.Serves(to)
}

// lastLine is the last line of the node's log that has the text in it.
func (t *Trial) lastLine(node, text string) string {
	b, err := os.ReadFile(t.LogPath(node))
	t.Must(err)
	last := ""
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, text) {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// primaryDiskFails: read-only, and then dead. As long as the disk takes no writes, A must not be counted on, whether its processes go on or are
// started anew.
func primaryDiskFails(t *Trial) {
	for what, fail := range map[string]func(string) error{
		"is remounted read-only": func(h string) error { return t.site.Disk(h).ReadOnly() },
		"gives EIO":              func(h string) error { return t.site.Disk(h).Break() },
	} {
		p := t.SomebodyServes()
		other := cluster.Other(p)
		began := time.Now()
		t.Blow("the disk of "+p+" "+what, func() error { return fail(p) })
		t.Serves(other)
		t.PauseAtMost(began, probedAtMost)
		t.OnlyServes(other, severalLeases)
		t.Mode(other, "solo")
		t.Blow("all processes of "+p+" are started anew, on the same disk", func() error {
			if err := t.KillNode(p); err != nil {
				return err
			}
			return t.Start(t.ctx, p)
		})
		t.OnlyServes(other, severalLeases)
		t.Mode(other, "solo")
		t.Heal("the disk is repaired", func() error {
			if err := t.KillNode(p); err != nil {
				return err
			}
			return t.site.Disk(p).Repair()
		})
		t.Heal("start "+p, func() error { return t.Start(t.ctx, p) })
		t.Armed()
		t.OnlyServes(other, time.Second)
	}
}

// raftLog is the Raft log of a node.
func (t *Trial) raftLog(node string) string {
	dir, err := t.RaftDir(node)
	t.Must(err)
	return filepath.Join(dir, "raft.db")
}

// refusesWithin is how long a program may take to see that it cannot start.
const refusesWithin = 15 * time.Second

// damagedTable is a table of the lab's own, so that nothing but the lab reads it.
const damagedTable = "lab_damaged"

// emptyBuffers makes the primary's PostgreSQL begin anew, with nothing in its buffers, and says which it is. If the other node takes over meanwhile,
// on a disk that is slow, it is done again there.
func (t *Trial) emptyBuffers() string {
	const attempts = 5
	for range attempts {
		p := t.SomebodyServes()
		epoch := t.Epoch(p)
		t.Blow("kill -9 a backend of "+p+", so that it begins with empty buffers", func() error { return t.KillBackend(p) })
		t.Run(recoversWithin)
		t.SomebodyServes()
		t.Armed()
		if t.SomebodyServes() == p && t.Epoch(p) == epoch {
			return p
		}
	}
	t.Fatalf("PostgreSQL took too long to begin anew, %d times", attempts)
	return ""
}

func primaryTableDamaged(t *Trial) {
	t.query(t.A, "CREATE TABLE IF NOT EXISTS "+damagedTable+" AS SELECT generate_series(1, 10000) AS n")
	t.query(t.A, "CHECKPOINT")
	a := t.emptyBuffers()
	b := cluster.Other(a)
	path := filepath.Join(t.DataDir(a), "pgdata", t.query(a, "SELECT pg_relation_filepath('"+damagedTable+"')"))
	began := time.Now()
	t.Blow("a page of the table "+damagedTable+" of "+a+" is damaged", func() error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("damaged"), 2*8192+4000)
		return err
	})
	n, err := t.SQL(a, "SELECT sum(n) FROM "+damagedTable)
	t.timeline.note("somebody reads it: %q, %v", n, err)
	if err == nil {
		t.Fatalf("the damaged page was read, so that nothing is tried")
	}
	t.Serves(b)
	t.PauseAtMost(began, stallAtMost)
	t.Until(a+" is cloned", armWithin, func(ctx context.Context) string {
		if s, err := t.Status(ctx, a); err != nil || cluster.Self(s).GetDataDamaged() || !cluster.Self(s).GetDataComplete() {
			return fmt.Sprintf("%v, %v", cluster.Self(s).GetDiskTrouble(), err)
		}
		return ""
	})
	t.Armed()
	if got := t.metric(a, "kineshim_postgres_damage_found_total"); got != 1 {
		t.Failf("whoever watches %s from outside learns of %v findings of damage", a, got)
	}
	if got := t.query(a, "SELECT sum(n) FROM "+damagedTable); got != "50005000" {
		t.Failf("the table of %s after the clone: %s", a, got)
	}
	t.query(b, "DROP TABLE "+damagedTable)
}

// smallSlots makes the slot keep little WAL, so that it can be lost.
func smallSlots(_ context.Context, _ string, o *cluster.Options) error {
	const settings = "postgres: {slot_keep: 64MB, settings: {wal_keep_size: \"0\", max_wal_size: 64MB, min_wal_size: 32MB}}\n"
	o.Extra = map[string]string{cluster.A: settings, cluster.B: settings}
	return nil
}

// clonedWithin is how long a standby may take to see that it cannot follow, and to be cloned from a small database.
const clonedWithin = 40 * time.Second

func slotLost(t *Trial) {
	t.PowerOff(t.B)
	t.solo(t.A)
	t.timeline.note("A writes 256 MB of WAL")
	for range 16 {
		t.query(t.A, "SELECT pg_logical_emit_message(false, 'lab', repeat('x', 16 << 20))")
		t.query(t.A, "CHECKPOINT")
	}
	if status := t.query(t.A, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'kineshim_standby'"); status != "lost" {
		t.Fatalf("the slot is %q: it has to be lost for this row to mean anything", status)
	}
	const atMost = 64<<20 /* the slot */ + 64<<20 /* max_wal_size */ + 3*16<<20
	var size int64
	_, err := fmt.Sscan(t.query(t.A, "SELECT sum(size)::bigint FROM pg_ls_waldir()"), &size)
	t.Must(err)
	t.timeline.note("A keeps %d MB of WAL", size>>20)
	if size > atMost {
		t.Failf("A keeps %d MB of WAL for B, at most %d were to be expected", size>>20, atMost>>20)
	}
	back := time.Now()
	t.PowerOn(t.B)
	t.Armed()
	if took := time.Since(back); took > clonedWithin {
		t.Failf("B was armed after %s: it tries what cannot help", took.Round(time.Second))
	}
	if t.lastLine(t.B, `"action":"clone"`) == "" {
		t.Failf("B is armed, and nothing says that it was cloned")
	}
	t.OnlyServes(t.A, time.Second)
}

func promotedByHand(t *Trial) {
	pid, err := t.Postmaster(t.B)
	t.Must(err)
	binary, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	t.Must(err)
	t.Blow("an operator runs pg_ctl promote on B", func() error {
		out, err := t.site.Run(t.B, "", "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--",
			filepath.Join(filepath.Dir(binary), "pg_ctl"), "-D", filepath.Join(t.DataDir(t.B), "pgdata"), "promote")
		t.timeline.note("pg_ctl says: %s", strings.ReplaceAll(strings.TrimSpace(out), "\n", "; "))
		return err
	})
	t.OnlyServes(t.A, aWhile)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
	if t.lastLine(t.B, `"action":"clone"`) == "" && t.lastLine(t.B, `"action":"rewind"`) == "" {
		t.Failf("nothing says that B was rebuilt")
	}
}
