package raftwitness

import (
	"testing"
	"time"
)

// clock is a clock that tests turn.
type clock struct{ at time.Duration }

func (c *clock) now() time.Duration { return c.at }

func newTestLease() (*lease, *clock) {
	c := &clock{at: time.Hour}
	return newLease(time.Second, c.now), c
}

func TestLeaseIsShorterThanThePromise(t *testing.T) {
	l, c := newTestLease()
	l.contacted("b", 3, c.at)
	if got := l.left(3); got != 700*time.Millisecond {
		t.Errorf("a promise of 1 s gives a lease of %v", got)
	}
	c.at += 699 * time.Millisecond
	if got := l.left(3); got != time.Millisecond {
		t.Error(got)
	}
	c.at += time.Millisecond
	if got := l.left(3); got != 0 {
		t.Error(got)
	}
	c.at += time.Hour
	if got := l.left(3); got != 0 {
		t.Error(got)
	}
}

func TestLeaseCountsFromWhenTheRequestWasSent(t *testing.T) {
	l, c := newTestLease()
	sent := c.at
	c.at += 600 * time.Millisecond // the answer took that long
	l.contacted("b", 3, sent)
	if got := l.left(3); got != 100*time.Millisecond {
		t.Error(got)
	}
	if age, ok := l.age("b", 3); !ok || age != 600*time.Millisecond {
		t.Error(age, ok)
	}
}

func TestThereIsNoLeaseWithoutAContactInTheTerm(t *testing.T) {
	l, c := newTestLease()
	if l.left(0) != 0 || l.left(3) != 0 {
		t.Error("a lease without any contact")
	}
	l.contacted("b", 3, c.at)
	if l.left(2) != 0 || l.left(4) != 0 || l.left(0) != 0 {
		t.Error("a contact of term 3 gives a lease in another")
	}
	if _, ok := l.age("b", 4); ok {
		t.Error("a contact of term 3 has an age in term 4")
	}
	if _, ok := l.age("w", 3); ok {
		t.Error("a voter that never answered has an age")
	}
}

func TestLeaseRestsOnTheNewestContactOfAnyVoter(t *testing.T) {
	l, c := newTestLease()
	l.contacted("b", 3, c.at)
	l.contacted("w", 3, c.at+300*time.Millisecond)
	if got := l.left(3); got != time.Second {
		t.Error(got)
	}
	l.contacted("w", 3, c.at+100*time.Millisecond) // an older answer that came late
	if got := l.left(3); got != time.Second {
		t.Errorf("an answer that came late moved the lease to %v", got)
	}
	l.contacted("w", 2, c.at+time.Hour) // of an older term
	if got := l.left(3); got != time.Second {
		t.Errorf("a contact of an older term moved the lease to %v", got)
	}
	l.contacted("w", 4, c.at) // of a newer term, though sent earlier
	if got, old := l.left(4), l.left(3); got != 700*time.Millisecond || old != 700*time.Millisecond {
		t.Errorf("term 4: %v, term 3 by the other voter: %v", got, old)
	}
}

func TestForfeitedLeaseNeverComesBack(t *testing.T) {
	l, c := newTestLease()
	l.contacted("b", 3, c.at)
	l.forfeit(3)
	if l.left(3) != 0 || !l.isForfeited(3) {
		t.Error("the lease survives")
	}
	c.at += time.Millisecond
	l.contacted("b", 3, c.at)
	l.contacted("w", 3, c.at)
	if l.left(3) != 0 {
		t.Error("a new contact brings it back")
	}
	l.forfeit(2) // late news of an older term
	if !l.isForfeited(3) || !l.isForfeited(1) {
		t.Error("an older term takes the newer one back")
	}
	l.contacted("b", 4, c.at)
	if l.isForfeited(4) || l.left(4) != 700*time.Millisecond {
		t.Error("the next term has no lease")
	}
}

func TestBootTimeMoves(t *testing.T) {
	a := bootTime()
	for deadline := time.Now().Add(time.Second); bootTime() == a; {
		if time.Now().After(deadline) {
			t.Fatal("CLOCK_BOOTTIME stands still")
		}
	}
	if b := bootTime(); a <= 0 || b < a {
		t.Error(a, b)
	}
}

func TestNoLeaseRestsOnAVoterThatWasReplaced(t *testing.T) {
	now := time.Minute
	l := newLease(time.Second, func() time.Duration { return now })
	l.contacted("w-1", 3, now)
	l.contacted("b-1", 3, now-500*time.Millisecond)
	if l.left(3) != 700*time.Millisecond {
		t.Error(l.left(3))
	}
	l.forget(func(server string) bool { return server == "w-1" })
	if l.left(3) != 200*time.Millisecond {
		t.Error(l.left(3))
	}
}
