// Package durable replaces files so that a power cut leaves the old one or the new one, whole.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Write replaces the file, or makes it, with exactly this mode: that of a file which is there is not kept. When it returns nil, a power cut does not undo it:
// the new name is on disk too.
func Write(path string, content []byte, mode os.FileMode) error {
	return WriteAs(path, content, mode, -1, -1)
}

// WriteAs is Write of a file that belongs to the user and the group from the moment at which it can be seen; -1: the caller's.
func WriteAs(path string, content []byte, mode os.FileMode, uid, gid int) (err error) {
	dir := filepath.Dir(path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }() // nothing is left to do after a success
	if _, err := f.Write(content); err != nil {
		return err
	}
	if uid >= 0 || gid >= 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return Sync(dir)
}

// Sync makes the directory's entries durable.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
