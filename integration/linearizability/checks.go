package linearizability

import (
	"fmt"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/watched"
)

// checkRequests checks what clients were answered.
func (t *Session) checkRequests(events []history.Event) error {
	t.found = append(t.found, t.rec.Odds()...)
	ops := t.rec.Ops()
	t.Log("%s", summary(ops, events))
	found, err := history.Check(history.Input{Ops: ops, Events: events, Sights: t.rec.Sights(), Timeout: t.CheckFor, Visualise: t.Out})
	t.found = append(t.found, found...)
	return err
}

// checkWatches checks what the watches were shown.
func (t *Session) checkWatches(timeline *history.Timeline, through int64) {
	watches, opened, bookmarks, events := 0, 0, 0, 0
	for _, s := range t.streams {
		times, marks := s.Opened()
		opened, bookmarks = opened+times, bookmarks+marks
		t.found = append(t.found, s.Breaks()...)
		for _, w := range s.Watches() {
			watches++
			for _, item := range w.Items {
				events += len(item.Events)
			}
			t.found = append(t.found, watched.Check(w, timeline, through)...)
		}
	}
	t.Log("%d watches on %d streams, which were opened %d times: %d events and %d bookmarks", watches, len(t.streams), opened, events, bookmarks)
}

// summary counts requests by what they came to.
func summary(ops []history.Op, events []history.Event) string {
	outcomes := map[history.Outcome]int{}
	kinds := map[history.Kind]int{}
	unknown := map[string]int{}
	for i := range ops {
		o := &ops[i]
		outcomes[o.Outcome]++
		kinds[o.Kind]++
		if o.Outcome != history.Done {
			unknown[fmt.Sprintf("%.70s", o.Error)]++
		}
	}
	return fmt.Sprintf("%d requests %v %v, %d events, errors: %v", len(ops), outcomes, kinds, len(events), unknown)
}
