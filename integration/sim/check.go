package sim

import (
	"fmt"
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// checker looks at the world from outside. What it remembers, nobody in the world can read.
type checker struct {
	w *World
	// floor is the newest entry that a client has been told of: written with success, or read.
	floor int32
	// revisions is the entry that was acknowledged with each revision.
	revisions map[int32]int32
	founded   bool
	log       []*entry       // committed
	rec       *record.Record // as of its last entry, whoever of the voters knows that at present
	leaders   map[uint64]int
	primaries map[uint64]string // of each epoch
	epoch     uint64            // the newest
	// forced is the newest epoch that an operator forced; what was acknowledged in earlier ones may be lost, and is not counted any more.
	forced uint64
	// still is, of the newest epoch, where its primary's WAL stood when its promotion was committed, and in which life of the standby.
	still struct {
		epoch uint64
		tip   int32
		life  string
	}
	timelines map[uint32]int32 // the entry that began each
	open      [2]time.Duration // when each gate was open last
	acked     int
	reads     int
}

func (c *checker) init(w *World) {
	c.w, c.rec = w, &record.Record{}
	c.revisions, c.leaders, c.primaries, c.timelines = map[int32]int32{}, map[uint64]int{}, map[uint64]string{}, map[uint32]int32{}
	c.open = [2]time.Duration{-time.Hour, -time.Hour}
}

// after looks at the two nodes after each event.
func (c *checker) after() {
	w := c.w
	var holds [2]bool
	for i, k := range w.kines {
		if holds[i] = k.p.runs() && k.holds(); holds[i] {
			c.open[i] = w.now
		}
		if w.now < k.vipUntil && w.now-c.open[i] > vipLease+vipEvery {
			w.violate("%s has the virtual address, and its gate has been closed for %v", names[i], w.now-c.open[i])
		}
	}
	for _, v := range w.voters {
		if int(v.applied) < len(c.log) && v.state == leader && c.log[v.applied].term < v.term && v.leaseLeft() > 0 {
			w.violate("%s has a lease in term %d and has not applied entry %d of term %d", names[v.id], v.term, v.applied+1, c.log[v.applied].term)
		}
	}
	if holds[0] && holds[1] && (c.forced == 0 || w.kines[0].token.Epoch == w.kines[1].token.Epoch) {
		w.violate("two nodes answer: a in epoch %d, b in epoch %d", w.kines[0].token.Epoch, w.kines[1].token.Epoch)
	}
}

// told takes in that a client has been told of an entry.
func (c *checker) told(k *kine, epoch uint64, entry int32, what string) {
	w := c.w
	if epoch < c.forced { // a primary that an operator has overruled, and that does not know it yet
		return
	}
	if !k.holds() {
		w.violate("%s %s though its gate is closed", names[k.id], what)
	}
	if o := w.kines[k.other]; c.forced == 0 && o.p.runs() && o.holds() {
		w.violate("%s %s while %s answers too", names[k.id], what, names[k.other])
	}
	switch {
	case w.holds(entry, c.floor):
		c.floor = entry
	case w.holds(c.floor, entry):
	default:
		w.violate("%s %s revision %d, whose history is not the one that clients have been told of", names[k.id], what, w.wal[entry].revision)
	}
}

func (c *checker) acknowledged(k *kine, epoch uint64, entry int32) {
	c.acked++
	c.told(k, epoch, entry, "acknowledges")
	if epoch < c.forced {
		return
	}
	r := c.w.wal[entry].revision
	if was, ok := c.revisions[r]; ok && was != entry {
		c.w.violate("%s gives out revision %d for the second time", names[k.id], r)
	}
	c.revisions[r] = entry
}

// answered takes in a read's answer; floor is what clients had been told of when the read began.
func (c *checker) answered(k *kine, epoch uint64, seen, floor int32) {
	c.reads++
	if epoch >= c.forced && !c.w.holds(seen, floor) && c.w.holds(c.floor, floor) {
		c.w.violate("%s answers a read with revision %d, older than %d, which was acknowledged before it began", names[k.id], c.w.wal[seen].revision, c.w.wal[floor].revision)
	}
	c.told(k, epoch, seen, "answers")
}

// committed takes in that a voter has applied an entry, and has this record from then on.
func (c *checker) committed(index uint64, e *entry, rec *record.Record) {
	if index > uint64(len(c.log))+1 {
		c.w.violate("entry %d is applied before entry %d", index, len(c.log)+1)
		return
	}
	if index == uint64(len(c.log))+1 {
		c.log, c.rec = append(c.log, e), rec
		return
	}
	if c.log[index-1] != e {
		c.w.violate("two entries are committed as number %d", index)
	}
}

func (c *checker) elected(v *voter) {
	w := c.w
	if was, ok := c.leaders[v.term]; ok && was != v.id {
		w.violate("two leaders of term %d", v.term)
	}
	c.leaders[v.term] = v.id
	for _, o := range w.voters {
		if o != v && o.p.up && o.m.on && o.term < v.term && o.leaseLeft() > 0 {
			w.violate("%s is elected in term %d while %s has a lease of term %d for another %v", names[v.id], v.term, names[o.id], o.term, o.leaseLeft())
		}
	}
}

// record takes in a change of the record, once for each voter that learns of it.
func (c *checker) record(old, r *record.Record, cmd *record.Command) {
	w := c.w
	if was, ok := c.primaries[r.Epoch]; ok {
		if was != r.Primary {
			w.violate("epoch %d has two primaries", r.Epoch)
		}
		return
	}
	c.founded = true
	c.primaries[r.Epoch] = r.Primary
	c.epoch = max(c.epoch, r.Epoch)
	w.sayf(-1, "recorded: %s by %s: %s", cmd.Kind, cmd.By, w.describe(r))
	k := w.kines[number(r.Primary)]
	c.still.epoch = 0
	switch cmd.Kind {
	case record.Force:
		c.force(k, r.Epoch)
	case record.Promote:
		if !old.InSyncHas(r.Primary) {
			w.violate("%s, which is not in sync, is promoted", r.Primary)
		}
		if k.up && k.frozen && k.promotedEpoch == 0 {
			c.still.epoch, c.still.tip, c.still.life = r.Epoch, k.pg.dir.tip, k.standbyLife()
		}
	}
}

// force: an operator chose what is lost. What both histories have stays promised.
func (c *checker) force(k *kine, epoch uint64) {
	w := c.w
	if !w.forceable {
		w.violate("a promotion is forced though no operator asked for it")
	}
	c.forced = epoch
	for tip := k.pg.dir.tip; !w.holds(tip, c.floor); {
		c.floor = w.wal[c.floor].parent
	}
	clear(c.timelines)
	clear(c.revisions)
}

// promoted takes in that a node's PostgreSQL is read-write in an epoch.
func (c *checker) promoted(k *kine, epoch uint64) {
	w := c.w
	if !w.holds(k.pg.dir.tip, c.floor) && epoch >= c.forced {
		w.violate("%s is promoted in epoch %d without revision %d, which was acknowledged", names[k.id], epoch, w.wal[c.floor].revision)
	}
	if s := c.still; s.epoch == epoch && s.life == k.standbyLife() && w.wal[k.pg.dir.tip].parent != s.tip {
		w.violate("the WAL of %s has moved since its promotion was recorded", names[k.id])
	}
	d := &k.pg.dir
	if was, ok := c.timelines[d.timeline]; ok && was != d.tip && c.forced == 0 {
		w.violate("timeline %d is begun for the second time, by %s", d.timeline, names[k.id])
	}
	c.timelines[d.timeline] = d.tip
}

// destroys takes in that a node's data are about to be destroyed.
func (c *checker) destroys(k *kine, what string) {
	if r := c.w.newest(); r.InSyncHas(names[k.id]) {
		c.w.violate("%s destroys its data (%s) while the record counts on them", names[k.id], what)
	}
}

// received takes in that a standby has flushed what it received.
func (c *checker) received(pg *postgres, tip int32) {
	if !c.w.holds(tip, pg.dir.tip) {
		c.w.violate("%s appends WAL that does not continue its own", names[pg.id])
	}
}

// newest is the record as of the last committed entry.
func (w *World) newest() *record.Record { return w.check.rec }

func (w *World) describe(r *record.Record) string {
	return fmt.Sprintf("epoch %d, primary %s, in sync %v, timeline %d at %v", r.Epoch, r.Primary, r.InSync, r.Timeline, r.SwitchLSN)
}

// primary is the recorded primary; nil if there is none.
func (w *World) primary() *kine {
	if i := number(w.newest().Primary); i >= 0 {
		return w.kines[i]
	}
	return nil
}

// Armed: the recorded primary answers, and would be relieved by the other node at once.
func (w *World) Armed() bool {
	k := w.primary()
	return k != nil && k.p.runs() && k.v.rec.Paired() && !k.pairing.Load() && k.enters() && k.v.state == leader && k.v.term > k.v.forfeited && w.kines[k.other].p.runs()
}

// Serves says who answers; -1: nobody.
func (w *World) Serves() int {
	for i, k := range w.kines {
		if k.p.runs() && k.enters() && k.role() == decide.Primary && k.engineOn == k.generation && k.engineOn != 0 {
			return i
		}
	}
	return -1
}

// standbyLife is a name for as long as the standby is neither stopped nor frozen nor let follow; promotion does not end it.
func (k *kine) standbyLife() string { return fmt.Sprint(k.instance, " ", k.life) }
