package raftwitness

import (
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// writeDurably replaces the file as a whole. When it returns nil, a power cut does not undo it: the rename is on disk too.
func writeDurably(path string, b []byte) error {
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
