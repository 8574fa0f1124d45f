package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// Files tells owners and modes.
type Files interface {
	// Stat follows links, as whoever opens the file does. The error is fs.ErrNotExist where there is nothing.
	Stat(path string) (Stat, error)
}

// Stat is what decides who may use a file.
type Stat struct {
	UID, GID int
	Mode     fs.FileMode
}

// Users knows the accounts of this machine.
type Users interface {
	ByName(name string) (User, error)
	ByID(uid int) (User, error)
}

// User is an account with all its groups.
type User struct {
	Name string
	UID  int
	GIDs []int
	// ReadsAll: it may read all files and enter all directories (CAP_DAC_READ_SEARCH).
	ReadsAll bool
}

// root may use everything.
func (u User) root() bool { return u.UID == 0 }

// may says whether the mode lets the user do what one bit for others, 4 read, 2 write, 1 enter or run, stands for. Access control lists are not looked at.
func (u User) may(s Stat, bit fs.FileMode) bool {
	switch {
	case u.root():
		return true
	case s.UID == u.UID:
		return s.Mode&(bit<<6) != 0
	case slices.Contains(u.GIDs, s.GID):
		return s.Mode&(bit<<3) != 0
	}
	return s.Mode&bit != 0
}

// reach says why the user cannot use the file as the bit says; nil: he can. The error names the first directory on the way that he cannot enter.
func reach(files Files, u User, path string, bit fs.FileMode) error {
	var way []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		way = append(way, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	slices.Reverse(way)
	for _, dir := range way {
		s, err := files.Stat(dir)
		if err != nil {
			return err
		}
		if !u.ReadsAll && !u.may(s, 1) {
			return &denied{u.Name, "enter", dir, 1, s}
		}
	}
	s, err := files.Stat(path)
	if err != nil {
		return err
	}
	if !u.may(s, bit) && !(u.ReadsAll && bit == 4) {
		return &denied{u.Name, map[fs.FileMode]string{4: "read", 2: "write", 1: "run"}[bit], path, bit, s}
	}
	return nil
}

// denied is a file that a user may not use.
type denied struct {
	user, verb, path string
	bit              fs.FileMode
	stat             Stat
}

func (d *denied) Error() string {
	return fmt.Sprintf("%s cannot %s %s (mode %04o)", d.user, d.verb, d.path, d.stat.Mode.Perm())
}

// remedy lets the user use the file, and takes it from nobody.
func (d *denied) remedy() string {
	switch others := d.stat.GID != 0; {
	case others && d.stat.Mode&(d.bit<<3) != 0:
		return fmt.Sprintf("usermod -aG $(stat -c %%G %s) %s, and restart its service", d.path, d.user)
	case d.verb == "enter" && (others || d.path == "/root"):
		return fmt.Sprintf("others use %s: put a copy where %s may read it, as in /etc/kineshim, and name that", d.path, d.user)
	case d.verb == "read":
		return fmt.Sprintf("chgrp %s %s && chmod 640 %s", d.user, d.path, d.path)
	}
	return fmt.Sprintf("chgrp %s %s && chmod 750 %s", d.user, d.path, d.path)
}

// remedyOf is what to do about an error of reach.
func remedyOf(err error) string {
	var d *denied
	switch {
	case errors.As(err, &d):
		return d.remedy()
	case errors.Is(err, fs.ErrNotExist):
		return "correct its path in the configuration, or put the file there"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root: sudo shimctl doctor"
	}
	return ""
}
