package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Rule names what a violation breaks.
type Rule string

const (
	// LostWrite: an acknowledged write is missing from a later answer, or was written over by one that had not seen it.
	LostWrite Rule = "lost write"
	// StaleRead: an answer shows an older state of a key than another that had been given before it was asked for.
	StaleRead Rule = "stale read"
	// FalseRefusal: a write was refused although its comparison held all the time.
	FalseRefusal Rule = "false refusal"
	// ForeignValue: a value that no request wrote, or that was refused, or was damaged.
	ForeignValue Rule = "foreign value"
	// ReusedRevision: two writes have one revision, or one write has two.
	ReusedRevision Rule = "reused revision"
	// RewoundRevision: a write begun after another was known to be done has no larger revision.
	RewoundRevision Rule = "rewound revision"
	// BrokenChain: a write succeeded although its comparison cannot have held.
	BrokenChain Rule = "broken chain"
	// TwoPrimaries: two members answered in one term, or an older term answered after a newer one.
	TwoPrimaries Rule = "two primaries"
	// WatchGap: the history of events lacks a write, has it twice, has one that was never made, or is out of order.
	WatchGap Rule = "watch gap"
)

// Violation is a promise that was not kept.
type Violation struct {
	Rule    Rule
	Key     string // empty where no single key is concerned
	Message string
	// Requests are the entries that prove it.
	Requests []int64
}

func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", v.Rule)
	if v.Key != "" {
		fmt.Fprintf(&b, "%s: ", v.Key)
	}
	b.WriteString(v.Message)
	if len(v.Requests) > 0 {
		fmt.Fprintf(&b, " (requests %v)", v.Requests)
	}
	return b.String()
}

// Promises are what an engine promises beyond what every engine must. The zero value asks least.
type Promises struct {
	// HeaderRevision: the revision in the header of any answer is at least that of every write known before the request began,
	// and never goes back.
	HeaderRevision bool
	// Terms: the term in the header goes up with every change of primary, so one term has one member.
	Terms bool
	// ExactDelete: a delete succeeds only if it removed the key, and one that is refused shows the key as it is. kine says
	// succeeded, and 0 deleted, for a key that it has no row of, and may show a tombstone as a key with an empty value; without
	// this promise such answers count as having seen the key absent.
	ExactDelete bool
}

// Input is what is checked. Everything is on one recorder's clock.
type Input struct {
	Entries []Entry
	// Prefix is below which the load wrote, and nobody else.
	Prefix string
	// Final is an answered List of Prefix, begun after the last request had ended. Nil: not checked. It is the record's last
	// word: without it, a write that was lost and never looked at again is not found.
	Final *Entry
	// Histories are watches, each checked for exactly the writes of its span. Give them only if the engine promises it.
	Histories []History
}

// Check returns what the record proves to be wrong; nothing, if some order of the requests explains all answers.
//
// It rests on two properties of the load. Values are unique, so that a value names the request that wrote it. And every write
// compares the revision that it replaces, so that the writes of a key which took effect form one chain in the order of their
// revisions: each create follows an absence, each update follows exactly the put whose revision it compared. A put with an unknown outcome
// that nobody ever saw cannot have a successor; so with a final state, chains are exact and no search is needed. Only deletes can
// take effect unseen, between a put and the next create.
//
// On a key's chain, answers are placed at the state that they show. That is possible in real time if and only if no answer that shows a later
// state ended before one that shows an earlier state began. An answer that fits several states (an absence, a refused create) is
// checked by itself against the placed ones.
//
// It does not see: whether two or more answers that fit several states can be placed together; whether a list shows one moment
// across its keys; a revision reused by a write that was never acknowledged nor seen; a write of unknown outcome that takes effect after
// the final state was read.
func Check(in Input, promises Promises) []Violation {
	c := &checker{in: in, promises: promises, attempts: map[string]*Entry{}, keys: map[string]*keyRecord{}}
	c.collect()
	for _, name := range sortedKeys(c.keys) {
		c.checkKey(c.keys[name])
	}
	c.checkRevisions()
	c.checkTerms()
	for _, h := range in.Histories {
		c.checkHistory(h)
	}
	return c.found
}

// checker is the state of one Check.
type checker struct {
	in       Input
	promises Promises
	// attempts are the entries that store a value, by nonce.
	attempts map[string]*Entry
	keys     map[string]*keyRecord
	found    []Violation
}

// maxPerRule bounds the violations of one rule: one lost database would else be reported once for every request.
const maxPerRule = 20

func (c *checker) violate(rule Rule, key string, entries []*Entry, format string, args ...any) {
	n := 0
	for _, v := range c.found {
		if v.Rule == rule {
			n++
		}
	}
	if n >= maxPerRule {
		return
	}
	v := Violation{Rule: rule, Key: key, Message: fmt.Sprintf(format, args...)}
	for _, e := range entries {
		if e != nil {
			v.Requests = append(v.Requests, e.ID)
		}
	}
	c.found = append(c.found, v)
}

// keyRecord is all that concerns one key.
type keyRecord struct {
	name    string
	puts    map[int64]*put // by revision
	deletes []*Entry       // that may have taken effect
	looks   []look
}

// put is a value that is known to have been stored.
type put struct {
	revision int64
	by       *Entry
}

// look is an answer's view of one key.
type look struct {
	by *Entry
	// revision is the mod revision seen, 0 for absent.
	revision int64
	// fits tells which states the answer may show if it does not say the state itself; revision is then meaningless.
	fits fits
}

type fits int

const (
	shown   fits = iota // the state is revision
	present             // any but absent
	notAt               // any but the put at by.Compared
)

func (c *checker) key(name string) *keyRecord {
	k := c.keys[name]
	if k == nil {
		k = &keyRecord{name: name, puts: map[int64]*put{}}
		c.keys[name] = k
	}
	return k
}

// collect sorts the entries by key, and learns from acknowledgements and from every value seen which puts took effect, and at which
// revision.
func (c *checker) collect() {
	entries := make([]*Entry, 0, len(c.in.Entries)+1)
	for i := range c.in.Entries {
		e := &c.in.Entries[i]
		if e.End == 0 {
			e.Outcome = Unknown
		}
		entries = append(entries, e)
		if e.Op != List {
			c.key(e.Key)
		}
		if e.Op.Puts() {
			c.attempts[e.Nonce] = e
		}
	}
	if c.in.Final != nil {
		entries = append(entries, c.in.Final)
	}
	for _, e := range entries {
		c.collectWrite(e)
	}
	byName := sortedKeys(c.keys)
	for _, e := range entries {
		c.collectLooks(e, byName)
	}
	for _, h := range c.in.Histories {
		for _, ev := range h.Events {
			if !ev.Deleted {
				c.saw(nil, Seen{Key: ev.Key, Nonce: ev.Nonce, Revision: ev.Revision})
			}
		}
	}
}

func (c *checker) collectWrite(e *Entry) {
	switch {
	case e.Op.Puts() && e.Outcome == Acknowledged:
		if e.Revision <= 0 {
			c.violate(ReusedRevision, e.Key, []*Entry{e}, "acknowledged with revision %d", e.Revision)
			return
		}
		c.putAt(e.Key, e.Revision, e, e)
	case e.Op == Delete && e.Outcome == Acknowledged && e.Deleted == 0 && !c.promises.ExactDelete:
		k := c.key(e.Key)
		k.looks = append(k.looks, look{by: e})
	case e.Op == Delete && e.Outcome != Refused:
		k := c.key(e.Key)
		k.deletes = append(k.deletes, e)
	}
}

func (c *checker) collectLooks(e *Entry, names []string) {
	if e.Outcome == Refused && e.Code != "" || e.Outcome == Unknown {
		return
	}
	switch {
	case e.Looked:
		rev := map[string]int64{}
		for _, s := range e.Seen {
			if e.showsTombstone() && !c.promises.ExactDelete {
				break
			}
			if _, twice := rev[s.Key]; twice {
				c.violate(ForeignValue, s.Key, []*Entry{e}, "one answer shows the key twice")
			}
			rev[s.Key] = s.Revision
			c.saw(e, s)
		}
		for _, name := range below(names, e) {
			k := c.key(name)
			k.looks = append(k.looks, look{by: e, revision: rev[name]})
		}
	case e.Outcome == Refused && e.Op == Create:
		k := c.key(e.Key)
		k.looks = append(k.looks, look{by: e, fits: present})
	case e.Outcome == Refused:
		k := c.key(e.Key)
		k.looks = append(k.looks, look{by: e, fits: notAt})
	}
}

// below are the keys that an entry asks for.
func below(names []string, e *Entry) []string {
	if e.Op != List {
		return []string{e.Key}
	}
	lo, _ := slices.BinarySearch(names, e.Key)
	hi := lo
	for hi < len(names) && strings.HasPrefix(names[hi], e.Key) {
		hi++
	}
	return names[lo:hi]
}

// saw takes in a value that an answer (nil: a watch) showed.
func (c *checker) saw(by *Entry, s Seen) {
	a := c.attempts[s.Nonce]
	switch {
	case s.Nonce == "":
		c.violate(ForeignValue, s.Key, []*Entry{by}, "the value at revision %d is damaged or not ours", s.Revision)
	case a == nil:
		c.violate(ForeignValue, s.Key, []*Entry{by}, "value %q at revision %d was never written", s.Nonce, s.Revision)
	case a.Key != s.Key:
		c.violate(ForeignValue, s.Key, []*Entry{by, a}, "value %q at revision %d was written to %s", s.Nonce, s.Revision, a.Key)
	case a.Outcome == Refused:
		c.violate(ForeignValue, s.Key, []*Entry{by, a}, "value %q at revision %d was refused", s.Nonce, s.Revision)
	default:
		c.putAt(s.Key, s.Revision, a, by)
	}
}

// putAt notes that the attempt took effect at the revision, as the entry says.
func (c *checker) putAt(key string, revision int64, attempt, says *Entry) {
	k := c.key(key)
	if attempt.Outcome == Acknowledged && attempt.Revision != revision {
		c.violate(ReusedRevision, key, []*Entry{attempt, says}, "acknowledged at revision %d, seen at %d", attempt.Revision, revision)
		return
	}
	if p := k.puts[revision]; p != nil && p.by != attempt {
		c.violate(ReusedRevision, key, []*Entry{p.by, attempt, says}, "revision %d has two values", revision)
		return
	}
	k.puts[revision] = &put{revision: revision, by: attempt}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func sortedPuts(m map[int64]*put) []*put {
	out := make([]*put, 0, len(m))
	for _, p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *put) int { return cmp.Compare(a.revision, b.revision) })
	return out
}
