package ledger

import (
	"math"
	"slices"
	"sort"
)

// chain is a key's states in their order: state 0 is absent, state 2i+1 is put i, state 2i+2 is the absence after put i.
type chain struct {
	puts []*put
	// gap[i] says whether the key was absent after put i.
	gap []gap
	// byRevision is the state of each put.
	byRevision map[int64]int
	// placed are the operations whose state is known, in the order of states.
	placed []placed
	// startsBefore[s] is the latest start of all that is placed before state s; endsAfter[s] the earliest end of all placed
	// after it. What is in state s must not end before the one, nor start after the other.
	startsBefore, endsAfter []int64
}

// gap is an absence after a put.
type gap struct {
	certain bool     // an acknowledged delete, or the create that follows, proves it
	causes  []*Entry // deletes that compared the put's revision and may have taken effect
}

// placed is an operation on a state: the write that brought it about, or an answer that shows it.
type placed struct {
	state      int
	start, end int64
	by         *Entry
	writes     bool
}

func (c *checker) checkKey(k *keyRecord) {
	ch := &chain{puts: sortedPuts(k.puts), byRevision: map[int64]int{}}
	ch.gap = make([]gap, len(ch.puts))
	for i, p := range ch.puts {
		ch.byRevision[p.revision] = 2*i + 1
	}
	c.placeDeletes(k, ch)
	for i := range ch.puts {
		c.link(k, ch, i)
	}
	c.placeWrites(k, ch)
	c.placeLooks(k, ch)
	before := len(c.found)
	c.checkOrder(k, ch)
	fixed := c.checkLoose(k, ch)
	if len(fixed) > 0 && len(c.found) == before {
		ch.placed = append(ch.placed, fixed...)
		c.checkOrder(k, ch)
	}
}

// placeDeletes finds the put that each delete removed.
func (c *checker) placeDeletes(k *keyRecord, ch *chain) {
	for _, d := range k.deletes {
		state, ok := ch.byRevision[d.Compared]
		if !ok {
			if d.Outcome == Acknowledged {
				c.violate(BrokenChain, k.name, []*Entry{d}, "a delete succeeded at revision %d, which the key never had", d.Compared)
			}
			continue
		}
		g := &ch.gap[state/2]
		if d.Outcome == Acknowledged {
			if other := acknowledged(g.causes); other != nil {
				c.violate(BrokenChain, k.name, []*Entry{other, d}, "revision %d was deleted twice", d.Compared)
			}
			g.certain = true
		}
		g.causes = append(g.causes, d)
	}
}

func acknowledged(entries []*Entry) *Entry {
	for _, e := range entries {
		if e.Outcome == Acknowledged {
			return e
		}
	}
	return nil
}

// link checks that put i follows what its request required.
func (c *checker) link(k *keyRecord, ch *chain, i int) {
	p := ch.puts[i]
	var before *put
	if i > 0 {
		before = ch.puts[i-1]
	}
	if p.by.Op == Create {
		if before == nil {
			return
		}
		g := &ch.gap[i-1]
		if len(g.causes) == 0 {
			c.violate(LostWrite, k.name, []*Entry{before.by, p.by}, "created at revision %d over revision %d, which nobody deleted", p.revision, before.revision)
		}
		g.certain = true
		return
	}
	switch state, known := ch.byRevision[p.by.Compared]; {
	case !known || p.by.Compared >= p.revision:
		c.violate(BrokenChain, k.name, []*Entry{p.by}, "an update took effect at revision %d on revision %d, which the key never had before", p.revision, p.by.Compared)
	case state != 2*i-1:
		c.violate(LostWrite, k.name, []*Entry{before.by, p.by}, "revision %d was written over by an update at %d that compared %d", before.revision, p.revision, p.by.Compared)
	default:
		if d := acknowledged(ch.gap[i-1].causes); d != nil {
			c.violate(LostWrite, k.name, []*Entry{d, p.by}, "revision %d was deleted, and updated as if it had not been", p.by.Compared)
		}
	}
}

// placeWrites places every write that took effect.
func (c *checker) placeWrites(k *keyRecord, ch *chain) {
	for i, p := range ch.puts {
		ch.place(2*i+1, p.by, true)
		g := ch.gap[i]
		if d := acknowledged(g.causes); d != nil {
			ch.place(2*i+2, d, true)
			if next := i + 1; d.Revision <= p.revision || next < len(ch.puts) && d.Revision >= ch.puts[next].revision {
				c.violate(RewoundRevision, k.name, []*Entry{p.by, d}, "a delete of revision %d has revision %d", p.revision, d.Revision)
			}
		} else if g.certain && len(g.causes) > 0 {
			// One of several took effect: all that is sure is that it did not before the first of them began.
			first := slices.MinFunc(g.causes, func(a, b *Entry) int { return int(a.Start - b.Start) })
			ch.placed = append(ch.placed, placed{state: 2*i + 2, start: first.Start, end: math.MaxInt64, by: first, writes: true})
		}
	}
}

func (ch *chain) place(state int, e *Entry, writes bool) {
	end := e.End
	if e.Outcome == Unknown {
		end = math.MaxInt64
	}
	ch.placed = append(ch.placed, placed{state, e.Start, end, e, writes})
}

// placeLooks places the answers that show a put. They also must not show it before its write began.
func (c *checker) placeLooks(k *keyRecord, ch *chain) {
	for _, l := range k.looks {
		if l.fits != shown || l.revision == 0 {
			continue
		}
		state, ok := ch.byRevision[l.revision]
		if !ok {
			continue // its value is reported as foreign
		}
		if l.by.Op != Create && l.by.Outcome == Refused && l.by.Compared == l.revision {
			c.violate(FalseRefusal, k.name, []*Entry{l.by}, "%s refused, showing the very revision %d that it compared", l.by.Op, l.revision)
		}
		if w := ch.puts[state/2].by; l.by.End < w.Start {
			c.violate(ForeignValue, k.name, []*Entry{w, l.by}, "revision %d was seen before its write began", l.revision)
		}
		ch.place(state, l.by, false)
	}
}

// index sorts what is placed and computes the bounds of each state.
func (ch *chain) index() {
	sort.SliceStable(ch.placed, func(i, j int) bool { return ch.placed[i].state < ch.placed[j].state })
	n := 2*len(ch.puts) + 1
	ch.startsBefore, ch.endsAfter = make([]int64, n+1), make([]int64, n+1)
	first, last := make([]int64, n), make([]int64, n) // earliest end, latest start in each state
	for i := range first {
		first[i] = math.MaxInt64
	}
	for _, p := range ch.placed {
		first[p.state], last[p.state] = min(first[p.state], p.end), max(last[p.state], p.start)
	}
	for s := 1; s < n; s++ {
		ch.startsBefore[s] = max(ch.startsBefore[s-1], last[s-1])
	}
	ch.endsAfter[n-1] = math.MaxInt64
	for s := n - 2; s >= 0; s-- {
		ch.endsAfter[s] = min(ch.endsAfter[s+1], first[s+1])
	}
}

// checkOrder reports what shows a state that had been left before it began, and takes it out, so that what is wrong is not held against
// what is right.
func (c *checker) checkOrder(k *keyRecord, ch *chain) {
	ch.index()
	var right []placed
	for _, p := range ch.placed {
		if p.start <= ch.endsAfter[p.state] {
			right = append(right, p)
			continue
		}
		c.reportStale(k, ch, p)
	}
	if len(right) < len(ch.placed) {
		ch.placed = right
		ch.index()
	}
}

func (c *checker) reportStale(k *keyRecord, ch *chain, p placed) {
	later := ch.earliestEndAfter(p.state)
	who := []*Entry{later.by, p.by}
	switch {
	case p.by == c.in.Final:
		c.violate(LostWrite, k.name, who, "the final state is %s, but %s was known before", ch.name(p.state), ch.name(later.state))
	case p.writes:
		c.violate(RewoundRevision, k.name, who, "%s was written after %s was known", ch.name(p.state), ch.name(later.state))
	default:
		c.violate(StaleRead, k.name, who, "showed %s after %s was known", ch.name(p.state), ch.name(later.state))
	}
}

func (ch *chain) earliestEndAfter(state int) placed {
	best := placed{end: math.MaxInt64}
	for _, p := range ch.placed {
		if p.state > state && p.end < best.end {
			best = p
		}
	}
	return best
}

func (ch *chain) name(state int) string {
	switch {
	case state == 0:
		return "absent from the beginning"
	case state%2 == 0:
		return "absent after " + ch.name(state-1)
	}
	return "revision " + itoa(ch.puts[state/2].revision)
}

// checkLoose checks the answers that may fit several states: there must be one that fits in time. It returns those that fit a
// single state, which are as good as placed.
func (c *checker) checkLoose(k *keyRecord, ch *chain) []placed {
	var fixed []placed
	for _, l := range k.looks {
		if l.fits == shown && l.revision != 0 {
			continue
		}
		states := ch.candidates(l)
		switch len(states) {
		case 0:
			c.reportLoose(k, ch, l)
		case 1:
			fixed = append(fixed, placed{state: states[0], start: l.by.Start, end: l.by.End, by: l.by})
		}
	}
	return fixed
}

// candidates are the states that the answer may show; no more than two, which is all that its callers need to know.
func (ch *chain) candidates(l look) []int {
	n := len(ch.startsBefore) - 1
	lo := sort.Search(n, func(s int) bool { return l.by.Start <= ch.endsAfter[s] })
	var out []int
	for s := lo; s < n && ch.startsBefore[s] <= l.by.End && len(out) < 2; s++ {
		if ch.fits(l, s) {
			out = append(out, s)
		}
	}
	return out
}

func (ch *chain) fits(l look, state int) bool {
	if state%2 == 1 {
		p := ch.puts[state/2]
		if p.by.Start > l.by.End {
			return false
		}
		return l.fits == present || l.fits == notAt && p.revision != l.by.Compared
	}
	if l.fits == present {
		return false
	}
	if state == 0 {
		return true
	}
	if next := state / 2; next < len(ch.puts) && ch.puts[next].by.Op != Create {
		return false
	}
	for _, d := range ch.gap[state/2-1].causes {
		if d.Start <= l.by.End {
			return true
		}
	}
	return false
}

func (c *checker) reportLoose(k *keyRecord, ch *chain, l look) {
	after := placed{by: nil}
	for _, p := range ch.placed {
		if p.end < l.by.Start && (after.by == nil || p.state > after.state) {
			after = p
		}
	}
	who := []*Entry{after.by, l.by}
	switch {
	case l.by == c.in.Final:
		c.violate(LostWrite, k.name, who, "absent in the final state, which nothing explains; it was at %s", ch.name(after.state))
	case l.fits == present:
		c.violate(FalseRefusal, k.name, who, "create refused while the key was %s", ch.name(after.state))
	case l.fits == notAt:
		c.violate(FalseRefusal, k.name, who, "%s refused while the key was at the compared revision %d", l.by.Op, l.by.Compared)
	default:
		c.violate(StaleRead, k.name, who, "shown as absent, which nothing explains; it was at %s", ch.name(after.state))
	}
}
