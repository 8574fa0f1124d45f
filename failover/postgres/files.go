package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// statePath is where this package keeps a file.
func (s *Server) statePath(name string) string {
	return filepath.Join(s.cfg.StateDir, "postgres", name)
}

// prepareDirs makes the directories that PostgreSQL needs besides its data directory, with their owner and mode, and claims
// them for this process.
func (s *Server) prepareDirs() error {
	if err := os.MkdirAll(filepath.Dir(s.cfg.DataDir), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.StateDir, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{s.statePath(""), s.cfg.SocketDir} {
		if err := s.makeOwnDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{filepath.Dir(s.cfg.DataDir), s.statePath(""), s.cfg.SocketDir} {
		if err := s.usr.canTraverse(dir); err != nil {
			return err
		}
	}
	return s.own()
}

// makeOwnDir makes a directory that only PostgreSQL's user (and root) can enter.
func (s *Server) makeOwnDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chown(dir, s.usr.uid, s.usr.gid); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// writeDurably replaces a file so that after a power loss it holds either the old or the new content. PostgreSQL's user
// owns it and nobody else can read it.
func (s *Server) writeDurably(path string, content []byte) error {
	return s.replaceFile(path, content, true)
}

// writeConfig is writeDurably without the wait for the disk, for what every start writes anew.
func (s *Server) writeConfig(path string, content []byte) error {
	return s.replaceFile(path, content, false)
}

func (s *Server) replaceFile(path string, content []byte, durable bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Chown(s.usr.uid, s.usr.gid); err != nil {
		return err
	}
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil || !durable {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// removeDurably removes a file, which need not exist, so that it does not come back after a power loss.
func removeDurably(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the directory's entries durable.
func syncDir(dir string) error {
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

// exists reports whether there is anything at path. A directory without entries counts as nothing.
func exists(path string) (bool, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !fi.IsDir() {
		return true, nil
	}
	entries, err := os.ReadDir(path)
	return len(entries) > 0, err
}

// own makes this Server the only one that touches the data directory, until Close or the process's end: two kineshims with one configuration
// would kill each other's PostgreSQL. ErrInUse if another was first.
func (s *Server) own() error {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.lockFile != nil {
		return nil
	}
	f, err := os.OpenFile(s.statePath("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w (%w)", s.statePath("lock"), ErrInUse, err)
	}
	s.lockFile = f
	return nil
}

// disown lets another process, or another Server, have the data directory.
func (s *Server) disown() error {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.lockFile == nil {
		return nil
	}
	err := s.lockFile.Close()
	s.lockFile = nil
	return err
}
