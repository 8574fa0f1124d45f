package native

import "testing"

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestCompactorWaitsForTheReadersThatBeganBefore(t *testing.T) {
	var h holds
	first, second := h.enter(), h.enter()
	ended := h.next()
	later := h.enter()
	h.leave(first)
	if isClosed(ended) {
		t.Fatal("one is still reading")
	}
	h.leave(second)
	if !isClosed(ended) {
		t.Fatal("nobody reads any more who began before")
	}
	ended = h.next()
	if isClosed(ended) {
		t.Fatal("the reader that began after the first compaction is not waited for by the second")
	}
	h.leave(later)
	if !isClosed(ended) {
		t.Fatal("nobody reads any more")
	}
}

func TestCompactorDoesNotWaitWithoutReaders(t *testing.T) {
	var h holds
	if !isClosed(h.next()) {
		t.Error("at the start")
	}
	h.leave(h.enter())
	for range 2 {
		if !isClosed(h.next()) {
			t.Error("after a reader")
		}
	}
}
