package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kineshim/failover/disk"
)

const mib = 1 << 20

// fakeDisk answers for all directories but those in other.
type fakeDisk struct {
	took  []time.Duration
	err   error
	space Space
	other map[string]Space
	none  error
}

func (d fakeDisk) Sync(context.Context, string) ([]time.Duration, error) { return d.took, d.err }

func (d fakeDisk) Space(dir string) (Space, error) {
	if s, ok := d.other[filepath.Base(dir)]; ok {
		return s, nil
	}
	return d.space, d.none
}

// syncs are so many writes of 1 ms, and then so many slow ones.
func syncs(fast, slow int, d time.Duration) []time.Duration {
	var all []time.Duration
	for range slow {
		all = append(all, d)
	}
	for range fast {
		all = append(all, time.Millisecond)
	}
	return all
}

// state is a disk of so many MiB, as disk.Look sees it.
func state(free, total int64) disk.State {
	s := disk.State{Free: free * mib, Total: total * mib}
	s.Low = s.Free < s.LowMark()
	s.Full = s.Free < 32*mib
	return s
}

func TestDisksThatAreSlowOrFullAreTold(t *testing.T) {
	const roomy, fast = "ok 10.0 GiB free of 20.0 GiB; nearly full below 1.5 GiB", "ok fdatasync of 8 KiB, 100 times: half of them within 1.0 ms, 99 % within 1.0 ms"
	good := fakeDisk{took: syncs(100, 0, 0), space: Space{State: state(10240, 20480), Inodes: 1e6, FreeInodes: 9e5}}
	for name, tc := range map[string]struct {
		spoil func(*fakeDisk)
		want  []string
	}{
		"good":                            {func(*fakeDisk) {}, []string{roomy, fast}},
		"one slow write of a hundred":     {func(d *fakeDisk) { d.took = syncs(99, 1, time.Second) }, []string{roomy, fast}},
		"two slow writes of a hundred":    {func(d *fakeDisk) { d.took = syncs(98, 2, 51*time.Millisecond) }, []string{roomy, "warn 99 % within 51.0 ms: more than 50ms, and each write of a client waits for this on both nodes // iostat"}},
		"a few writes in all the time":    {func(d *fakeDisk) { d.took = syncs(0, 3, time.Second) }, []string{roomy, "warn 3 times: half of them within 1.0 s // iostat"}},
		"no write in all the time":        {func(d *fakeDisk) { d.took = nil }, []string{roomy, "FAIL not one write of 8 KiB has reached the disk within 3s // dmesg"}},
		"read-only":                       {func(d *fakeDisk) { d.err = errors.New("read-only file system") }, []string{roomy, "FAIL takes no writes: read-only // dmesg"}},
		"not root":                        {func(d *fakeDisk) { d.err = fs.ErrPermission }, []string{roomy, "warn not measured // sudo shimctl doctor"}},
		"nearly full":                     {func(d *fakeDisk) { d.space.State = state(1500, 20480) }, []string{"warn nearly full, below 1.5 GiB // du -xsh", fast}},
		"so full that writes are refused": {func(d *fakeDisk) { d.space.State = state(1000, 20480) }, []string{"FAIL below 1.0 GiB writes are refused (NOSPACE) // du -xsh", fast}},
		"full":                            {func(d *fakeDisk) { d.space.State = state(31, 20480) }, []string{"FAIL PostgreSQL may end at any moment // du -xsh", fast}},
		"few inodes":                      {func(d *fakeDisk) { d.space.FreeInodes = 9999 }, []string{roomy, "warn 9999 inodes free of 1000000 // df -i", fast}},
		"no inodes":                       {func(d *fakeDisk) { d.space.FreeInodes = 0 }, []string{roomy, "FAIL 0 inodes free // remove files", fast}},
		"inodes that are not counted":     {func(d *fakeDisk) { d.space.Inodes, d.space.FreeInodes = 0, 0 }, []string{roomy, fast}},
		"in memory":                       {func(d *fakeDisk) { d.space.InMemory = true }, []string{roomy, "warn in memory // data_dir", fast}},
		"PostgreSQL's data elsewhere": {func(d *fakeDisk) { d.other = map[string]Space{"pgdata": {State: state(50, 100)}} },
			[]string{roomy, "FAIL pgdata: 50 MiB free of 100 MiB: below 64 MiB writes are refused // du", fast}},
		"no directory": {func(d *fakeDisk) { d.none = fs.ErrNotExist }, []string{"warn not measured // make it"}},
		"no answer":    {func(d *fakeDisk) { d.none = errors.New("statfs: I/O error") }, []string{"FAIL statfs: I/O error // dmesg", fast}},
	} {
		t.Run(name, func(t *testing.T) {
			d := good
			tc.spoil(&d)
			expect(t, newNode(t).checkDisk(t.Context(), d), tc.want...)
		})
	}
}

// The real probe measures, ends with its context, and leaves nothing.
func TestMeasuringTheDiskLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	took, err := localDisk{}.Sync(ctx, dir)
	if err != nil || len(took) != syncTimes {
		t.Errorf("%d writes, %v", len(took), err)
	}
	cancel()
	if took, err := (localDisk{}).Sync(ctx, dir); err != nil || len(took) != 0 {
		t.Errorf("after its end: %d writes, %v", len(took), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := (localDisk{}).Sync(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	if s, err := (localDisk{}).Space(dir); err != nil || s.Total == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := (localDisk{}).Space(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the room of no directory: %v", err)
	}
}
