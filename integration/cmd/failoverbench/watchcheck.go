package main

import (
	"fmt"
	"slices"

	"kineshim/integration/ledger"
)

// message is a response of a watch's stream: events, or a notification of progress.
type message struct {
	events []ledger.Event
	// progress is the revision up to which everything has been delivered; 0: this is no such notification.
	progress int64
}

// watchResult is what became of the watches at one node in a round, compared with the history. All
// but Streams, Events and Progress are to be 0.
type watchResult struct {
	Streams int `json:"streams"`
	// Cancelled are the streams that the server ended or never began, for the Reasons.
	Cancelled int      `json:"cancelled"`
	Reasons   []string `json:"reasons,omitempty"`
	// Stalled are streams that live and have not shown the last event in time. Behind are the events that they have still to show.
	Stalled int `json:"stalled"`
	Behind  int `json:"behind"`
	Events  int `json:"events"`
	// Gaps are events that never came, although the stream has shown later ones or said that they had come.
	Gaps       int `json:"gaps"`
	Duplicates int `json:"duplicates"`
	OutOfOrder int `json:"outOfOrder"`
	// Foreign are events that the history does not have, or has otherwise.
	Foreign int `json:"foreign"`
	// Progress are the notifications that came, ProgressAhead the events that came after a notification that they had been delivered.
	Progress      int `json:"progress"`
	ProgressAhead int `json:"progressAhead"`
}

// broken says what no watch may ever do, or nothing. To be cancelled is allowed, if not wanted.
func (r watchResult) broken() string {
	if r.Stalled+r.Gaps+r.Duplicates+r.OutOfOrder+r.Foreign+r.ProgressAhead == 0 {
		return ""
	}
	return fmt.Sprintf("%d stand still, %d events behind, %d events missing, %d twice, %d out of order, %d that never were, %d announced as delivered before they were",
		r.Stalled, r.Behind, r.Gaps, r.Duplicates, r.OutOfOrder, r.Foreign, r.ProgressAhead)
}

// reasonsAtMost bounds the different reasons that are kept.
const reasonsAtMost = 4

func (r *watchResult) add(o watchResult) {
	r.Streams += o.Streams
	r.Cancelled += o.Cancelled
	r.Stalled += o.Stalled
	r.Behind += o.Behind
	r.Events += o.Events
	r.Gaps += o.Gaps
	r.Duplicates += o.Duplicates
	r.OutOfOrder += o.OutOfOrder
	r.Foreign += o.Foreign
	r.Progress += o.Progress
	r.ProgressAhead += o.ProgressAhead
	for _, reason := range o.Reasons {
		if len(r.Reasons) < reasonsAtMost && !slices.Contains(r.Reasons, reason) {
			r.Reasons = append(r.Reasons, reason)
		}
	}
}

// eventKey names an event: a key changes at most once in a revision.
type eventKey struct {
	revision int64
	key      string
}

func keyOf(e ledger.Event) eventKey { return eventKey{e.Revision, e.Key} }

// checkWatch compares what a stream has shown with the history of the same keys in (from, to]. What lies after its newest event or notification of progress
// is not missing: whoever resumes a stream that was cancelled gets it, and one that lives stands still.
func checkWatch(messages []message, history []ledger.Event, from, to int64, cancelled bool) watchResult {
	r := watchResult{Streams: 1}
	owed := map[eventKey]ledger.Event{}
	for _, e := range history {
		if e.Revision > from && e.Revision <= to {
			owed[keyOf(e)] = e
		}
	}
	seen := map[eventKey]bool{}
	var last, progress int64
	for _, m := range messages {
		if m.progress > 0 {
			r.Progress++
			progress = max(progress, m.progress)
		}
		for _, e := range m.events {
			r.Events++
			switch want, ok := owed[keyOf(e)]; {
			case seen[keyOf(e)]:
				r.Duplicates++
				continue
			case e.Revision <= from || e.Revision <= to && (!ok || want != e):
				r.Foreign++
			}
			seen[keyOf(e)] = true
			if e.Revision < last {
				r.OutOfOrder++
			}
			if e.Revision <= progress {
				r.ProgressAhead++
			}
			last = max(last, e.Revision)
		}
	}
	shown := max(last, progress)
	for k := range owed {
		switch {
		case seen[k]:
		case k.revision <= shown:
			r.Gaps++
		case !cancelled:
			r.Stalled = 1
			r.Behind++
		}
	}
	return r
}
