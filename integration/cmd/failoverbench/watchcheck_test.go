package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kineshim/integration/ledger"
)

func event(revision int64, key string) ledger.Event {
	return ledger.Event{Key: key, Revision: revision, Nonce: key + "'s"}
}

// said are messages with one event each; a number is a notification of progress.
func said(events ...any) []message {
	var out []message
	for _, e := range events {
		switch e := e.(type) {
		case ledger.Event:
			out = append(out, message{events: []ledger.Event{e}})
		case int:
			out = append(out, message{progress: int64(e)})
		}
	}
	return out
}

func TestWatchesAreComparedWithTheHistory(t *testing.T) {
	a, b, b2, c := event(11, "a"), event(12, "b"), event(12, "b2"), event(14, "c")
	history := []ledger.Event{event(10, "before"), a, b, b2, c, event(16, "after")}
	altered, deleted := b, b
	altered.Nonce, deleted.Deleted = "another", true
	for name, test := range map[string]struct {
		messages  []message
		cancelled bool
		want      watchResult
	}{
		"whole":                            {said(a, b, b2, c), false, watchResult{Events: 4}},
		"whole, in one message":            {[]message{{events: []ledger.Event{a, b, b2, c}}}, false, watchResult{Events: 4}},
		"whole, and more":                  {said(a, b, b2, c, event(16, "after"), event(17, "later")), false, watchResult{Events: 6}},
		"with progress":                    {said(10, a, 11, b, b2, 13, c, 14, 20), false, watchResult{Events: 4, Progress: 5}},
		"lacks one in between":             {said(a, b, c), false, watchResult{Events: 3, Gaps: 1}},
		"lacks the last":                   {said(a, b, b2), false, watchResult{Events: 3, Stalled: 1, Behind: 1}},
		"lacks the last, and says it came": {said(a, b, b2, 14), false, watchResult{Events: 3, Progress: 1, Gaps: 1}},
		"shows nothing":                    {nil, false, watchResult{Stalled: 1, Behind: 4}},
		"has one twice":                    {said(a, b, b2, b, c), false, watchResult{Events: 5, Duplicates: 1}},
		"begins again":                     {said(a, b, 12, a, b, b2, c), false, watchResult{Events: 6, Progress: 1, Duplicates: 2, ProgressAhead: 1}},
		"swaps two":                        {said(b, b2, a, c), false, watchResult{Events: 4, OutOfOrder: 1}},
		"shows another value":              {said(a, altered, b2, c), false, watchResult{Events: 4, Foreign: 1}},
		"shows a delete":                   {said(a, deleted, b2, c), false, watchResult{Events: 4, Foreign: 1}},
		"shows what never was":             {said(a, b, b2, event(13, "x"), c), false, watchResult{Events: 5, Foreign: 1}},
		"shows what it was not asked for":  {said(event(10, "before"), a, b, b2, c), false, watchResult{Events: 5, Foreign: 1}},
		"announces too much":               {said(a, 12, b, b2, c), false, watchResult{Events: 4, Progress: 1, ProgressAhead: 2}},
		"announces at the revision itself": {said(a, b, 12, b2, c), false, watchResult{Events: 4, Progress: 1, ProgressAhead: 1}},
		"cancelled":                        {said(a, b, b2), true, watchResult{Events: 3}},
		"cancelled at once":                {nil, true, watchResult{}},
		"cancelled, lacks one before":      {said(a, c), true, watchResult{Events: 2, Gaps: 2}},
		"cancelled after a false progress": {said(a, 13), true, watchResult{Events: 1, Progress: 1, Gaps: 2}},
		"cancelled in mid revision":        {said(a, b), true, watchResult{Events: 2, Gaps: 1}},
	} {
		test.want.Streams = 1
		got := checkWatch(test.messages, history, 10, 14, test.cancelled)
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		clean := test.want.Stalled+test.want.Gaps+test.want.Duplicates+test.want.OutOfOrder+test.want.Foreign+test.want.ProgressAhead == 0
		if (got.broken() == "") != clean {
			t.Errorf("%s: broken: %q", name, got.broken())
		}
	}
}
