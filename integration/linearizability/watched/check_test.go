package watched

import (
	"slices"
	"testing"

	"kineshim.example/linearizability/history"
)

// timeline has one key that changes thrice, one that is deleted, and two that change in one revision.
func timeline() *history.Timeline {
	at := func(revision int64, key, value string, create, version int64) history.Event {
		return history.Event{Revision: revision, Key: key, KV: history.KV{Value: value, Create: create, Mod: revision, Version: version}}
	}
	return history.NewTimeline([]history.Event{
		at(2, "a", "v1", 2, 1), at(3, "b", "v2", 3, 1), at(5, "a", "v3", 2, 2), at(5, "b", "v3", 3, 2),
		{Revision: 6, Key: "b"}, at(8, "a", "v4", 2, 3),
	})
}

// shown makes a watch that was shown responses with the events of the given places in the history; none is a bookmark.
func shown(w Watch, items ...Item) *Watch {
	if w.Wants == nil {
		w.Wants = func(string) bool { return true }
	}
	w.Name, w.Items = "watch", items
	return &w
}

func response(places ...int) Item {
	item := Item{}
	for _, place := range places {
		e := timeline().Events[place]
		item.Events = append(item.Events, &Change{Event: e})
		item.Revision = max(item.Revision, e.Revision)
	}
	return item
}

func prev(item Item) Item {
	for _, e := range item.Events {
		e.Prev = timeline().State(e.Key, e.Revision-1)
	}
	return item
}

func bookmark(revision int64) Item { return Item{Revision: revision} }

func fragment(item Item) Item {
	item.Fragment = true
	return item
}

func onlyA(key string) bool { return key == "a" }

func TestCorrectWatchesHaveNoViolations(t *testing.T) {
	for name, w := range map[string]*Watch{
		"one by one":            shown(Watch{From: 1}, response(0), response(1), response(2, 3), response(4), bookmark(7), response(5), bookmark(8)),
		"all at once":           shown(Watch{From: 2}, bookmark(1), response(0, 1, 2, 3, 4, 5)),
		"from the middle":       shown(Watch{From: 5}, response(2, 3), response(4, 5)),
		"one key":               shown(Watch{From: 1, Wants: onlyA}, response(0), bookmark(4), response(2), response(5)),
		"no puts":               shown(Watch{From: 1, NoPut: true}, response(4)),
		"no deletions":          shown(Watch{From: 1, NoDelete: true}, response(0, 1, 2, 3), response(5)),
		"fragments":             shown(Watch{From: 1, Fragment: true}, response(0, 1), fragment(response(2)), response(3, 4), response(5)),
		"previous values":       shown(Watch{From: 1, PrevKV: true}, prev(response(0, 1)), prev(response(2, 3)), prev(response(4, 5))),
		"resumed":               shown(Watch{From: 1}, response(0, 1), Item{Resumed: 4}, response(2, 3), response(4, 5)),
		"resumed at a bookmark": shown(Watch{From: 1}, response(0, 1), response(2, 3), response(4), bookmark(7), Item{Resumed: 8}, response(5)),
		"resumed in a fragment": shown(Watch{From: 1, Fragment: true}, response(0, 1), fragment(response(2)), Item{Resumed: 4}, response(2, 3), response(4, 5)),
	} {
		if found := Check(w, timeline(), 8); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestBrokenGuaranteesAreFound(t *testing.T) {
	for _, test := range []struct {
		name string
		w    *Watch
		want history.Rule
	}{
		{"out of order", shown(Watch{From: 1}, response(1), response(0), response(2, 3), response(4, 5)), Unordered},
		{"out of order in a response", shown(Watch{From: 1}, response(1, 0), response(2, 3), response(4, 5)), Unordered},
		{"event above its header", shown(Watch{From: 1}, Item{Revision: 1, Events: response(0).Events}, response(1, 2, 3, 4, 5)), Unordered},
		{"twice", shown(Watch{From: 1}, response(0), response(1), response(1), response(2, 3), response(4, 5)), Duplicate},
		{"twice after being resumed", shown(Watch{From: 1}, response(0), response(1), Item{Resumed: 4}, response(1), response(2, 3), response(4, 5)), Duplicate},
		{"gap", shown(Watch{From: 1}, response(0), response(2, 3), response(4, 5)), Gap},
		{"gap at the start", shown(Watch{From: 1}, response(1, 2, 3, 4, 5)), Gap},
		{"gap at the end", shown(Watch{From: 1}, response(0, 1, 2, 3, 4)), Gap},
		{"gap after being resumed", shown(Watch{From: 1}, response(0), response(1), Item{Resumed: 4}, response(4, 5)), Gap},
		{"half a revision, then the other", shown(Watch{From: 1}, response(0, 1, 2), response(3), response(4, 5)), Torn},
		{"half a revision", shown(Watch{From: 1}, response(0, 1, 2), response(4, 5)), Torn},
		{"fragments that end too early", shown(Watch{From: 1, Fragment: true}, fragment(response(0)), response(1, 2), response(3, 4, 5)), Torn},
		{"fragments unasked for", shown(Watch{From: 1}, response(0, 1), fragment(response(2)), response(3, 4, 5)), Torn},
		{"bookmark ahead", shown(Watch{From: 1}, response(0), bookmark(3), response(1, 2, 3, 4, 5)), Ahead},
		{"bookmark ahead of the end", shown(Watch{From: 1}, response(0, 1, 2, 3, 4), bookmark(8)), Ahead},
		{"bookmark ahead of the first", shown(Watch{From: 1}, bookmark(2), response(0, 1, 2, 3, 4, 5)), Ahead},
		{"event that is none", shown(Watch{From: 1}, response(0, 1, 2, 3), Item{Revision: 6, Events: []*Change{{Event: history.Event{Revision: 6, Key: "a"}}}}, response(4, 5)), Foreign},
		{"value that is none", shown(Watch{From: 8}, Item{Revision: 8, Events: []*Change{{Event: history.Event{Revision: 8, Key: "a", KV: history.KV{Value: "v5", Create: 2, Mod: 8, Version: 3}}}}}), Foreign},
		{"key that was not asked for", shown(Watch{From: 1, Wants: onlyA}, response(0, 1), response(2), response(5)), Foreign},
		{"put that was not asked for", shown(Watch{From: 1, NoPut: true}, response(4, 5)), Foreign},
		{"event before the first revision", shown(Watch{From: 3}, response(0, 1, 2, 3, 4, 5)), Foreign},
		{"no previous value", shown(Watch{From: 1, PrevKV: true}, prev(response(0, 1)), response(2, 3), prev(response(4, 5))), WrongPrev},
		{"previous value of a deletion", shown(Watch{From: 1, PrevKV: true}, prev(response(0, 1)), prev(response(2, 3)), response(4, 5)), WrongPrev},
		{"previous value unasked for", shown(Watch{From: 1}, prev(response(0, 1, 2, 3, 4, 5))), WrongPrev},
		{"ended by itself", &Watch{Wants: onlyA, From: 9, Broken: []string{"canceled"}}, Broken},
	} {
		found := Check(test.w, timeline(), 8)
		if !slices.ContainsFunc(found, func(v history.Violation) bool { return v.Rule == test.want }) {
			t.Errorf("%s: not found: %s; but %v", test.name, test.want, found)
		}
	}
}

func TestAnOlderPreviousValueIsFound(t *testing.T) {
	item := prev(response(5))
	item.Events[0].Prev = timeline().State("a", 2)
	found := Check(shown(Watch{From: 8, PrevKV: true}, item), timeline(), 8)
	if len(found) != 1 || found[0].Rule != WrongPrev {
		t.Error(found)
	}
}

func TestTheBookKeepsEachChangeOnce(t *testing.T) {
	b := NewBook()
	one, two := b.Of(*response(0).Events[0]), b.Of(*response(0).Events[0])
	other := b.Of(*prev(response(2)).Events[0])
	if one != two || one == other || len(b.all) != 2 {
		t.Errorf("%v %v %v", one, two, other)
	}
}
