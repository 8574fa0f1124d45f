package postgres

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// What is left of two kineshims that were killed: only the one whose directory it is is cleaned up after.
func TestCleanUpEndsWhatIsLeftInThisDirectoryOnly(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	other := newNode(t, freePort(t), 1).withData(ctx)
	parent, otherParent := startOrphanParent(t, a), startOrphanParent(t, other)
	if _, err := a.CleanUp(ctx); !errors.Is(err, ErrInUse) {
		t.Errorf("beside a living kineshim: %v", err)
	}
	for _, p := range a.mustProcesses() { // frozen, they outlive their parent
		freezeProcess(t, p.pid)
	}
	for _, p := range other.mustProcesses() {
		freezeProcess(t, p.pid)
	}
	check(t, "kill", parent.Process.Kill())
	parent.Wait()
	check(t, "kill", otherParent.Process.Kill())
	otherParent.Wait()
	left, others := a.mustProcesses(), other.mustProcesses()
	if len(left) < 3 || len(others) < 3 {
		t.Fatalf("left: %v and %v: the test shows nothing", left, others)
	}
	began := time.Now()
	ended, err := a.CleanUp(ctx)
	check(t, "clean up", err)
	if len(ended) != len(left) || ended[0] != fmt.Sprintf("postgres[%d]", left[0].pid) {
		t.Errorf("ended %v, left were %v", ended, left)
	}
	if took := time.Since(began); took > killWithin {
		t.Errorf("it took %v", took)
	}
	if found := a.mustProcesses(); len(found) != 0 {
		t.Errorf("still there: %v", found)
	}
	if found := other.mustProcesses(); len(found) != len(others) {
		t.Errorf("of another directory's %v only %v are left", others, found)
	}
	ended, err = a.CleanUp(ctx)
	if err != nil || len(ended) != 0 {
		t.Errorf("again: ended %v, %v", ended, err)
	}
	check(t, "close", a.Close(ctx))
	_, err = other.CleanUp(ctx)
	check(t, "clean up the other one", err)
}

// A service's unit makes the score low, which takes CAP_SYS_RESOURCE. Here it is made high: what matters is that the children's is another one, 0.
func TestPostmasterKeepsItsOOMScoreAndItsChildrenDoNot(t *testing.T) {
	const kineshims, file = "500\n", "/proc/self/oom_score_adj"
	was, err := os.ReadFile(file)
	check(t, "read", err)
	if string(was) != "0\n" {
		t.Skipf("SKIPPED: the OOM score is %s here: without privileges it cannot be changed and put back", was)
	}
	check(t, "write", os.WriteFile(file, []byte(kineshims), 0))
	defer os.WriteFile(file, was, 0)
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	check(t, "start", a.Start(ctx, nil))
	found := a.mustProcesses()
	if len(found) < 3 {
		t.Fatalf("processes: %v", found)
	}
	for i, p := range found {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.pid))
		check(t, "read", err)
		want := "0\n"
		if i == 0 {
			want = kineshims
		}
		if string(b) != want {
			t.Errorf("process %d of %d has %s, want %s", i, len(found), strings.TrimSpace(string(b)), strings.TrimSpace(want))
		}
	}
}
