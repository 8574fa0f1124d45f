package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"kineshim/failover/disk"

	"golang.org/x/sys/unix"
)

// localDisk is this machine's.
type localDisk struct{}

// Space asks the file system.
func (localDisk) Space(dir string) (Space, error) {
	s, err := disk.Look(dir)
	if err != nil {
		return Space{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Space{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	kind := uint32(fs.Type) // on 32-bit machines it is signed, and too small for some of the constants
	return Space{State: s, Inodes: fs.Files, FreeInodes: fs.Ffree, InMemory: kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC}, nil
}

// Sync overwrites the same block of a file, as PostgreSQL does with WAL that it has made before: so what is measured is the disk, and not how a file
// system makes files longer. The first write, which does that, is not counted.
func (localDisk) Sync(ctx context.Context, dir string) (took []time.Duration, err error) {
	f, err := os.CreateTemp(dir, "doctor-*.tmp")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, syncBytes)
	if _, err = f.WriteAt(block, 0); err == nil {
		err = f.Sync()
	}
	for i := 0; i < syncTimes && err == nil && ctx.Err() == nil; i++ {
		block[0] = byte(i)
		began := time.Now()
		if _, err = f.WriteAt(block, 0); err == nil {
			err = fdatasync(f)
		}
		if err == nil {
			took = append(took, time.Since(began))
		}
	}
	return took, err
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
