package ledger

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// known is a write that took effect, or an answer's header, with its revision.
type known struct {
	revision int64
	start    int64
	end      int64 // when it was known at the latest; MaxInt64: never for certain
	by       *Entry
}

// checkRevisions checks revisions across all keys: no two writes have the same, and real time never runs against them.
func (c *checker) checkRevisions() {
	writes := c.knownWrites()
	slices.SortStableFunc(writes, func(a, b known) int { return cmp.Compare(a.revision, b.revision) })
	for i := 1; i < len(writes); i++ {
		if a, b := writes[i-1], writes[i]; a.revision == b.revision {
			c.violate(ReusedRevision, b.by.Key, []*Entry{a.by, b.by}, "revision %d is that of %s too", b.revision, a.by.Key)
		}
	}
	c.checkRealTime(writes, writes, false)
	if c.promises.HeaderRevision {
		headers := c.headers()
		c.checkRealTime(headers, append(headers, writes...), true)
	}
}

// knownWrites are the writes whose revision is known. One of unknown outcome counts from when it was first seen.
func (c *checker) knownWrites() []known {
	var out []known
	for _, name := range sortedKeys(c.keys) {
		k := c.keys[name]
		seen := map[int64]int64{}
		for _, l := range k.looks {
			if l.fits == shown && l.revision != 0 {
				if at, ok := seen[l.revision]; !ok || l.by.End < at {
					seen[l.revision] = l.by.End
				}
			}
		}
		for _, p := range sortedPuts(k.puts) {
			end := int64(math.MaxInt64)
			if p.by.Outcome == Acknowledged {
				end = p.by.End
			}
			if at, ok := seen[p.revision]; ok {
				end = min(end, at)
			}
			out = append(out, known{p.revision, p.by.Start, end, p.by})
		}
		for _, d := range k.deletes {
			if d.Outcome == Acknowledged {
				out = append(out, known{d.Revision, d.Start, d.End, d})
			}
		}
	}
	return out
}

// headers are the revisions of all answers, as lower bounds for those that come later.
func (c *checker) headers() []known {
	var out []known
	for i := range c.in.Entries {
		if e := &c.in.Entries[i]; e.Outcome != Unknown && e.Code == "" {
			out = append(out, known{e.Revision, e.Start, e.End, e})
		}
	}
	if f := c.in.Final; f != nil {
		out = append(out, known{f.Revision, f.Start, f.End, f})
	}
	return out
}

// checkRealTime checks that each of the later has a larger revision (or, orEqual, one as large) than all of the earlier that ended before
// it started.
func (c *checker) checkRealTime(later, earlier []known, orEqual bool) {
	byStart, byEnd := slices.Clone(later), slices.Clone(earlier)
	slices.SortFunc(byStart, func(a, b known) int { return cmp.Compare(a.start, b.start) })
	slices.SortFunc(byEnd, func(a, b known) int { return cmp.Compare(a.end, b.end) })
	var top known
	i := 0
	for _, k := range byStart {
		for ; i < len(byEnd) && byEnd[i].end < k.start; i++ {
			if byEnd[i].revision > top.revision {
				top = byEnd[i]
			}
		}
		if top.by == nil || k.revision > top.revision || orEqual && k.revision == top.revision {
			continue
		}
		c.violate(RewoundRevision, k.by.Key, []*Entry{top.by, k.by}, "%s answered with revision %d, although %d was known before it began", k.by.Op, k.revision, top.revision)
	}
}

// checkTerms checks who answered.
func (c *checker) checkTerms() {
	if !c.promises.Terms {
		return
	}
	member := map[uint64]*Entry{}
	var answers []known
	for i := range c.in.Entries {
		e := &c.in.Entries[i]
		if e.Term == 0 || e.Member == 0 {
			continue
		}
		if first := member[e.Term]; first == nil {
			member[e.Term] = e
		} else if first.Member != e.Member {
			c.violate(TwoPrimaries, "", []*Entry{first, e}, "members %x and %x both answered in term %d", first.Member, e.Member, e.Term)
		}
		answers = append(answers, known{int64(e.Term), e.Start, e.End, e})
	}
	byStart, byEnd := slices.Clone(answers), slices.Clone(answers)
	slices.SortFunc(byStart, func(a, b known) int { return cmp.Compare(a.start, b.start) })
	slices.SortFunc(byEnd, func(a, b known) int { return cmp.Compare(a.end, b.end) })
	var top known
	i := 0
	for _, k := range byStart {
		for ; i < len(byEnd) && byEnd[i].end < k.start; i++ {
			if byEnd[i].revision > top.revision {
				top = byEnd[i]
			}
		}
		if top.by != nil && k.revision < top.revision {
			c.violate(TwoPrimaries, "", []*Entry{top.by, k.by}, "term %d answered after term %d had", k.revision, top.revision)
		}
	}
}
