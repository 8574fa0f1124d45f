package disk

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const gb = 1 << 30

func TestRoomHasHysteresis(t *testing.T) {
	var s State
	low := lowMark(3 * gb)
	for i, step := range []struct {
		free             int64
		low, full, roomy bool
	}{
		{gb, false, false, true},
		{2*low - 1, false, false, false},
		{low, false, false, false},
		{low - 1, true, false, false},
		{low + low/4, true, false, false}, // not yet well again
		{full - 1, true, true, false},
		{full + 1, true, true, false}, // nor this
		{low, true, true, false},
		{low / 2 * 3, false, false, false},
		{2 * low, false, false, true},
	} {
		s.room(step.free, 3*gb)
		if s.Low != step.low || s.Full != step.full || s.Roomy != step.roomy {
			t.Errorf("step %d, %d bytes free: %+v", i, step.free, s)
		}
		if (s.Trouble() != "") != step.low {
			t.Errorf("step %d: trouble %q", i, s.Trouble())
		}
	}
}

// The role must have gone elsewhere before the engine refuses writes, whose mark is a twentieth, 64 MiB at least and 1 GiB at most.
func TestLowComesBeforeTheEngineRefusesWrites(t *testing.T) {
	for _, total := range []int64{gb / 4, gb, 3 * gb, 10 * gb, 30 * gb, 1000 * gb} {
		refuses := max(64<<20, min(total/20, gb))
		if low := lowMark(total); low < refuses/4*5 {
			t.Errorf("of %d MB, %d MB are low, and %d MB make the engine refuse writes", total>>20, low>>20, refuses>>20)
		}
		if refuses < full {
			t.Errorf("of %d MB: full before writes are refused", total>>20)
		}
	}
}

func TestWritesThatFailOrHangAreFailingAndAFullDiskIsNot(t *testing.T) {
	w := &Watch{}
	look := func(err error, done bool) string {
		w.begin()
		w.take(err, done, gb, 2*gb, nil)
		return w.State().Failing
	}
	for _, err := range []error{nil, unix.ENOSPC, unix.EDQUOT} {
		if f := look(err, true); f != "" {
			t.Errorf("%v: failing: %s", err, f)
		}
	}
	for _, err := range []error{unix.EROFS, unix.EIO} {
		if f := look(err, true); !strings.Contains(f, err.Error()) {
			t.Errorf("%v: failing: %q", err, f)
		}
	}
	look(nil, true)
	if f := look(nil, false); f != "" {
		t.Errorf("a write that has just begun: %s", f)
	}
	w.began = time.Now().Add(-hungAfter - time.Second)
	if f := look(nil, false); !strings.Contains(f, "hanging") {
		t.Errorf("a write that hangs: %q", f)
	}
	if f := look(nil, true); f != "" {
		t.Errorf("it went through in the end: %q", f)
	}
}

func TestRealDiskIsWatched(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	w := &Watch{Dir: dir, Data: filepath.Join(dir, "none")}
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	for end := time.Now().Add(20 * time.Second); w.State().Total == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is known of it")
		}
	}
	cancel()
	<-done
	if s := w.State(); s.Failing != "" || s.Free <= 0 || s.Free > s.Total {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(dir, probeName)); err != nil {
		t.Error(err)
	}
}

func TestRefusedIsTheEnginesMark(t *testing.T) {
	const grain = 64 // bytes, of rounding
	for _, total := range []int64{gb / 4, gb, 3 * gb, 10 * gb, 30 * gb, 1000 * gb} {
		refuses := max(64<<20, min(total/20, gb))
		below, above := State{Free: refuses - grain, Total: total}, State{Free: refuses + grain, Total: total}
		if !below.Refused() || above.Refused() {
			t.Errorf("of %d MB, the engine refuses writes below %d MB, here it is %d", total>>20, refuses>>20, below.RefusedMark()>>20)
		}
	}
}

func TestLookSeesTheRoomThatThereIs(t *testing.T) {
	s, err := Look(t.TempDir())
	if err != nil || s.Total == 0 || s.Free > s.Total || s.Low != (s.Free < s.LowMark()) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Look(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}
