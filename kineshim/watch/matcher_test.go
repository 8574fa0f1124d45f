package watch

import (
	"fmt"
	"slices"
	"testing"

	"kineshim/kineshim/mvcc"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

func TestMatcherFindsTheSpansThatHoldAKey(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("\x00ab")), 0, 3, -1)
	rapid.Check(t, func(t *rapid.T) {
		var m matcher
		spans := make(map[mvcc.Span]*group)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			span := mvcc.SpanOf([]byte(text.Draw(t, "from")), []byte(text.Draw(t, "end")))
			if g := spans[span]; g != nil && rapid.Bool().Draw(t, "remove") {
				m.remove(g)
				delete(spans, span)
				continue
			}
			g := m.group(span)
			if had := spans[span]; had != nil && had != g {
				t.Fatalf("a second group for %v", span)
			}
			spans[span] = g
		}
		key := text.Draw(t, "key")
		var want, got []string
		for span := range spans {
			if span.Contains(key) {
				want = append(want, fmt.Sprint(span))
			}
		}
		for _, g := range m.match([]byte(key)) {
			got = append(got, fmt.Sprint(g.span))
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%q: got %v, want %v", key, got, want)
		}
		for span, g := range spans {
			if contains(span, []byte(key)) != span.Contains(key) {
				t.Fatalf("contains(%v, %q)", span, key)
			}
			m.remove(g)
		}
		if len(m.single) != 0 || m.ranges != nil {
			t.Fatal("an empty matcher is not empty")
		}
	})
}

func TestBatchesHoldTheGroupsEventsOfEachCommitInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m matcher
		var groups []*group
		spans := []mvcc.Span{mvcc.Single("b"), {From: "a", To: "c"}, {From: "b", Open: true}, {From: "c", To: "d"}}
		for _, s := range spans {
			groups = append(groups, m.group(s))
		}
		var commits []*commit
		want := make(map[*group]string)
		for revision := range int64(rapid.IntRange(0, 4).Draw(t, "commits")) {
			var c Commit
			c.Revision = revision + 1
			for _, key := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 6).Draw(t, "keys") {
				c.Events = append(c.Events, Event{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: c.Revision}})
			}
			commits = append(commits, newCommit(c))
			for _, g := range groups {
				var keys []string
				for _, e := range c.Events {
					if g.span.Contains(string(e.Kv.Key)) {
						keys = append(keys, string(e.Kv.Key))
					}
				}
				if keys != nil {
					want[g] += fmt.Sprint(c.Revision, keys)
				}
			}
		}
		touched := m.assemble(nil, commits...)
		for _, g := range groups {
			got := ""
			for _, p := range g.batch {
				var keys []string
				bytes := 0
				for _, e := range p.entries {
					keys = append(keys, string(e.key()))
					bytes += e.bytes
				}
				if bytes != p.bytes {
					t.Fatalf("%d bytes, counted %d", bytes, p.bytes)
				}
				got += fmt.Sprint(p.commit.revision, keys)
			}
			if got != want[g] || slices.Contains(touched, g) != (got != "") {
				t.Fatalf("%v: got %q, want %q", g.span, got, want[g])
			}
		}
	})
}
