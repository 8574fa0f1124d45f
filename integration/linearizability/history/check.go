package history

import (
	"fmt"
	"time"
)

// Rule names what a violation breaks.
type Rule string

const (
	// NotLinearizable: no order of the requests on a key explains their answers.
	NotLinearizable Rule = "not linearizable"
	// Undecided: the search for such an order did not end in time. Nothing is proven, either way.
	Undecided Rule = "undecided"
	// Rewound: an answer has a revision that is older than what was known before it was asked for.
	Rewound Rule = "rewound revision"
	// Reused: two writes have one revision.
	Reused Rule = "reused revision"
	// Lost: an acknowledged write is not in the store's history as it was acknowledged.
	Lost Rule = "lost write"
	// FalseClaim: a write was done although it was refused as not done.
	FalseClaim Rule = "done although refused"
	// Twice: one write was done twice.
	Twice Rule = "done twice"
	// Foreign: a change that no request can have made.
	Foreign Rule = "foreign change"
	// WrongState: an answer shows another state than the store had at the answer's revision.
	WrongState Rule = "wrong state"
	// BrokenTimeline: the store's own history is impossible.
	BrokenTimeline Rule = "broken history"
)

// Violation is a promise that was not kept.
type Violation struct {
	Rule    Rule
	Key     string // empty where no single key is concerned
	Message string
}

func (v Violation) String() string {
	if v.Key == "" {
		return fmt.Sprintf("%s: %s", v.Rule, v.Message)
	}
	return fmt.Sprintf("%s: %s: %s", v.Rule, v.Key, v.Message)
}

// Sight is a client having heard of a revision otherwise than by the answer of a request: by a watch.
type Sight struct {
	Revision int64
	At       int64 // when, on the clock of the requests
	By       string
}

// Input is what is checked.
type Input struct {
	Ops []Op
	// Events are all changes of the keys that the requests touch, by the store's own account after the last request, in the order
	// of their revisions. The keys were absent before.
	Events []Event
	// Sights are revisions that watches showed, in any order.
	Sights []Sight
	// Timeout bounds the search for orders. 0: not bounded.
	Timeout time.Duration
	// Visualise is where the history of keys that are not linearizable is written as HTML; empty: nowhere.
	Visualise string
}

// maxOfRule bounds how many violations of one rule are told: one broken thing may break thousands of answers.
const maxOfRule = 10

// checker collects violations.
type checker struct {
	in       Input
	timeline *Timeline
	// written are the revisions at which a key got a value.
	written map[written][]int64
	// known is what clients had heard of, in the order of time; records is what of it was new.
	known, records []moment
	count          map[Rule]int
	found          []Violation
}

type written struct{ key, value string }

// Check returns what the history proves to be wrong; nothing, if the store has kept all promises. An error means that something
// could not be written to Visualise.
func Check(in Input) ([]Violation, error) {
	c := newChecker(in)
	c.checkTimeline()
	c.checkWrites()
	c.checkAnswers()
	c.checkRealTime()
	err := c.checkOrder()
	for rule, n := range c.count {
		if n > maxOfRule {
			c.found = append(c.found, Violation{Rule: rule, Message: fmt.Sprintf("%d more of this kind", n-maxOfRule)})
		}
	}
	return c.found, err
}

// CheckRealTime checks only what needs no account of the store's: that revisions never go back.
func CheckRealTime(in Input) []Violation {
	in.Events = nil
	c := newChecker(in)
	c.checkRealTime()
	return c.found
}

func newChecker(in Input) *checker {
	c := &checker{in: in, timeline: NewTimeline(in.Events), written: map[written][]int64{}, count: map[Rule]int{}}
	c.known = c.moments()
	c.records = records(c.known)
	for _, e := range in.Events {
		if !e.Deletes() {
			w := written{e.Key, e.KV.Value}
			c.written[w] = append(c.written[w], e.Revision)
		}
	}
	return c
}

func (c *checker) violate(rule Rule, key, format string, args ...any) {
	c.count[rule]++
	if c.count[rule] <= maxOfRule {
		c.found = append(c.found, Violation{rule, key, fmt.Sprintf(format, args...)})
	}
}
