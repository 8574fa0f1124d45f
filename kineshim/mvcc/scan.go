package mvcc

import (
	"math"
	"sync"
)

const (
	// pageKeys is the most keys that are looked at under the lock at a time: some tens of microseconds, which is what a
	// write may have to wait for a reader.
	pageKeys = 512
	// firstPageKeys is for the many spans that hold few keys, or whose reader stops soon. Each page is four times larger.
	firstPageKeys = 32
)

// page is a buffer for the items of one page.
type page [pageKeys]Item

var pages = sync.Pool{New: func() any { return new(page) }}

// Ascend calls f with the keys of the span that live at revision at, in key order, until f returns false. The lock is taken
// for a bounded number of keys at a time, and f is called without it: f may call any method. All calls see the same
// revision, whatever is appended meanwhile, and whatever is pruned if it was garbage at `at`.
func (x *Index) Ascend(s Span, at int64, f func(Item) bool) {
	if s.Empty() {
		return
	}
	buf := pages.Get().(*page)
	for most := firstPageKeys; ; most = min(4*most, pageKeys) {
		n, next, more := x.page(buf[:0:most], s, at)
		for i := range buf[:n] {
			if !f(buf[i]) {
				more = false
				break
			}
		}
		if !more {
			break
		}
		s.From = next
	}
	pages.Put(buf) // not if f panics
}

// AscendHead is Ascend at the head: with the changes that are not yet committed. For the writer. f must not call Append.
func (x *Index) AscendHead(s Span, f func(Item) bool) { x.Ascend(s, math.MaxInt64, f) }

// page looks at as many keys of the span, at most, as dst has capacity, and fills in those that live at `at`. It returns
// their number and, if there is more, from which key to go on.
func (x *Index) page(dst []Item, s Span, at int64) (n int, next string, more bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	left := cap(dst)
	l := x.tree.leafFor(s.From)
	for i := l.lower(s.From); l != nil; i, l = 0, l.next {
		end, last := len(l.keys), l.next == nil
		if !s.Open && end > 0 && l.keys[end-1] >= s.To {
			end, last = l.lower(s.To), true
		}
		for ; i < end; i++ {
			if left == 0 {
				return len(dst), l.keys[i], true
			}
			left--
			if v := l.recs[i].at(at); v != nil && !v.dead() {
				dst = append(dst, v.item(l.keys[i]))
			}
		}
		if last {
			break
		}
	}
	return len(dst), "", false
}
