package native

import (
	"context"
	"testing"
)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// One whose caller has gone must not wait its turn, only to do for nobody what takes an hour.
func TestWhoHasGoneTakesNoSlot(t *testing.T) {
	var s slot
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // a select among ready cases takes any of them
		if err := s.take(gone, t.Context()); err == nil {
			t.Fatal("taken")
		}
	}
	if err := s.take(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	leaving, leave := context.WithCancel(t.Context())
	go func() { waiting <- s.take(leaving, t.Context()) }()
	leave()
	if err := <-waiting; err == nil {
		t.Error("two have it")
	}
	s.leave()
	if err := s.take(t.Context(), t.Context()); err != nil {
		t.Error(err)
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

// A compactor that was interrupted while it waited leaves the readers to the next one.
func TestReadersAreWaitedForWhoeverBeganToWait(t *testing.T) {
	var h holds
	reader := h.enter()
	abandoned, ended := h.next(), h.next()
	if isClosed(abandoned) || isClosed(ended) {
		t.Fatal("one is still reading that began before both")
	}
	h.leave(reader)
	if !isClosed(abandoned) || !isClosed(ended) {
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
