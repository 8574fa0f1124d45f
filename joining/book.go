package joining

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"kineshim/durable"
	"kineshim/ownership"

	"golang.org/x/sys/unix"
)

const (
	foundingFile = "founding.json"
	lockFile     = "founding.lock"
)

// ErrNoFounding reports a data directory in which no cluster is being founded by tokens.
var ErrNoFounding = errors.New("no cluster is being founded here")

// Book is the founder's list on disk. The daemon and a command may use it at the same time.
type Book struct {
	// Dir is the data directory.
	Dir string
}

// Load reads the list.
func (b Book) Load() (*Founding, error) {
	path := filepath.Join(b.Dir, foundingFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNoFounding)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of invitations: %w", err)
	}
	var f Founding
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("read the list of invitations %s: %w", path, err)
	}
	return &f, nil
}

// Save writes the list durably, in place of one that is there, for the data directory's owner: the daemon may read it at any moment.
func (b Book) Save(f *Founding) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("save the list of invitations: %w", err)
	}
	uid, gid, err := ownership.Owner(b.Dir)
	if err == nil {
		err = durable.WriteAs(filepath.Join(b.Dir, foundingFile), append(text, '\n'), 0o600, uid, gid)
	}
	if err != nil {
		return fmt.Errorf("save the list of invitations: %w", err)
	}
	return nil
}

// Change reads the list, has it changed, and saves it if that says so, while nobody else does.
func (b Book) Change(change func(*Founding) (save bool, err error)) (*Founding, error) {
	lock, err := os.OpenFile(filepath.Join(b.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the list of invitations: %w", err)
	}
	defer lock.Close() // and with it the lock
	uid, gid, err := ownership.Owner(b.Dir)
	if err == nil {
		err = lock.Chown(uid, gid)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the list of invitations: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock the list of invitations: %w", err)
	}
	f, err := b.Load()
	if err != nil {
		return nil, err
	}
	save, err := change(f)
	if err != nil || !save {
		return f, err
	}
	return f, b.Save(f)
}

// Remove forgets the list, when nobody needs it any more.
func (b Book) Remove() error {
	for _, name := range []string{foundingFile, lockFile} {
		if err := os.Remove(filepath.Join(b.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the list of invitations: %w", err)
		}
	}
	return nil
}
