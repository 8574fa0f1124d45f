// Package ownership gives the files that root makes for a service to the user that the service runs as.
//
// The rule: the owner of the data directory is the user of the service. The package makes the directory, for the user that its unit
// names; a directory that root owns, or that is not there yet, belongs to a service that runs as root, and nothing needs to be given away.
// What root makes in the data directory, as `kineshim init` does, goes to that owner; a configuration stays root's, so that the service
// cannot change it, and is readable for the owner's group.
package ownership

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Give gives to the owner of the data directory all in it that belongs to root. It does nothing unless root calls it.
//
// The owner may change the directory meanwhile: so nothing is followed that leads out of it, and a file that has another name too, which
// could be anywhere, is left alone, which is an error.
func Give(dataDir string) error {
	uid, gid, err := owner(dataDir)
	if err != nil || uid == 0 {
		return err
	}
	root, err := os.OpenRoot(dataDir)
	if err != nil {
		return fmt.Errorf("give files to their owner: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("give files to their owner: %w", err)
		}
		fi, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("give files to their owner: %w", err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Uid != 0 {
			return nil
		}
		if fi.Mode().IsRegular() && st.Nlink > 1 {
			return fmt.Errorf("give files to their owner: %s in %s has another name somewhere: remove it", name, dataDir)
		}
		if err := root.Lchown(name, uid, gid); err != nil {
			return fmt.Errorf("give files to their owner: %w", err)
		}
		return nil
	})
}

// Share makes a configuration readable for the group of the data directory's owner, if it is root's and for root alone. It does nothing unless root calls it.
func Share(config, dataDir string) error {
	uid, gid, err := owner(dataDir)
	if err != nil || uid == 0 {
		return err
	}
	fi, err := os.Stat(config)
	if err != nil {
		return fmt.Errorf("let the service read its configuration: %w", err)
	}
	const groupReads, othersRead = 0o040, 0o004
	st := fi.Sys().(*syscall.Stat_t)
	if st.Uid != 0 || fi.Mode()&othersRead != 0 || fi.Mode()&groupReads != 0 && st.Gid != 0 { // for the service already, or for others whom somebody has chosen
		return nil
	}
	if err := os.Chown(config, 0, gid); err != nil {
		return fmt.Errorf("let the service read its configuration: %w", err)
	}
	if err := os.Chmod(config, fi.Mode().Perm()|groupReads); err != nil {
		return fmt.Errorf("let the service read its configuration: %w", err)
	}
	return nil
}

// Owner is to whom what root makes in the data directory is to belong, for chown: -1 is the caller.
func Owner(dataDir string) (uid, gid int, err error) {
	if uid, gid, err = owner(dataDir); uid == 0 {
		return -1, -1, err
	}
	return uid, gid, err
}

// User is the name of the user that the service runs as: the data directory's owner. "": root calls and owns it, or it is not there yet, or another user calls.
func User(dataDir string) (string, error) {
	uid, _, err := owner(dataDir)
	if err != nil || uid == 0 {
		return "", err
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return "", fmt.Errorf("find the owner of the data directory: %w", err)
	}
	return u.Username, nil
}

// owner is whom files are given to; 0: nobody but root.
func owner(dataDir string) (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return 0, 0, nil
	}
	fi, err := os.Stat(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find the owner of the data directory: %w", err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid), nil
}
