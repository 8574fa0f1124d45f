package auth

import (
	"bytes"

	"go.etcd.io/etcd/api/v3/authpb"
)

// interval are the keys from begin on, before end. An empty end, or begin, is greater than every key, as in etcd's BytesAffineComparable.
type interval struct{ begin, end []byte }

// openEnd is how requests and permissions write that a range has no end.
func openEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// span is what a request names: one key if there is no end.
func span(key, end []byte) interval {
	switch {
	case len(end) == 0:
		return interval{key, append(bytes.Clone(key), 0)}
	case openEnd(end):
		return interval{key, nil}
	}
	return interval{key, end}
}

func permitted(p *authpb.Permission) interval { return span(p.Key, p.RangeEnd) }

// compareEnds compares two ends of intervals.
func compareEnds(a, b []byte) int {
	switch {
	case len(a) == 0 && len(b) == 0:
		return 0
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return bytes.Compare(a, b)
}

func compareIntervals(a, b interval) int {
	if c := compareEnds(a.begin, b.begin); c != 0 {
		return c
	}
	return compareEnds(a.end, b.end)
}

// meets says whether a request's interval and this one have keys in common. Requests for a range that ends before it begins are answered as etcd's
// interval tree does: nothing is in them.
func (i interval) meets(asked interval) bool {
	left := compareEnds(asked.begin, i.begin) < 0 && compareEnds(asked.end, i.begin) <= 0
	return !left && compareEnds(asked.begin, i.end) < 0
}

// meetsAny is etcd's question about a single key.
func meetsAny(sorted []interval, one interval) bool {
	for _, i := range sorted {
		if i.meets(one) {
			return true
		}
	}
	return false
}

// covers is etcd's question about a range: whether those of the sorted intervals that meet it cover it without a gap.
func covers(sorted []interval, all interval) bool {
	var reached []byte
	begun := false
	for _, i := range sorted {
		switch {
		case !i.meets(all):
			continue
		case !begun && compareEnds(i.begin, all.begin) > 0:
			return false
		case !begun:
			begun, reached = true, i.end
		case compareEnds(reached, i.begin) < 0:
			return false
		case compareEnds(i.end, reached) > 0:
			reached = i.end
		}
	}
	return begun && compareEnds(reached, all.end) >= 0
}

// validPermission says whether etcd takes a permission for the range.
func validPermission(key, end []byte) bool {
	return len(key) > 0 && (len(end) == 0 || openEnd(end) || bytes.Compare(key, end) < 0)
}
