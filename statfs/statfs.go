// Package statfs says how much room a file system has.
package statfs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Space is what is free for an ordinary user on the file system of a directory, and how large it is, in bytes.
func Space(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	for {
		if err = unix.Statfs(dir, &s); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	unit := int64(s.Frsize)
	if unit == 0 {
		unit = int64(s.Bsize)
	}
	return int64(s.Bavail) * unit, int64(s.Blocks) * unit, nil
}
